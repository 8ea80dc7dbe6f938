"""One answer on its way to a client: ASGI's messages as HTTP/1.1, and bytes past ASGI.

Source: uvicorn's `RequestResponseCycle`, whose `receive` and whose task are used as they are.
"""

import asyncio
from collections.abc import Callable

import msgspec
from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.errors import Failure, internal_failure
from proxy.record import new_id

_BODILESS = frozenset({204, 304})


def refuse_at_once(failure: Failure) -> bytes:
    """The whole of an answer that the application had no part in; it is the connection's last."""
    body = msgspec.json.encode(failure.body)
    head = (
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
        b"x-request-id: %b\r\nx-tandem-backend: none\r\n\r\n"
    ) % (len(body), new_id("req_").encode())
    return STATUS_LINE[failure.status] + head + body


class ResponseCycle(RequestResponseCycle):
    """What the application sends. It is a `proxy.http.send_buffer.Wire` as well."""

    task: asyncio.Task[None]
    """In which the application makes it."""
    _on_disconnect: Callable[[], None] | None = None
    _head = b""
    """Sent with the first of the body: what is written once costs once."""
    _left: int | None = None
    """Bytes of a body of known length that are still to come."""

    # --- ASGI ---

    async def send(self, message: ASGISendEvent) -> None:
        """
        Raises:
            RuntimeError: what is sent is no answer, or would not be one on the wire.
        """
        if self.flow.write_paused:
            await self.drained()
        if self.disconnected:
            return
        match message["type"]:
            case "http.response.start" if not self.response_started:
                self._start(message)
            case "http.response.body" if self.response_started and not self.response_complete:
                self._go_on(message)
            case other:
                raise RuntimeError(f"Unexpected ASGI message {other!r}.")

    async def send_500_response(self) -> None:
        """The application failed and told nobody."""
        self.transport.write(refuse_at_once(internal_failure()))
        self.transport.close()

    # --- past ASGI ---

    def write(self, data: bytes) -> bool:
        """A piece of the body, at once, in the frame that it needs."""
        if data and not self.disconnected:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if self.chunked_encoding else data
            self.transport.write(self._head + framed)
            self._head = b""
        return self.flow.write_paused

    async def drained(self) -> None:
        """Wait until the client has read enough, or has disconnected."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def when_disconnected(self, call: Callable[[], None] | None) -> None:
        self._on_disconnect = call
        if self.disconnected:
            self.disconnect()

    # --- the connection ---

    def disconnect(self) -> None:
        """Nobody will read the rest."""
        self.disconnected = True
        self.message_event.set()
        call, self._on_disconnect = self._on_disconnect, None
        if call is not None:
            call()

    # --- how it looks on the wire ---

    def _start(self, message: HTTPResponseStartEvent) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        headers = [*self.default_headers, *message.get("headers", ())]
        self._frame(message["status"], dict(headers).get(b"content-length"))
        # Of a body that nobody read to its end, no one knows where the next request begins.
        if not self.keep_alive or self.more_body:
            self.keep_alive = False
            headers.append((b"connection", b"close"))
        if self.chunked_encoding:
            headers.append((b"transfer-encoding", b"chunked"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
            raise RuntimeError("A header is more than a line.")
        self._head = STATUS_LINE[message["status"]] + lines + b"\r\n"

    def _frame(self, status: int, length: bytes | None) -> None:
        """How the client will know where the body ends."""
        bodiless = status in _BODILESS or self.scope["method"] == "HEAD"
        self.chunked_encoding = False
        self._left = 0 if bodiless else None if length is None else int(length)
        if self._left is None:
            self.chunked_encoding = self.scope["http_version"] == "1.1"
            self.keep_alive = self.keep_alive and self.chunked_encoding

    def _go_on(self, message: HTTPResponseBodyEvent) -> None:
        body = b"" if self.scope["method"] == "HEAD" else message["body"]
        if self._left is not None:
            self._left -= len(body)
        last = not message.get("more_body", False)
        if (self._left or 0) < 0 or (last and self._left):
            raise RuntimeError("The body is not as long as its header says.")
        self.write(body)
        if last:
            self._end()

    def _end(self) -> None:
        if not self.disconnected and (self.chunked_encoding or self._head):
            self.transport.write(self._head + (b"0\r\n\r\n" if self.chunked_encoding else b""))
            self._head = b""
        self.response_complete = True
        self.message_event.set()
        self.on_response()
