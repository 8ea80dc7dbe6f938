"""Divide a model's own loop into time slices of the engine's thread.

mlx-audio's models speak and transcribe in one long call. It runs in a greenlet: at a checkpoint the
call is suspended, with its whole stack, and the engine takes a step of every text model. All of it
happens on the engine's thread, so that mlx is used by one thread only.

A checkpoint follows each module with a large output, or some milliseconds of smaller ones. Its
output is evaluated there: mlx computes nothing before, and the work of a whole encoder would be one
piece. A function that mlx has compiled calls no module: a checkpoint follows it, too.
"""

# pyright: basic
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from threading import Event
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from greenlet import getcurrent, greenlet

from adapters.mlx.jobs import Pieces

T = TypeVar("T")

_LARGE_BYTES = 256 * 1024
"""An output of more is one of many frames, which takes milliseconds to compute."""
_SECONDS = 0.002
"""Layers of a single token are computed together for this long."""
_COMPILED: type = type(mx.compile(lambda: None))


class StoppedError(BaseException):
    """Ends a call at a checkpoint. No model's `except Exception` keeps it."""


class _Call(greenlet):
    """A call in slices."""

    stopped: Event
    last = 0.0
    """Time of its last checkpoint."""


def in_slices(work: Callable[[], T], stopped: Event) -> Pieces[T]:
    """Run `work`, which ends at its next checkpoint once `stopped` is set.

    Raises:
        StoppedError: it was stopped.
    """
    call = _Call(work)
    call.stopped = stopped
    stream = mx.default_stream(mx.default_device())
    try:
        result = _resume(call)
        while not call.dead:
            # Code that runs under `with mx.stream(...)` must not lend its stream to the engine.
            theirs = mx.default_stream(mx.default_device())
            mx.set_default_stream(stream)
            yield
            mx.set_default_stream(theirs)
            result = _resume(call)
        return result
    finally:
        if not call.dead:
            with suppress(StoppedError):
                call.throw(StoppedError())
        mx.set_default_stream(stream)


def _resume(call: _Call) -> Any:
    call.parent = getcurrent()
    call.last = time.perf_counter()
    return call.switch()


def checkpoint() -> None:
    """Let other work have the thread, if this is a call in slices.

    Raises:
        StoppedError: the call was stopped.
    """
    call = getcurrent()
    if isinstance(call, _Call) and call.parent is not None:
        if call.stopped.is_set():
            raise StoppedError
        call.parent.switch()
        if call.stopped.is_set():
            raise StoppedError


def add_checkpoints(model: nn.Module) -> None:
    """Put a checkpoint after each module of `model`, and each compiled function that one keeps."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, _COMPILED):
                setattr(module, name, _followed(value))
        kind = type(module)
        if any("__call__" in base.__dict__ for base in kind.__mro__):
            module.__class__ = _with_checkpoint(kind)


@cache
def _with_checkpoint(kind: type[nn.Module]) -> type[nn.Module]:
    own = kind.__call__

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = own(self, *args, **kwargs)
        _after(output)
        return output

    # The same name, for code that asks for it; `isinstance` holds for a subclass.
    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def _followed(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        output = compiled(*args, **kwargs)
        _after(output)
        return output

    return call


def _after(output: Any) -> None:
    call = getcurrent()
    if not isinstance(call, _Call):
        return
    arrays = list(_arrays(output))
    is_large = any(array.nbytes > _LARGE_BYTES for array in arrays)
    if not arrays or not (is_large or time.perf_counter() - call.last > _SECONDS):
        return
    try:
        mx.eval(arrays)
    except ValueError:  # mlx traces the call, for `mx.compile`: it computes nothing now.
        return
    checkpoint()


def _arrays(value: Any) -> "list[mx.array]":
    if isinstance(value, mx.array):
        return [value]
    if isinstance(value, tuple | list):
        return [array for part in value for array in _arrays(part)]
    if isinstance(value, dict):
        return [array for part in value.values() for array in _arrays(part)]
    return []
