"""One HTTP/1.1 response: from ASGI messages, or from bytes written past ASGI.

Source: uvicorn's `RequestResponseCycle`; its `receive` and `run_asgi` are used unchanged.
"""

import asyncio
from collections.abc import Callable

import msgspec
from msgspec.structs import replace
from uvicorn._types import ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.errors import Failure, internal_failure
from proxy.http.event_stream import NDJSON
from proxy.http.headers import Headers
from proxy.http.json_response import OPENAI_ERRORS, ErrorDialect
from proxy.record import new_id

_BODILESS = frozenset({204, 304})


def refuse_at_once(
    failure: Failure, headers: Headers = (), errors: ErrorDialect = OPENAI_ERRORS
) -> bytes:
    """Encode a complete response without the application; it is the connection's last."""
    request_id = new_id("req_")
    failure = replace(failure, request_id=request_id)
    body = msgspec.json.encode(errors.body(failure))
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": request_id,
        "x-tandem-backend": "none",
        **({} if errors.id_header is None else {errors.id_header: request_id}),
        **failure.headers,
    }
    own = [(name.encode(), value.encode()) for name, value in fields.items()]
    lines = b"".join([b"%b: %b\r\n" % header for header in (*own, *headers)])
    return STATUS_LINE[errors.status_of(failure)] + lines + b"\r\n" + body


class ResponseCycle(RequestResponseCycle):
    """The response of one request, and a `proxy.http.send_buffer.Wire`."""

    task: asyncio.Task[None]
    """The task that runs the application."""
    _on_disconnect: Callable[[], None] | None = None
    _head = b""
    """The head, sent with the first bytes of the body: one write instead of two."""
    _remaining: int | None = None
    """Remaining bytes of a body of known length."""
    _by_line = False
    """Each line is a chunk of its own."""

    # --- ASGI ---

    async def send(self, message: ASGISendEvent) -> None:
        """
        Raises:
            RuntimeError: the message is out of order, or not valid in HTTP.
        """
        if self.flow.write_paused:
            await self.drained()
        if self.disconnected:
            return
        match message["type"]:
            case "http.response.start" if not self.response_started:
                self._start(message)
            case "http.response.body" if self.response_started and not self.response_complete:
                body = b"" if self.scope["method"] == "HEAD" else message["body"]
                if self._remaining is not None:
                    self._remaining -= len(body)
                last = not message.get("more_body", False)
                if (self._remaining or 0) < 0 or (last and self._remaining):
                    raise RuntimeError("The body is not as long as its header says.")
                self.write(body)
                if last:
                    self._end()
            case other:
                raise RuntimeError(f"Unexpected ASGI message {other!r}.")

    async def send_500_response(self) -> None:
        """Send status 500 for an application that failed without a response, and close."""
        self.transport.write(refuse_at_once(internal_failure()))
        self.transport.close()

    # --- past ASGI ---

    def write(self, data: bytes) -> bool:
        """Send a piece of the body at once, framed as a chunk if the body is chunked."""
        if data and not self.disconnected:
            if self._by_line and data.count(b"\n") > 1:
                lines = data.splitlines(keepends=True)
                framed = b"".join([b"%x\r\n%b\r\n" % (len(line), line) for line in lines])
            else:
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
        """Note that the client has disconnected, and call the observer."""
        self.disconnected = True
        self.message_event.set()
        call, self._on_disconnect = self._on_disconnect, None
        if call is not None:
            call()

    # --- HTTP/1.1 ---

    def _start(self, message: HTTPResponseStartEvent) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        headers = [*self.default_headers, *message.get("headers", ())]
        fields = dict(headers)
        self._frame(message["status"], fields.get(b"content-length"))
        # As Ollama sends them: some of its clients take each chunk for one object.
        self._by_line = self.chunked_encoding and fields.get(b"content-type") == NDJSON.content_type
        # The next request cannot be located behind a body that was not read to its end.
        if not self.keep_alive or self.more_body:
            self.keep_alive = False
            headers.append((b"connection", b"close"))
        if self.chunked_encoding:
            headers.append((b"transfer-encoding", b"chunked"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
            raise RuntimeError("A header contains a line break.")
        self._head = STATUS_LINE[message["status"]] + lines + b"\r\n"

    def _frame(self, status: int, length: bytes | None) -> None:
        """Choose how the body ends: by its length, in chunks, or with the connection."""
        bodiless = status in _BODILESS or self.scope["method"] == "HEAD"
        self.chunked_encoding = False
        self._remaining = 0 if bodiless else None if length is None else int(length)
        if self._remaining is None:
            self.chunked_encoding = self.scope["http_version"] == "1.1"
            self.keep_alive = self.keep_alive and self.chunked_encoding

    def _end(self) -> None:
        if not self.disconnected and (self.chunked_encoding or self._head):
            self.transport.write(self._head + (b"0\r\n\r\n" if self.chunked_encoding else b""))
            self._head = b""
        self.response_complete = True
        self.message_event.set()
        self.on_response()
