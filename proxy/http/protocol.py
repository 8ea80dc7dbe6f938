"""HTTP/1.1 connections: llhttp parses, and this module checks what llhttp accepts.

uvicorn's h11 protocol is strict and costs more than the rest of a short answer; its httptools
protocol is cheap and accepts two `Host` headers, unlimited headers, HTTP/2 and absolute URLs. This
module refuses these, and slow requests, with OpenAI's error body, and closes the connection.
"""

import asyncio
import math
import re
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import httptools
from litestar.exceptions import HTTPException
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from adapters.descriptors import is_last, most_clients
from adapters.turns import Turns
from proxy.config import ServerConfig
from proxy.errors import to_failure
from proxy.http.cors import to_cors_headers
from proxy.http.gates import Fields, to_fields
from proxy.http.handshake import is_handshake, to_handshake
from proxy.http.json_response import OPENAI_ERRORS, ErrorDialect
from proxy.http.response_cycle import ResponseCycle, refuse_at_once
from proxy.http.send_buffer import WIRE
from proxy.http.stalled_clients import WriteDeadline, limit_silence

_MAX_HEAD_BYTES = 65_536
_MAX_HEADERS = 128
_MAX_PIPELINED = 16
"""Pipelined requests that may wait for the response in progress."""

_MIN_BYTES_PER_SECOND = 50_000
"""Speed of a body that has more than `Deadlines.body` for it; a slow radio link has twice that."""
_ALWAYS = frozenset({"/health", "/livez"})
"""Paths that are answered from the reserve of descriptors, and before all that wait for a turn."""
_CROWDED_SECONDS = 2.0
"""For the head of a request where there are too many connections."""

_FIRST_LINE = re.compile(rb"[A-Z-]+ [^\s]+ HTTP/|[^\n]*\Z")
"""A request line, or its beginning. llhttp also accepts RTSP, and skips spaces and empty lines."""
_TARGET = re.compile(rb'/[!"$-~]*')
"""An origin-form target: a path without scheme and host, fragment and unprintable characters."""


class _Refused(Exception):
    """The request is refused with `status`, and the connection closed."""

    def __init__(self, status: int) -> None:
        self.status = status


class Deadlines(NamedTuple):
    """Seconds that a connection waits for its client; subclasses of `Connection` may set others."""

    head: float = 10.0
    body: float = 60.0
    """And a second more for each `_MIN_BYTES_PER_SECOND` that have arrived."""
    idle: float = 75.0
    """Between two requests: agents think between two turns, on one connection."""
    closing: float = 2.0
    """For the end of a body that is not read."""
    writing: float = 60.0
    """Without progress of a response: a client that has vanished, or reads nothing."""


