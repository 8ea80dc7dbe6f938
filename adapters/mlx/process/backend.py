"""The backend for MLX in a process of its own: `backends.mlx.engine: process`.

A native abort (Metal's, where memory runs out) ends that process only: each request in it gets an
error at once, and another process is started.
"""

import asyncio
import logging
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from msgspec.structs import replace

from adapters.audio import (
    AudioSink,
    SpeechEvent,
    SpeechRequest,
    TranscriptEvent,
    TranscriptionRequest,
    Voice,
)
from adapters.backend import (
    Description,
    Embeddings,
    Health,
    Model,
    Progress,
    RunningModel,
    TokenCount,
    refuse_unsupported,
)
from adapters.config import MLXConfig
from adapters.errors import BackendError, BackendTimeoutError, BackendUnavailableError
from adapters.events import Event, Started
from adapters.features import MLX
from adapters.memory import Footprint
from adapters.mlx.backend import engine_version
from adapters.mlx.engine.engine import Engine
from adapters.mlx.process.memory import ProcessMemory
from adapters.mlx.process.methods import Budget, Held, LogLine, Opening, State
from adapters.mlx.process.peer import Peer, Write
from adapters.mlx.prompt.raw import reject_conflicts
from adapters.mlx.restarts import Restarts
from adapters.request import EmbeddingRequest, Feature, GenerationRequest
from adapters.sink import Sink

logger = logging.getLogger(__name__)
_EMBEDDING_TOKENS: frozenset[Feature] = frozenset({"embedding_tokens"})
_START_SECONDS = 60.0
"""Time for a process to start on a busy machine; it imports no mlx before a load."""
_HEALTH_SECONDS = 0.5
"""Less than the server waits for the health of a backend: a process that hangs is to be named."""
_WATCH_SECONDS = 10.0
"""Between two questions whether the process responds, while a call waits for it."""
_LAST_SECONDS = 5.0
"""For its response where the server itself may have been stopped: timers go off before sockets."""
_CLOSING_SECONDS = 6.0
_REAP_SECONDS = 0.5
"""Time between the end of the connection and that of the process."""


class _Child:
    """A started process and the connection to it."""

    def __init__(self, process: Process, peer: Peer) -> None:
        self.process = process
        self.peer = peer
        self.watching: asyncio.Task[None] | None = None
        """Ends the process if it does not respond."""
        self.fault = ""
        """The reason why the server has ended it, as a sentence."""

    def end(self, fault: str) -> None:
        """Kill the process, which may be stopped or hang in native code."""
        self.fault = fault
        with suppress(ProcessLookupError):
            self.process.kill()


