"""Threads that work one after another for the engines of a process, and never end.

MLX keeps its compiled functions for each thread, and with them Python objects. When a thread ends
they are released without the interpreter's lock: where Python itself ends meanwhile, the process
aborts ("terminate called without an active exception").

Source: `PyCompiledFun::AttachedData` in MLX 0.32's `python/src/transforms.cpp`, and the
`thread_local` cache in its `mlx/compile.cpp`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

_Work = tuple[Callable[[], None], "Future[None]"]
_idle: list["SimpleQueue[_Work]"] = []


def run_on_lasting_thread(work: Callable[[], None]) -> "Future[None]":
    """Run `work`, which raises nothing, on an idle thread or on a new one.

    The future is done when it has ended.

    Raises:
        RuntimeError: a thread is needed, and cannot be started.
    """
    ended: Future[None] = Future()
    try:
        queue = _idle.pop()
    except IndexError:
        queue = SimpleQueue[_Work]()
        threading.Thread(target=_serve, args=(queue,), name="mlx-engine", daemon=True).start()
    queue.put((work, ended))
    return ended


def _serve(queue: "SimpleQueue[_Work]") -> None:
    while True:
        work, ended = queue.get()
        work()
        _idle.append(queue)
        ended.set_result(None)
        del work, ended
