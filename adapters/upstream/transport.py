"""HTTP/1.1 client: llhttp parses, and one read of the socket is one piece of the body.

httpx's own transport parses in Python, one HTTP chunk at a time: with the tokens of a model that is
most of what a relay costs. Errors are httpx's; deadlines are points of the event loop's clock.
"""

import asyncio
import math
import select
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import httptools
import httpx

from adapters.descriptors import OUT_OF_DESCRIPTORS, TOO_MANY_OPEN, is_scarce
from adapters.errors import NoDescriptorsError
from adapters.turns import Turns

_MAX_HEAD_BYTES = 65_536
_MAX_BUFFERED_BYTES = 262_144
"""Unread bytes of a body after which the socket is not read."""
_MAX_IDLE = 20
_IDLE_SECONDS = 5.0
_READS_PER_TURN = 16
"""Reads that are parsed in one turn of the loop: a token's way to its client is 0.1 to 0.2 ms."""

Receive = Callable[[bytes], bool]
"""Handles one piece of a body; true pauses the body."""


class ReadTurn:
    """Reads of all connections of a pool in one turn of the loop; the others wait for the next."""

    def __init__(self, per_turn: int = _READS_PER_TURN) -> None:
        self.per_turn = per_turn
        self.reads: list[None] = []
        """An entry for each read of this turn; the loop empties it by a call of C at its end."""
        self.later = Turns(per_turn)


