"""The outermost layer of the application, with a journal of everything that it sends."""

from collections.abc import Callable
from typing import Any

from litestar.types import Message, Receive, Scope, Send
from recorder.journal import End, Head, Journal, Piece, new_answer

from proxy.errors import ErrorBody, Failure
from proxy.http.dispatch import Dispatch
from proxy.http.send_buffer import WIRE, Wire


def recorded(journal: Journal) -> type[Dispatch]:
    """Create a `Dispatch` that writes to `journal` before it sends."""

    class RecordedDispatch(Dispatch):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            answer = new_answer()
            extensions: dict[str, Any] = dict(scope.get("extensions") or {})  # pyright: ignore
            if WIRE in extensions:
                extensions[WIRE] = _RecordedWire(extensions[WIRE], answer, journal)
            copied: Any = {**scope, "extensions": extensions}

            async def send_recorded(message: Message) -> None:
                _record(message, copied, answer, journal)
                await send(message)

            await super().__call__(copied, receive, send_recorded)

    return RecordedDispatch


def _record(message: Any, scope: Any, answer: str, journal: Journal) -> None:
    match message["type"]:
        case "http.response.start" | "websocket.accept":
            journal(_head(message, scope, answer))
        case "http.response.body":
            journal(Piece(answer, bytes(message.get("body", b""))))
            if not message.get("more_body", False):
                journal(End(answer))
        case "websocket.send":
            text = message.get("text")
            data = text.encode() if text is not None else message.get("bytes")
            journal(Piece(answer, data or b""))
        case "websocket.close":
            journal(End(answer))
        case _:
            pass


def _head(message: Any, scope: Any, answer: str) -> Head:
    headers = dict(message.get("headers") or ())
    state = scope.get("state") or {}
    return Head(
        answer,
        scope.get("method", "GET"),
        scope["path"],
        message.get("status", 0),
        headers.get(b"content-type", b"").decode(),
        [name.decode("latin-1") for name, _ in scope["headers"]],
        "errors" in state and isinstance(state["errors"].body(_ANY_FAILURE), ErrorBody),
    )


_ANY_FAILURE = Failure(status=400, message="", type="")


class _RecordedWire:
    """A `Wire` past ASGI that is recorded as ASGI's messages are."""

    def __init__(self, wire: Wire, answer: str, journal: Journal) -> None:
        self._wire, self._answer, self._journal = wire, answer, journal

    def write(self, data: bytes) -> bool:
        self._journal(Piece(self._answer, bytes(data)))
        return self._wire.write(data)

    async def drained(self) -> None:
        await self._wire.drained()

    def when_disconnected(self, call: Callable[[], None] | None) -> None:
        self._wire.when_disconnected(call)
