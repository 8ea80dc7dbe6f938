"""Threads that hold what MLX keeps for a thread until the process ends."""

import subprocess
import sys
import threading

import pytest

from adapters.mlx.engine.lasting_thread import run_on_lasting_thread

_END = """
import mlx.core as mx
from adapters.mlx.engine.lasting_thread import run_on_lasting_thread

def work():
    global compiled
    key = type("Key", (str,), {})("sum")
    compiled = mx.compile(lambda a: {key: a + 1})
    mx.eval(compiled(mx.ones(3)))

run_on_lasting_thread(work).result()
"""


@pytest.mark.process
def test_process_ends_well_right_after_a_compiled_function() -> None:
    done = subprocess.run([sys.executable, "-c", _END], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_idle_thread_works_again() -> None:
    threads: list[threading.Thread] = []
    for _ in range(2):
        run_on_lasting_thread(lambda: threads.append(threading.current_thread())).result()
    assert threads[0] is threads[1]