class Connection(asyncio.Protocol):
    """One socket, one exchange at a time: a request, then the pieces of its response.

    The body is read with `read`, which returns what has arrived, or with `push`, which calls a
    function with each piece inside `data_received`: no task is woken for a piece.
    """

    def __init__(self, turn: ReadTurn) -> None:
        self.loop = asyncio.get_running_loop()
        self._turn = turn
        self.until = 0.0
        """The deadline of the current wait, by the loop's clock; `push` may be given more time by
        moving it."""
        self.unheard = False
        """The server closed the connection before it read the request: it can be sent again."""
        self._transport: asyncio.Transport | None = None
        self._error: httpx.TransportError | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._receive: Receive | None = None
        self._fileno = -1
        self._paused = False
        self._arrived = b""
        """Waits for its turn to be parsed; the socket is not read meanwhile."""
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # A call in C for each chunk, not one in Python.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        """`None` after an error."""
        self._reset()

    def _reset(self) -> None:
        """Forget the exchange before."""
        self._in_exchange = False
        self._reading_body = False
        self._complete = False
        self._keep_alive = False
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self._pieces.clear()
        self._received = 0
        """Bytes of the head, later the unread bytes of the body."""

    # --- called by the client ---

    @property
    def reusable(self) -> bool:
        ended = self._complete and not self._pieces
        return ended and self._error is None and self._keep_alive

    @property
    def is_open(self) -> bool:
        """False where an idle connection was closed by the server, be it unnoticed by the loop."""
        return self._error is None and not self._arrived and not _is_readable(self._fileno)

    @property
    def is_scarce(self) -> bool:
        """True where it takes a descriptor of the reserve."""
        return is_scarce(self._fileno)

    async def ask(self, request: Sequence[bytes], until: float) -> None:
        """Send `request`, in pieces, and wait for `status` and `headers`.

        Raises:
            TimeoutError: they did not arrive by `until`.
            httpx.TransportError: the connection broke, or the response is not HTTP.
        """
        self._reset()
        self._in_exchange = True
        if self._transport is not None:
            self._transport.writelines(request)
        while self.status is None:
            await self._wait(until)

    async def read(self, until: float) -> bytes:
        """Return the bytes of the body that have arrived, at least one; none at its end.

        Raises:
            TimeoutError: nothing arrived by `until`.
            httpx.TransportError: the connection broke, after all bytes before have been read.
        """
        self._reading_body = True
        while not self._pieces:
            if self._complete:
                return b""
            self._resume()
            await self._wait(until)
        return self._take_pieces()

    async def push(self, receive: Receive, until: float) -> bool:
        """Call `receive` with each piece of the body as it arrives.

        Returns true when `receive` returned true: the socket is paused until the next call. Returns
        false at the end of the body.

        Raises:
            TimeoutError: `self.until`, which begins as `until`, has passed.
            httpx.TransportError: the connection broke, after all pieces before.
            Exception: what `receive` raised.
        """
        self._reading_body = True
        while not (self._pieces and receive(self._take_pieces())):
            if self._complete:
                return False
            self._resume()
            self._receive = receive
            try:
                if await self._wait(until):
                    return True
            finally:
                self._receive = None
        return True

    def release(self) -> None:
        """End the exchange; data that arrives from now on is an error."""
        self._in_exchange = False
        self._resume()

    def close(self, reason: str = "The connection was closed.") -> None:
        """Close the socket at once; a wait in progress fails."""
        self._fail(httpx.ReadError(reason))

    def _take_pieces(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._received = 0
        return data

    def _pause(self) -> None:
        if not self._complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._error is None and self._transport is not None:
            self._transport.resume_reading()
        self._paused = False

    async def _wait(self, until: float) -> bool:
        """Wait for a callback of the event loop; true where `receive` has paused the body."""
        if self._error is not None:
            raise self._error
        self._waiter = self.loop.create_future()
        self.until = until
        # Set anew only after it has gone off: a timer for each read would cost more than the read.
        if self._timer is None or self._timer.when() > until:
            self._set_timer()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        never = self.until == math.inf
        self._timer = None if never else self.loop.call_at(self.until, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self.loop.time() < self.until:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)

    def _fail(self, error: httpx.TransportError) -> None:
        self._error = self._error or error
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        # Both hold methods of this connection: cycles, which only the garbage collector would end.
        self._parser = self._transport = None
        self._wake()

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fileno = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """Parse `data`, then hand the body to `receive`, or wake the task that waits.

        The path of every token: what is called here is written out.
        """
        turn = self._turn
        reads = turn.reads
        if not reads:
            self.loop.call_soon(reads.clear)
        reads.append(None)
        if len(reads) > turn.per_turn or self._arrived:
            self._postpone(data)
            return
        parser = self._parser
        if parser is None:
            return
        if not self._in_exchange or self._complete:
            self._fail(httpx.ProtocolError("Unsolicited data from the server."))
            return
        self._received += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.ProtocolError(str(error)))
            return
        waiter = self._waiter
        if self._receive is not None and waiter is not None and not waiter.done():
            try:
                if pieces := self._pieces:
                    piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    pieces.clear()
                    self._received = 0
                    if self._receive(piece):
                        self._pause()
                        waiter.set_result(True)
                        return
                if self._complete:
                    waiter.set_result(False)
            except Exception as error:  # Raised by `receive`; for the task that waits.
                waiter.set_exception(error)
            return
        if self._received > _MAX_HEAD_BYTES:
            self._limit()
        if self._pieces or self._complete or not self._reading_body:
            self._wake()

    def _postpone(self, data: bytes) -> None:
        """Parse `data` in a later turn, until which the socket is not read."""
        is_waiting = bool(self._arrived)
        self._arrived += data
        if not (is_waiting or self._turn.later.take(self._parse_arrived)):
            self._pause()

    def _parse_arrived(self) -> None:
        data, self._arrived = self._arrived, b""
        self._resume()
        if data:
            self._turn.reads.clear()
            self.data_received(data)

    def _limit(self) -> None:
        if self.status is None:
            self._fail(httpx.ProtocolError("The head of the response is too long."))
        elif self._received > _MAX_BUFFERED_BYTES and not self._paused:
            self._pause()

    def eof_received(self) -> None:
        if self._arrived:
            self._parse_arrived()
        # A response without a length ends here. llhttp knows, but has no call for it.
        if self.status is not None and not self._has_length():
            self._complete = True
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._arrived:
            self._parse_arrived()
        if self._complete:
            self._fail(httpx.ReadError("The connection was closed."))
        elif isinstance(exc, OSError):
            self.unheard = self.status is None and not self._received
            self._fail(httpx.ReadError(str(exc)))
        else:
            self._fail(httpx.RemoteProtocolError("The connection was closed within a response."))

    def _has_length(self) -> bool:
        names = {name.lower() for name, _ in self.headers}
        return not names.isdisjoint({b"content-length", b"transfer-encoding"})

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        if self._complete:  # Raised through the parser, which stops: no byte of it is body.
            raise httpx.ProtocolError("A second response to one request.")
        self.headers = [] if self.status is None else self.headers

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser is not None and (status := self._parser.get_status_code()) >= 200:
            self.status = status  # 1xx comes before the response.

    def on_message_complete(self) -> None:
        self._complete = self.status is not None
        self._keep_alive = self._parser is not None and self._parser.should_keep_alive()