class MLXProcessBackend:
    kind = "mlx"
    naming = MLXConfig.naming
    honours: frozenset[Feature] = MLX
    """The same as `MLXBackend.honours`."""

    def __init__(self, config: MLXConfig) -> None:
        self._config = config
        if config.embedding_token_ids:
            self.honours = MLX.union(_EMBEDDING_TOKENS)
        self._child: _Child | None = None
        self._starting: asyncio.Task[_Child] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = State()
        self._pinned: set[str] = set()
        self._restarts = Restarts(time.monotonic)
        self._closing = False
        self._unused = Engine(config)
        """Never started: its counters are those of an engine without work."""
        self.memory_user = ProcessMemory(self)

    # What it knows itself.

    @property
    def version(self) -> str | None:
        return engine_version()

    def check(self, request: GenerationRequest) -> None:
        reject_conflicts(request)

    def is_well(self, model: str) -> bool:
        state = self._state
        return self._restarts.breaker != "open" and state.well and model not in state.unwell

    def loading(self) -> dict[str, Progress]:
        return self._state.loading

    def withheld(self) -> dict[str, str]:
        return self._config.withheld()

    def unusable(self) -> dict[str, str]:
        return self._state.unusable

    async def health(self) -> Health:
        health = await self._health_of_child()
        restarts = self._restarts.total + health.counters.get("restarts", 0)
        health = replace(health, counters={**health.counters, "restarts": restarts})
        if (trouble := self._restarts.trouble()) is None:
            return health
        return replace(health, ok=False, detail=trouble, breaker=self._restarts.breaker)

    async def _health_of_child(self) -> Health:
        """Ask the process if there is one; it is not started for that."""
        idle = Health(ok=True, counters=self._unused.counters())
        if self._child is None:
            return idle
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                return await self._child.peer.call("health")
        except TimeoutError:
            detail = "The MLX engine's process does not respond."
            return replace(idle, ok=False, detail=detail, breaker="open")
        except BackendError:
            return idle  # It has just ended, which `Restarts` knows.

    # What it forwards.

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        refuse_unsupported(request, self.honours, self.kind)
        reject_conflicts(request)

        def write(event: Event) -> None:
            if not isinstance(event, Started):
                self._restarts.note_success()
            sink.write(event)

        await self.call("generate", request, write=write)

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        refuse_unsupported(request, self.honours, self.kind)
        return await self.call("count_tokens", request)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        refuse_unsupported(request, self.honours, self.kind)
        embeddings: Embeddings = await self.call("embed", request)
        self._restarts.note_success()
        return embeddings

    async def speak(self, request: SpeechRequest, sink: AudioSink[SpeechEvent]) -> None:
        await self._pass_on("speak", request, sink)

    async def transcribe(
        self, request: TranscriptionRequest, sink: AudioSink[TranscriptEvent]
    ) -> None:
        await self._pass_on("transcribe", request, sink)

    async def _pass_on(self, method: str, request: Any, sink: AudioSink[Any]) -> None:
        """Pass on the events of a call to a sink that may have to wait."""
        async with aclosing(self._events(method, request)) as events:
            async for event in events:
                self._restarts.note_success()
                if sink.write(event):
                    await sink.drain()

    async def list_voices(self, model: str) -> list[Voice]:
        return await self.call("list_voices", model)

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        async with aclosing(self._events("pull", model)) as steps:
            async for progress in steps:
                yield progress

    async def _events(self, method: str, argument: Any) -> AsyncGenerator[Any]:
        """Yield what a call writes; closing the generator cancels the call."""
        events: asyncio.Queue[Any] = asyncio.Queue()
        calling = asyncio.create_task(self.call(method, argument, write=events.put_nowait))
        calling.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await calling
        finally:
            calling.cancel()

    async def list_models(self) -> list[Model]:
        return await self.call("list_models")

    async def list_known(self) -> tuple[list[Model], bool]:
        return await self.call("list_known")

    async def describe(self, model: str, *, verbose: bool = False) -> Description:
        return await self.call("describe", model, verbose)

    async def list_running(self) -> list[RunningModel]:
        return await self.call("list_running") if self.is_running else []

    async def delete(self, model: str) -> None:
        await self.call("delete", model)

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        await self.call("load", model, keep_alive)

    async def unload(self, model: str) -> None:
        if self.is_running:
            await self.call("unload", model)

    async def set_pinned(self, model: str, pinned: bool) -> None:
        (self._pinned.add if pinned else self._pinned.discard)(model)
        if self.is_running:
            await self.call("set_pinned", model, pinned)

    # The process.

    @property
    def is_running(self) -> bool:
        return self._child is not None

    async def call(self, method: str, *arguments: Any, write: Write = lambda _: None) -> Any:
        """Call `method` of the process, which is started if it is not running.

        Raises:
            BackendUnavailableError: the process has ended, or cannot be started.
        """
        child = self._child or await self._start()
        return await child.peer.call(method, *arguments, write=write)

    def budget_changed(self) -> None:
        if self._child is not None:
            self._child.peer.notify(Budget(self.memory_user.room.budget))

    async def aclose(self) -> None:
        self._closing = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        if (child := self._child) is not None:
            child.peer.close()
            await _reap(child.process, _CLOSING_SECONDS)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _start(self) -> _Child:
        """Start a process; concurrent calls share the start."""
        self._restarts.require_ready()
        if self._starting is None:
            if self._closing:
                raise BackendUnavailableError("The MLX engine was closed.")
            self._starting = asyncio.create_task(self._open_child())
            self._starting.add_done_callback(self._end_start)
        try:
            return await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._closing:
                raise BackendUnavailableError("The MLX engine was closed.") from None
            raise

    def _end_start(self, task: asyncio.Task[_Child]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # Its callers have it; without any, asyncio would log it.

    async def _open_child(self) -> _Child:
        """
        Raises:
            BackendUnavailableError: the process does not start.
        """
        ours, end = socket.socketpair()
        with end:
            process = await self._spawn(end.fileno())
        ours.setblocking(False)
        peer = Peer({"hold": self._hold}, self._take_notice, lambda: self._note_lost(process, peer))
        await asyncio.get_running_loop().create_unix_connection(lambda: peer, sock=ours)
        room = self.memory_user.room.budget
        level = logging.getLogger().getEffectiveLevel()
        pinned = frozenset(self._pinned)
        opening = Opening(self._config, level, room, self.memory_user.limit, pinned)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await peer.call("open", opening)
        except BaseException as error:
            peer.close()
            if isinstance(error, TimeoutError):
                raise BackendTimeoutError("The MLX engine's process does not start.") from error
            raise
        child = self._child = _Child(process, peer)
        child.watching = asyncio.create_task(self._watch(child))
        return child

    async def _watch(self, child: _Child) -> None:
        """End a process that hangs in a step, or does not respond while a call waits for it."""
        seconds = self._config.stall_seconds
        was_stalled = False
        while True:
            await asyncio.sleep(min(_WATCH_SECONDS, seconds))
            # Once could be a machine that has just been resumed.
            if was_stalled and self._state.stalled:
                child.end(f"A step of MLX took more than {seconds:g} seconds.")
            was_stalled = self._state.stalled
            if child.peer.is_waiting and not await _responds(child, seconds):
                child.end(f"The MLX engine's process did not respond for {seconds:g} seconds.")

    async def _spawn(self, descriptor: int) -> Process:
        # -P: not a folder named `adapters` in the server's working directory.
        command = (sys.executable, "-P", "-m", "adapters.mlx.process", str(descriptor))
        try:
            return await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, pass_fds=(descriptor,), start_new_session=True
            )
        except OSError as error:
            raise BackendUnavailableError(
                f"The MLX engine's process cannot be started: {error.strerror}."
            ) from error

    def _note_lost(self, process: Process, peer: Peer) -> None:
        task = asyncio.create_task(self._recover(process, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recover(self, process: Process, peer: Peer) -> None:
        """Tell the requests of a process that ended, and start another one."""
        fault = ""
        if (child := self._child) is not None and child.process is process:
            self._child, fault = None, child.fault
            if child.watching is not None:
                child.watching.cancel()
        status = await _reap(process, _CLOSING_SECONDS if self._closing else _REAP_SECONDS)
        if self._closing:
            peer.fail(BackendUnavailableError("The MLX engine was closed."))
            return
        reason = fault or f"The MLX engine's process ended ({_describe_status(status)})."
        logger.error("%s Its models have to be loaded anew.", reason)
        self._restarts.note_end(reason)
        self._state = State(unusable=self._state.unusable)
        peer.fail(BackendUnavailableError(f"{reason} It is started anew.", retry_after=1.0))
        with suppress(BackendError):  # The next request gets it.
            await self._start()

    async def _hold(self, write: Write, model: str, footprint: Footprint) -> None:
        """Reserve memory for the process until it cancels the call, or ends."""
        async with self.memory_user.room.hold(model, footprint):
            write(Held())
            await asyncio.Event().wait()

    def _take_notice(self, notice: Any) -> None:
        match notice:
            case State():
                self._state = notice
            case LogLine():
                logging.getLogger(notice.logger).log(notice.level, "%s", notice.text)
            case _:
                pass


async def _responds(child: _Child, seconds: float) -> bool:
    """Return true if the process responds within `seconds`, or has ended."""
    response = asyncio.create_task(_any_response(child))
    try:
        for limit in (seconds, _LAST_SECONDS):
            await asyncio.wait((response,), timeout=limit)
        return response.done()
    finally:
        response.cancel()


async def _any_response(child: _Child) -> None:
    """Wait for any response, or for the end of the process."""
    with suppress(BackendError):
        await child.peer.call("health")


async def _reap(process: Process, seconds: float) -> int:
    """Wait for the end of a process; kill it after `seconds`. Return its status as `Popen` does."""
    try:
        async with asyncio.timeout(seconds):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()


def _describe_status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
