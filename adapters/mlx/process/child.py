"""The engine's process: an `MLXBackend` that the server calls over a socket.

It ends when the socket is closed, so that it never outlives the server.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from msgspec.structs import replace

from adapters.audio import SpeechRequest, TranscriptionRequest
from adapters.errors import BackendError
from adapters.memory import Footprint
from adapters.mlx.backend import MLXBackend
from adapters.mlx.process.methods import (
    OF_BACKEND,
    OF_MEMORY,
    Budget,
    LogLine,
    Opening,
    State,
)
from adapters.mlx.process.peer import Handler, Peer, Write
from adapters.request import EmbeddingRequest, GenerationRequest

logger = logging.getLogger(__name__)
_STATE_SECONDS = 0.1
"""Time between two looks at the state, while a call is running: for the progress of loads."""
_CLOSING_SECONDS = 5.0


def main(descriptor: int) -> None:
    faulthandler.enable()
    # Ctrl-C, `kill` and reloads are for the server, which ends answers first and closes the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_Child().run(socket.socket(fileno=descriptor)))


class _EventSink:
    """Sends events; the server does not wait for slow readers either."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def write(self, event: Any, /) -> bool:
        self._write(event)
        return False

    async def drain(self) -> None:
        """Nothing waits."""


class _Budget:
    """The server's memory budget; see `MemoryBudget`."""

    def __init__(self, peer: Peer, budget: int | None) -> None:
        self._peer = peer
        self.budget = budget

    @asynccontextmanager
    async def hold(self, model: str, footprint: Footprint) -> AsyncGenerator[None]:
        held = asyncio.Event()
        call = self._peer.call("hold", model, footprint, write=lambda _: held.set())
        holding, entering = asyncio.create_task(call), asyncio.create_task(held.wait())
        try:
            await asyncio.wait((holding, entering), return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                holding.result()  # Raises: it ends by its cancellation or an error.
            yield
        finally:
            holding.cancel()
            entering.cancel()


class _LogHandler(logging.Handler):
    """Sends lines to the server's log, from any thread."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        line = LogLine(record.name, record.levelno, self.format(record))
        try:
            self._loop.call_soon_threadsafe(self._peer.notify, line)
        except RuntimeError:
            return  # The loop has ended, and the server with it.


class _Child:
    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self._peer = Peer(self._handlers(), self._take_notice, self._ended.set)
        self._backend: MLXBackend | None = None
        self._budget = _Budget(self._peer, None)
        self._names: set[str] = set()
        """Models that were asked for: their breakers may be open."""
        self._state = State()
        self._calls = 0
        self._busy = asyncio.Event()

    async def run(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._peer, sock=connection)
        watching = asyncio.create_task(self._watch())
        await self._ended.wait()
        watching.cancel()
        try:
            if self._backend is not None:
                async with asyncio.timeout(_CLOSING_SECONDS):
                    await self._backend.aclose()
        finally:
            # A step that hangs keeps its thread: nothing is waited for.
            os._exit(0)

    def _handlers(self) -> dict[str, Handler]:
        own: dict[str, Handler] = {
            "open": self._open,
            "generate": self._generate,
            "speak": self._speak,
            "transcribe": self._transcribe,
            "pull": self._pull,
            "describe": self._describe,
        }
        forwarded = {name: self._forward(name, memory=False) for name in OF_BACKEND}
        of_memory = {name: self._forward(name, memory=True) for name in OF_MEMORY}
        handlers = {**forwarded, **of_memory, **own}
        return {name: self._reporting_state(handler) for name, handler in handlers.items()}

    def _reporting_state(self, handler: Handler) -> Handler:
        """Watch the state while a call is running, and send it before the result."""

        async def run(write: Write, *arguments: Any) -> Any:
            self._calls += 1
            self._busy.set()
            try:
                return await handler(write, *arguments)
            except BackendError:
                raise
            except Exception:
                logger.exception("a call of the server failed")
                raise
            finally:
                self._calls -= 1
                if not self._calls:
                    self._busy.clear()
                self._tell_state()

        return run

    def _forward(self, name: str, *, memory: bool) -> Handler:
        async def run(_write: Write, *arguments: Any) -> Any:
            self._names.update(filter(None, map(_model_of, arguments[:1])))
            return await getattr(self._mlx.memory_user if memory else self._mlx, name)(*arguments)

        return run

    @property
    def _mlx(self) -> MLXBackend:
        if self._backend is None:
            raise RuntimeError("The first call has to be `open`.")
        return self._backend

    async def _open(self, _write: Write, opening: Opening) -> None:
        logging.basicConfig(level=opening.log_level, handlers=[_LogHandler(self._peer)])
        self._backend = MLXBackend(replace(opening.config, engine="thread"))
        self._budget.budget = opening.budget
        self._backend.memory_user.share_budget(self._budget)
        if opening.limit is not None:
            await self._backend.memory_user.confine(opening.limit)
        for model in opening.pinned:
            await self._backend.set_pinned(model, True)

    async def _generate(self, write: Write, request: GenerationRequest) -> None:
        self._names.add(request.model)
        await self._mlx.generate(request, _EventSink(write))

    async def _speak(self, write: Write, request: SpeechRequest) -> None:
        self._names.add(request.model)
        await self._mlx.speak(request, _EventSink(write))

    async def _transcribe(self, write: Write, request: TranscriptionRequest) -> None:
        self._names.add(request.model)
        await self._mlx.transcribe(request, _EventSink(write))

    async def _pull(self, write: Write, model: str) -> None:
        async with aclosing(self._mlx.pull(model)) as steps:
            async for progress in steps:
                write(progress)

    async def _describe(self, _write: Write, model: str, verbose: bool) -> Any:
        return await self._mlx.describe(model, verbose=verbose)

    def _take_notice(self, notice: Any) -> None:
        if isinstance(notice, Budget):
            self._budget.budget = notice.nbytes

    async def _watch(self) -> None:
        while True:
            await self._busy.wait()
            self._tell_state()
            await asyncio.sleep(_STATE_SECONDS)

    def _tell_state(self) -> None:
        """Send the state if it has changed."""
        if (backend := self._backend) is None:
            return
        state = State(
            # A name that no model has: only what concerns all models is left.
            well=backend.is_well(""),
            unwell=frozenset(name for name in self._names if not backend.is_well(name)),
            stalled=backend.is_stalled(),
            loading=backend.loading(),
            unusable=backend.unusable(),
        )
        if state != self._state:
            self._state = state
            self._peer.notify(state)


def _model_of(argument: Any) -> str:
    if isinstance(argument, GenerationRequest | EmbeddingRequest):
        return argument.model
    return argument if isinstance(argument, str) else ""