def _is_readable(fileno: int) -> bool:
    """True where the socket has data, or was closed."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


class Body(httpx.AsyncByteStream):
    """The body of a response for httpx; closing it returns or closes the connection."""

    def __init__(self, connection: Connection, pool: "Transport") -> None:
        self.connection = connection
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.connection.read(math.inf):
            yield data

    async def aclose(self) -> None:
        self._pool.take_back(self.connection)


class Transport(httpx.AsyncBaseTransport):
    """Pool of connections to one server. Idle ones are used again, the latest first."""

    def __init__(self, connect_timeout: float, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._connect_timeout = connect_timeout
        self._idle_seconds = idle_seconds
        self._tls: ssl.SSLContext | None = None
        self._idle: list[tuple[float, Connection]] = []
        self._busy: set[Connection] = set()
        self._turn = ReadTurn()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.send(request, math.inf)

    async def send(self, request: httpx.Request, until: float) -> httpx.Response:
        """Send `request`; the body of the response is not read yet. Raises as `ask`."""
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (
            request.method.encode(),
            request.url.raw_path,
            b"".join(b"%b: %b\r\n" % header for header in request.headers.raw),
        )
        connection = await self.ask(request.url, (head, request.content), until)
        return httpx.Response(
            connection.status or 0,
            headers=connection.headers,
            stream=Body(connection, self),
            request=request,
        )

    async def ask(self, url: httpx.URL, request: Sequence[bytes], until: float) -> Connection:
        """Send `request`; returns a connection with the head of its response.

        The pieces of `request` are not copied: a body may have 30 MB. `take_back` ends the
        exchange. A request that met a closing idle connection is sent again.

        Raises:
            TimeoutError: there was no response by `until`.
            httpx.TransportError: there is no connection, or it broke.
            NoDescriptorsError: this process has too many connections for another one.
        """
        while True:
            connection = self._take_idle()
            is_new = connection is None
            if connection is None:
                connection = await self._connect(url, until)
            self._busy.add(connection)
            try:
                await connection.ask(request, until)
            except BaseException as error:
                self.take_back(connection)
                if is_new or not isinstance(error, httpx.ReadError) or not connection.unheard:
                    raise
            else:
                return connection

    def take_back(self, connection: Connection) -> None:
        """Keep `connection` for the next request, or close it where the response is not read."""
        self._busy.discard(connection)
        if not connection.reusable or len(self._idle) >= _MAX_IDLE:
            connection.close()
            return
        connection.release()
        self._idle.append((time.monotonic() + self._idle_seconds, connection))

    async def aclose(self) -> None:
        for connection in (*self._busy, *(connection for _, connection in self._idle)):
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> Connection | None:
        now = time.monotonic()
        while self._idle and self._idle[0][0] <= now:  # The latest is at the end.
            self._idle.pop(0)[1].close()
        while self._idle:
            _, connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        return None

    async def _connect(self, url: httpx.URL, until: float) -> Connection:
        connection = Connection(self._turn)
        try:
            await self._open(connection, url, until)
            if connection.is_scarce:
                raise NoDescriptorsError(TOO_MANY_OPEN)
        except BaseException:
            connection.close()  # It is open where the task was cancelled in this moment.
            raise
        return connection

    async def _open(self, connection: Connection, url: httpx.URL, until: float) -> None:
        loop = asyncio.get_running_loop()
        port = url.port or (443 if url.scheme == "https" else 80)
        limit = min(loop.time() + self._connect_timeout, until)
        try:
            async with asyncio.timeout_at(None if limit == math.inf else limit):
                # Created when it is first needed: it reads every certificate there is.
                if url.scheme == "https" and self._tls is None:
                    self._tls = httpx.create_ssl_context()
                    # The certificates of this machine, as Ollama's own programs use: httpx's
                    # list has no authority of a private network.
                    self._tls.load_default_certs()
                await loop.create_connection(lambda: connection, url.host, port, ssl=self._tls)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("") from error
        except (OSError, ssl.SSLError) as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise NoDescriptorsError(TOO_MANY_OPEN) from error
            raise httpx.ConnectError(str(error)) from error
