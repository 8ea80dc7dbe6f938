"""One end of the connection between the server and the engine's process.

Both ends call methods of each other. Messages of one turn of the event loop are written at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from adapters.errors import BackendError, BackendUnavailableError
from adapters.mlx.process.methods import METHODS, NOTICES
from adapters.mlx.process.wire import (
    Call,
    Cancel,
    Failure,
    Frames,
    Item,
    Message,
    Notice,
    Result,
    to_error,
    to_failure,
    to_frame,
    to_raw,
)

Write = Callable[[Any], object]
"""Takes one item of a call."""
Handler = Callable[..., Awaitable[Any]]
"""Called with a `Write` for its items, and the arguments of the call."""

_arguments = {name: msgspec.msgpack.Decoder(m.arguments) for name, m in METHODS.items()}
_results = {name: msgspec.msgpack.Decoder(m.result) for name, m in METHODS.items()}
_items: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind)
    for method in METHODS.values()
    for kind in method.items
}
_notices = {name: msgspec.msgpack.Decoder(kind) for name, kind in NOTICES.items()}


class _Pending(Struct):
    """A call that this end waits for."""

    method: str
    future: "asyncio.Future[Any]"
    write: Write


class Peer(asyncio.Protocol):
    def __init__(
        self,
        handlers: Mapping[str, Handler],
        take_notice: Callable[[Any], None],
        lost: Callable[[], None],
    ) -> None:
        """`handlers`: the methods that the other end may call. `lost` is called once, when the
        connection has ended, before the calls that wait for it are ended by `fail`."""
        self._handlers = handlers
        self._take_notice = take_notice
        self._lost = lost
        self._frames = Frames()
        self._numbers = 0
        self._pending: dict[int, _Pending] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []

    # Calls to the other end.

    async def call(self, method: str, *arguments: Any, write: Write = lambda _: None) -> Any:
        """Run `method` on the other end, pass its items to `write`, and return its result.
        Cancelling the call stops it there.

        Raises:
            BackendError: what the method raised, or the connection has ended.
            Exception: what `write` raised, which stops the method.
        """
        if self._transport is None:
            raise BackendUnavailableError("The MLX engine's process has ended.", retry_after=1.0)
        self._numbers += 1
        number = self._numbers
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._send(Call(number, method, to_raw(arguments)))
        self._pending[number] = _Pending(method, future, write)
        try:
            return await future
        finally:
            if self._pending.pop(number, None) is not None:
                self._send(Cancel(number))

    @property
    def is_waiting(self) -> bool:
        """True while a call waits for the other end."""
        return bool(self._pending)

    def notify(self, value: Struct) -> None:
        """Send one of `NOTICES`."""
        self._send(Notice(type(value).__name__, to_raw(value)))

    def fail(self, error: BackendError) -> None:
        """End all calls that wait for the other end."""
        pending, self._pending = self._pending, {}
        for call in pending.values():
            if not call.future.done():
                call.future.set_exception(error)

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
            self._transport.close()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for task in self._running.values():
            task.cancel()
        self._lost()

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Item():
                self._take_item(message)
            case Result():
                if (call := self._pending.pop(message.number, None)) is not None:
                    _end(call, _results[call.method].decode(message.value))
            case Failure():
                if (call := self._pending.pop(message.number, None)) is not None:
                    _end(call, error=to_error(message))
            case Call():
                task = asyncio.create_task(self._run(message))
                self._running[message.number] = task
                task.add_done_callback(lambda _: self._running.pop(message.number))
            case Cancel():
                if (task := self._running.get(message.number)) is not None:
                    task.cancel()
            case Notice():
                self._take_notice(_notices[message.kind].decode(message.value))

    def _take_item(self, item: Item) -> None:
        if (call := self._pending.get(item.number)) is None:
            return  # It was cancelled meanwhile.
        try:
            call.write(_items[item.kind].decode(item.value))
        except Exception as error:
            del self._pending[item.number]
            self._send(Cancel(item.number))
            _end(call, error=error)

    # Calls of the other end.

    async def _run(self, call: Call) -> None:
        number = call.number

        def write(item: object) -> None:
            self._send(Item(number, type(item).__name__, to_raw(item)))

        try:
            arguments = _arguments[call.method].decode(call.arguments)
            value = await self._handlers[call.method](write, *arguments)
            self._send(Result(number, to_raw(value)))
        except Exception as error:
            self._send(to_failure(number, error))

    # Writing.

    def _send(self, message: Message) -> None:
        """Write with the end of this turn of the event loop; nothing without a connection."""
        if self._transport is None:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(to_frame(message))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None:
            self._transport.write(b"".join(unsent))


def _end(call: _Pending, value: Any = None, error: Exception | None = None) -> None:
    """End a call, which may have been cancelled in this turn of the event loop."""
    if call.future.done():
        return
    if error is None:
        call.future.set_result(value)
    else:
        call.future.set_exception(error)