class Connection(HttpToolsProtocol):
    """uvicorn's httptools protocol with limits, deadlines and refusals; `ResponseCycle` sends."""

    deadlines = Deadlines()
    turns: Turns
    """Shared by all connections of a server; subclasses have it."""
    app: ASGI3Application
    parser: httptools.HttpRequestParser
    _in_message = False
    _head_ended = False
    _pending_bytes = 0
    """Bytes received since the last that completed a head or belonged to a body."""
    _deadline = math.inf
    """Deadline of the current wait, by the loop's clock."""
    _timer: asyncio.TimerHandle | None = None
    _reply: ResponseCycle | None = None
    """The response in progress; `cycle` belongs to the request that was read last."""
    _refusal: int | None = None
    """Status of the refusal that follows the pending responses."""
    _crowded = False
    """There are too many connections: only `_ALWAYS` is answered."""
    _discarding = False
    """Received data is discarded: the connection is about to close."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chunks: list[bytes] = []
        """Chunks of a body that were parsed and not yet passed on."""

    def settings(self) -> ServerConfig:
        """Return the settings in use, which a reload replaces; subclasses have them."""
        return ServerConfig()

    def errors_of(self, path: str, fields: Fields) -> ErrorDialect:
        """Return the dialect of the errors of a request; subclasses know the routes."""
        return OPENAI_ERRORS

    # --- the socket ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn configures its parser to continue after `Connection: close`.
        self.parser = httptools.HttpRequestParser(self)
        self._writing = WriteDeadline(transport, self.deadlines.writing)
        connection = transport.get_extra_info("socket")
        limit_silence(connection, self.deadlines.writing)
        self._crowded = len(self.connections) > most_clients()
        self._set_deadline(
            min(self.deadlines.head, _CROWDED_SECONDS if self._crowded else math.inf)
        )
        if is_last(connection.fileno()):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._writing.end()
        waiting = [cast(ResponseCycle, reply) for reply, _ in self.pipeline]
        for reply in (self._reply, *waiting):
            if reply is not None and not reply.response_complete:
                self.turns.take(reply.disconnect)
        super().connection_lost(exc)
        # They hold a method of this connection: a cycle, which only the collector would end.
        self.cycle = self._reply = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.watch()

    def shutdown(self) -> None:
        super().shutdown()
        self._writing.watch()

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._pending_bytes += len(data)
        try:
            if not (self._in_message or _FIRST_LINE.match(data)):
                raise _Refused(400)
            self._read(data)
            self._pass_on_body()
            if self._pending_bytes > _MAX_HEAD_BYTES:
                raise _Refused(400 if self._head_ended else 431)
        except _Refused as refused:
            self._refuse(refused.status)

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if is_handshake(self.scope["method"], self.headers):
                self._become_websocket(data[upgrade.args[0] :])
                return
            # llhttp would skip what follows the upgrade: parse the head again without it.
            self.parser = httptools.HttpRequestParser(self)
            kept = [header for header in self.headers if header[0] != b"upgrade"]
            method = self.scope["method"].encode()
            lines = b"".join([b"%b: %b\r\n" % header for header in kept])
            head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self.url, lines)
            self._read(head + data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            refused = error.__context__
            status = 505 if self.parser.get_http_version() not in ("0.0", "1.0", "1.1") else 400
            raise refused if isinstance(refused, _Refused) else _Refused(status) from error

    def _become_websocket(self, data: bytes) -> None:
        """Hand the connection over to the protocol of WebSockets; `data` follows the head."""
        if self._crowded:
            raise _Refused(503)
        body = dict(self.headers).keys() & {b"content-length", b"transfer-encoding"}
        is_busy = self._reply is not None and not self._reply.response_complete
        if data or body or is_busy:
            raise _Refused(400)
        from proxy.http.websocket import WebSocketConnection  # a library that few servers need

        if self._timer is not None:
            self._timer.cancel()
        self._writing.end()
        self.connections.discard(self)
        settings = self.settings()
        self.config.ws_max_size = settings.max_body_bytes
        self.config.ws_ping_interval = settings.keepalive
        socket = WebSocketConnection(
            self.config, self.server_state, self.app_state, self.deadlines.writing
        )
        self.transport.set_protocol(socket)
        socket.connection_made(self.transport)
        socket.data_received(to_handshake(self.url, self.headers))

    # --- the parser ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message, self._head_ended = True, False
        self._set_deadline(self.deadlines.head)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_ended:  # Trailers are ignored.
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_ended = True
        self._pending_bytes = 0
        self.scope["method"] = self.parser.get_method().decode()
        version = self.scope["http_version"] = self.parser.get_http_version()
        _check_head(version, self.scope["method"], self.url, self.headers)
        expected = dict(self.headers).get(b"expect", b"").lower()
        # HTTP/1.0 knows no responses before the response (RFC 9110, 10.1.1).
        self.expect_100_continue = expected == b"100-continue" and version == "1.1"
        if self.parser.should_upgrade():
            return
        path, _, query = self.url.partition(b"?")
        text = path.decode()
        self.scope["path"] = unquote(text) if "%" in text else text
        self.scope["raw_path"], self.scope["query_string"] = path, query
        if self._crowded and self.scope["path"] not in _ALWAYS:
            raise _Refused(503)
        may_stay = version == "1.1" and not self._crowded
        self._answer(keep_alive=may_stay and self.parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        self._deadline += len(body) / _MIN_BYTES_PER_SECOND
        self._chunks.append(body)

    def _pass_on_body(self) -> None:
        """Pass on all chunks at once: each copies the body that waits; a read may have 40,000."""
        if self._chunks:
            super().on_body(b"".join(self._chunks))
            self._chunks.clear()

    def on_message_complete(self) -> None:
        self._pending_bytes = 0
        self._pass_on_body()
        if not self.parser.should_upgrade():
            self._in_message, self._deadline = False, math.inf
            super().on_message_complete()
            # A large body has paused it, and no handler waits for more: without it the connection
            # would not see the client leave.
            self.flow.resume_reading()

    # --- answers ---

    def _answer(self, keep_alive: bool) -> None:
        """Start the application, or queue the request behind the response in progress."""
        self.cycle = ResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if self._reply is None or self._reply.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        elif len(self.pipeline) < _MAX_PIPELINED:
            self._deadline = math.inf
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            raise _Refused(400)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._reply = cast(ResponseCycle, cycle)
        if cycle.more_body:
            self._set_deadline(self.deadlines.body)
        start = partial(self._start_task, self._reply, app)
        if self._reply.scope["path"] in _ALWAYS:
            start()
        else:
            self.turns.take(start)

    def _start_task(self, reply: ResponseCycle, app: ASGI3Application) -> None:
        if not reply.disconnected:
            reply.task = self.loop.create_task(self._run(reply, app))
            self.tasks.add(reply.task)

    async def _run(self, reply: ResponseCycle, app: ASGI3Application) -> None:
        """Run the application. A done callback, as in uvicorn, takes one more turn of the loop."""
        extensions = cast(dict[str, Any], reply.scope)["extensions"] = {WIRE: reply}
        try:
            await reply.run_asgi(app)
        finally:
            extensions.clear()  # A cycle, which only the garbage collector would end.
            self.tasks.discard(reply.task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._reply is not None and not self._reply.keep_alive:
            self._close_gracefully()
        elif self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        elif not self._in_message:
            self._set_deadline(self.deadlines.idle)

    def _refuse(self, status: int) -> None:
        """Send `status` and close, after the responses to all earlier requests."""
        self._refusal, self._discarding, self._deadline = status, True, math.inf
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        before = self._reply
        if before is None or before.response_complete or before.more_body:
            self._send_refusal(status)

    def _send_refusal(self, status: int) -> None:
        reply = self._reply
        if reply is not None and not reply.response_complete:
            reply.disconnect()
        if reply is None or reply.response_complete or not reply.response_started:
            failure = to_failure(HTTPException(status_code=status))
            # uvicorn has no list before the first request.
            fields = to_fields(cast(list[tuple[bytes, bytes]] | None, self.headers) or ())
            cors = to_cors_headers(fields, self.settings().page_origins)
            path = cast(bytes, getattr(self, "url", b"")).partition(b"?")[0].decode("latin-1")
            errors = self.errors_of(unquote(path), fields)
            self.transport.write(refuse_at_once(failure, cors, errors))
        self._close_gracefully()

    def _close_gracefully(self) -> None:
        """Close after the client has read the response: closing with unread data resets it."""
        self._discarding = True
        if self._in_message:
            self.transport.write_eof()
            self._set_deadline(self.deadlines.closing)
        else:
            self._close()

    def _close(self) -> None:
        """Close once everything is sent, which a client that reads nothing could delay for ever."""
        self.transport.close()
        self._writing.watch()

    # --- deadlines ---

    def _set_deadline(self, seconds: float) -> None:
        """Set the deadline: `seconds` from now for the next data or request."""
        self._deadline = self.loop.time() + seconds
        # A later deadline is set when the timer fires: most are postponed before that.
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        if self.loop.time() < self._deadline:
            if self._deadline < math.inf:
                self._set_timer()
        elif self._in_message and not self._discarding:
            self._refuse(408)
        else:
            self._close()


def _check_head(
    version: str, method: str, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Check what llhttp accepts: version, limits, target, `Host` and `Transfer-Encoding`.

    Raises:
        _Refused: with the status to answer.
    """
    if version not in ("1.0", "1.1"):
        raise _Refused(505)
    size = len(target) + sum(map(len, chain.from_iterable(headers)))
    if len(headers) > _MAX_HEADERS or size > _MAX_HEAD_BYTES:
        raise _Refused(431)
    if method == "CONNECT" or not _TARGET.fullmatch(target):
        raise _Refused(400)
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise _Refused(400)
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"] or version == "1.0":
            raise _Refused(400)
