"""One client's connection: llhttp reads it, and what that lets through is looked at here.

uvicorn's h11 is strict and costs more than the rest of a short answer; its httptools costs little,
and reads two hosts, headers without end, HTTP/2 and the addresses of other servers. Here all that
is refused, and slowness too, with OpenAI's error body, and the connection is closed.
"""

import asyncio
import math
import re
from itertools import chain
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import httptools
from litestar.exceptions import HTTPException
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.errors import to_failure
from proxy.http.response_cycle import ResponseCycle, refuse_at_once
from proxy.http.send_buffer import WIRE

_MOST_HEAD_BYTES = 65_536
_MOST_HEADERS = 128
_MOST_WAITING = 16
"""Requests that a client may send before the first of them is answered."""

_FIRST_LINE = re.compile(rb"[A-Z-]+ [^\s]+ HTTP/|[^\n]*\Z")
"""Or as much of it as has come. llhttp reads RTSP, too, and passes over spaces and empty lines."""
_TARGET = re.compile(rb'/[!"$-~]*')
"""An address here: not another server's, no fragment, nothing that is not printed."""


class _Refused(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class Deadlines(NamedTuple):
    """Seconds that a connection waits for its client; subclasses of `Connection` may set others."""

    head: float = 10.0
    body: float = 60.0
    idle: float = 75.0
    """Between two requests: agents think between two turns, on one connection."""
    closing: float = 2.0
    """For the end of a body that is not read."""


class Connection(HttpToolsProtocol):
    """What it adds to uvicorn's: limits, deadlines, refusals. `ResponseCycle` is the way back."""

    deadlines = Deadlines()
    app: ASGI3Application
    parser: httptools.HttpRequestParser
    _in_message = False
    _head_ended = False
    _quiet = 0
    """Bytes that have come since the last that said something."""
    _due = math.inf
    """When it is closed, by the loop's clock, unless something happens before."""
    _timer: asyncio.TimerHandle | None = None
    _reply: ResponseCycle | None = None
    """Of the request that is being answered; `cycle` is that of the last one read."""
    _refusal: int | None = None
    """What the client will be told after the answers that it still waits for."""
    _deaf = False
    """It has nothing more to say that would be heard."""

    # --- the socket ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn's own parser goes on after `Connection: close`.
        self.parser = httptools.HttpRequestParser(self)
        self._wait(self.deadlines.head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waiting = [cast(ResponseCycle, reply) for reply, _ in self.pipeline]
        for reply in (self._reply, *waiting):
            if reply is not None and not reply.response_complete:
                reply.disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._quiet += len(data)
        try:
            if not (self._in_message or _FIRST_LINE.match(data)):
                raise _Refused(400)
            self._read(data)
            if self._quiet > _MOST_HEAD_BYTES:
                raise _Refused(400 if self._head_ended else 431)
        except _Refused as refused:
            self._refuse(refused.status)

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read(self._head_without_upgrade() + data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            refused = error.__context__
            status = 505 if self.parser.get_http_version() not in ("0.0", "1.0", "1.1") else 400
            raise refused if isinstance(refused, _Refused) else _Refused(status) from error

    def _head_without_upgrade(self) -> bytes:
        """llhttp takes all that follows for the other protocol, though none was agreed on."""
        self.parser = httptools.HttpRequestParser(self)
        kept = [header for header in self.headers if header[0] != b"upgrade"]
        method = self.scope["method"].encode()
        lines = b"".join([b"%b: %b\r\n" % header for header in kept])
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self.url, lines)

    # --- the parser ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message, self._head_ended = True, False
        self._wait(self.deadlines.head)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_ended:  # What follows the body is nobody's business.
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_ended = True
        self._quiet = 0
        self.scope["method"] = self.parser.get_method().decode()
        version = self.scope["http_version"] = self.parser.get_http_version()
        _check_head(version, self.scope["method"], self.url, self.headers)
        self.expect_100_continue = dict(self.headers).get(b"expect", b"").lower() == b"100-continue"
        if self.parser.should_upgrade():
            return
        path, _, query = self.url.partition(b"?")
        text = path.decode()
        self.scope["path"] = unquote(text) if "%" in text else text
        self.scope["raw_path"], self.scope["query_string"] = path, query
        self._answer(keep_alive=version == "1.1" and self.parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._quiet = 0
        if not self.parser.should_upgrade():
            self._in_message, self._due = False, math.inf
            super().on_message_complete()

    # --- answers ---

    def _answer(self, keep_alive: bool) -> None:
        """Now, or after those that came before."""
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
        cast(dict[str, Any], self.scope)["extensions"] = {WIRE: self.cycle}
        if self._reply is None or self._reply.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        elif len(self.pipeline) < _MOST_WAITING:
            self._due = math.inf
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            raise _Refused(400)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._reply = cast(ResponseCycle, cycle)
        if cycle.more_body:
            self._wait(self.deadlines.body)
        self._reply.task = self.loop.create_task(self._run(self._reply, app))
        self.tasks.add(self._reply.task)

    async def _run(self, reply: ResponseCycle, app: ASGI3Application) -> None:
        """uvicorn's callback for the end of a task would take a turn of the loop of its own."""
        try:
            await reply.run_asgi(app)
        finally:
            self.tasks.discard(reply.task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._reply is not None and not self._reply.keep_alive:
            self._leave()
        elif self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._say_refusal(self._refusal)
        elif not self._in_message:
            self._wait(self.deadlines.idle)

    def _refuse(self, status: int) -> None:
        """Answer `status` and close, once all that came before it is answered."""
        self._refusal, self._deaf, self._due = status, True, math.inf
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        before = self._reply
        if before is None or before.response_complete or before.more_body:
            self._say_refusal(status)

    def _say_refusal(self, status: int) -> None:
        reply = self._reply
        if reply is not None and not reply.response_complete:
            reply.disconnect()
        if reply is None or reply.response_complete or not reply.response_started:
            self.transport.write(refuse_at_once(to_failure(HTTPException(status_code=status))))
        self._leave()

    def _leave(self) -> None:
        """Close once the client has read the answer: what it still sends would reset it."""
        self._deaf = True
        if self._in_message:
            self.transport.write_eof()
            self._wait(self.deadlines.closing)
        else:
            self.transport.close()

    # --- deadlines ---

    def _wait(self, seconds: float) -> None:
        """That long, from now on, for what comes next."""
        self._due = self.loop.time() + seconds
        # Set anew only when it goes off: most are put off before.
        if self._timer is None or self._timer.when() > self._due:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self.loop.time() < self._due:
            if self._due < math.inf:
                self._set_timer()
        elif self._in_message and not self._deaf:
            self._refuse(408)
        else:
            self.transport.close()


def _check_head(
    version: str, method: str, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """What llhttp does not look at.

    Raises:
        _Refused: with the status to answer.
    """
    if version not in ("1.0", "1.1"):
        raise _Refused(505)
    size = len(target) + sum(map(len, chain.from_iterable(headers)))
    if len(headers) > _MOST_HEADERS or size > _MOST_HEAD_BYTES:
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
