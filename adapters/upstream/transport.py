"""HTTP/1.1 under the official client: llhttp parses, one read of the socket is one piece.

httpx's own transport parses in Python, an HTTP chunk at a time: with the tokens of a model that is
most of what a relay costs. Errors are httpx's, deadlines are points of the loop's clock.
"""

import asyncio
import math
import select
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools
import httpx

_MOST_HEAD_BYTES = 65_536
_MOST_HELD_BYTES = 262_144
"""Then the socket is not read until somebody takes what is there."""
_MOST_IDLE = 20
_IDLE_SECONDS = 5.0


class Connection(asyncio.Protocol):
    """One socket, one exchange at a time: a request, then the pieces of its answer."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._error: httpx.TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.until = 0.0
        """When it was waited for too long, by the loop's clock."""
        self._fileno = -1
        self.unheard = False
        """The other end threw the request away unread: it was closing as that was on its way."""
        self._forget()

    def _forget(self) -> None:
        """Be as before an exchange."""
        self._asked = False
        self._reading = False
        """The head is there."""
        self._complete = False
        self._keeps = False
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._received = 0
        """Bytes of the head, later of what is held of the body."""
        self.taker: Callable[[bytes], bool] | None = None
        """Has pieces of the body as they come, while `read` waits for one; what it does not take,
        and the last piece, are read."""

    # --- what the one who asks does ---

    @property
    def reusable(self) -> bool:
        whole = self._complete and not self._pieces
        return whole and self._error is None and self._keeps

    @property
    def is_open(self) -> bool:
        """While it idles: the other end may have closed it without the loop's having seen it."""
        return self._error is None and not _has_something(self._fileno)

    async def ask(self, request: bytes, until: float) -> None:
        """Send `request`, and wait for `status` and `headers`.

        Raises:
            TimeoutError: there is none by `until`.
            httpx.TransportError: the connection broke, or what it says is not HTTP.
        """
        self._forget()
        self._asked = True
        if self._transport is not None:
            self._transport.write(request)
        while self.status is None:
            await self._wait(until)

    async def read(self, until: float) -> bytes:
        """What has arrived of the body, at least a byte; nothing at its end.

        Raises:
            TimeoutError: nothing has by `until`.
            httpx.TransportError: it broke off, after everything before has been read.
        """
        self._reading = True
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait(until)
        data = b"".join(self._pieces)
        self._let_go()
        return data

    def release(self) -> None:
        """The exchange is over; what comes now was not asked for."""
        self._asked = False
        self.taker = None

    def close(self, why: str = "It was closed.") -> None:
        """At once, whatever is under way."""
        self._fail(httpx.ReadError(why))

    def _let_go(self) -> None:
        self._pieces.clear()
        if self._received > _MOST_HELD_BYTES and self._transport is not None:
            self._transport.resume_reading()
        self._received = 0

    async def _wait(self, until: float) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self.loop.create_future()
        self.until = until
        # Set anew only when it has gone off: a timer for each read would cost more than the read.
        if self._timer is None or self._timer.when() > until:
            self._set_timer()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        never = self.until == math.inf
        self._timer = None if never else self.loop.call_at(self.until, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self.loop.time() < self.until:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())

    def _hand_over(self, waiter: asyncio.Future[None]) -> None:
        """What has come: to the one who takes it at once, or to the one who waits."""
        if waiter.done():
            return
        try:
            if self.taker and not self._complete and self.taker(b"".join(self._pieces)):
                self._let_go()
            else:
                waiter.set_result(None)
        except Exception as error:  # Of the taker; it is for the one who waits.
            waiter.set_exception(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: httpx.TransportError) -> None:
        self._error = self._error or error
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # --- what the socket does ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fileno = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self._fail(httpx.ProtocolError("It spoke unasked."))
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.ProtocolError(str(error)))
            return
        if self._received > _MOST_HEAD_BYTES:
            self._limit()
        if self._waiter is not None and (self._pieces or self._complete or not self._reading):
            self._hand_over(self._waiter)

    def _limit(self) -> None:
        if self.status is None:
            self._fail(httpx.ProtocolError("Its head is too long."))
        elif self._received > _MOST_HELD_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        # An answer without a length ends here. llhttp knows, but has no word for it.
        if self.status is not None and not self._has_length():
            self._complete = True
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._complete:
            self._fail(httpx.ReadError("It was closed."))
        elif isinstance(exc, OSError):
            self.unheard = self.status is None and not self._received
            self._fail(httpx.ReadError(str(exc)))
        else:
            self._fail(httpx.RemoteProtocolError("It was closed in the middle of an answer."))

    def _has_length(self) -> bool:
        names = {name.lower() for name, _ in self.headers}
        return not names.isdisjoint({b"content-length", b"transfer-encoding"})

    # --- what the parser does ---

    def on_message_begin(self) -> None:
        if self._complete:
            self._fail(httpx.ProtocolError("It answered twice."))
        self.headers = [] if self.status is None else self.headers

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # What comes before is not the answer.
            self.status = status

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        self._complete = self.status is not None
        self._keeps = self._parser.should_keep_alive()


def _has_something(fileno: int) -> bool:
    """To read, be it only an end."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


class Body(httpx.AsyncByteStream):
    """The rest of an answer. Closing it gives the connection back, or ends it."""

    def __init__(self, connection: Connection, pool: "Transport") -> None:
        self.connection = connection
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.connection.read(math.inf):
            yield data

    async def aclose(self) -> None:
        self._pool.take_back(self.connection)


class Transport(httpx.AsyncBaseTransport):
    """Connections to one server. Those that idle are used again, the last one first."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._tls: ssl.SSLContext | None = None
        self._idle: list[tuple[float, Connection]] = []
        self._busy: set[Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.send(request, math.inf)

    async def send(self, request: httpx.Request, until: float) -> httpx.Response:
        """The answer to `request`, of which nothing but the head is read; errors as in `ask`."""
        connection = await self.ask(request.url, _to_bytes(request), until)
        return httpx.Response(
            connection.status or 0,
            headers=connection.headers,
            stream=Body(connection, self),
            request=request,
        )

    async def ask(self, url: httpx.URL, request: bytes, until: float) -> Connection:
        """A connection on which the answer to `request` has begun; `take_back` ends it.

        Raises:
            TimeoutError: there is none by `until`.
            httpx.TransportError: there is no connection, or it broke.
        """
        while (connection := self._idle_one()) is not None:
            try:
                return await self._put(connection, request, until)
            except httpx.ReadError:
                if not connection.unheard:
                    raise
        return await self._put(await self._connect(url, until), request, until)

    async def _put(self, connection: Connection, request: bytes, until: float) -> Connection:
        self._busy.add(connection)
        try:
            await connection.ask(request, until)
        except BaseException:
            self.take_back(connection)
            raise
        return connection

    def take_back(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not connection.reusable or len(self._idle) >= _MOST_IDLE:
            connection.close()
            return
        connection.release()
        self._idle.append((time.monotonic() + _IDLE_SECONDS, connection))

    async def aclose(self) -> None:
        for connection in (*self._busy, *(each for _, each in self._idle)):
            connection.close()
        self._idle.clear()

    def _idle_one(self) -> Connection | None:
        now = time.monotonic()
        while self._idle and self._idle[0][0] <= now:  # The last to come back is at the end.
            self._idle.pop(0)[1].close()
        while self._idle:
            _, connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        return None

    async def _connect(self, url: httpx.URL, until: float) -> Connection:
        loop = asyncio.get_running_loop()
        port = url.port or (443 if url.scheme == "https" else 80)
        limit = min(loop.time() + self._connect_timeout, until)
        try:
            async with asyncio.timeout_at(None if limit == math.inf else limit):
                _, connection = await loop.create_connection(
                    Connection, url.host, port, ssl=self._tls_for(url)
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("") from error
        except (OSError, ssl.SSLError) as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    def _tls_for(self, url: httpx.URL) -> ssl.SSLContext | None:
        """Made when it is first needed: it reads every certificate there is."""
        if url.scheme == "https" and self._tls is None:
            self._tls = httpx.create_ssl_context()
            # What the machine's owner trusts, as Ollama's own programs do: the list that httpx
            # brings along has no authority of a house.
            self._tls.load_default_certs()
        return self._tls


def _to_bytes(request: httpx.Request) -> bytes:
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (
        request.method.encode(),
        request.url.raw_path,
        b"".join(b"%b: %b\r\n" % header for header in request.headers.raw),
    )
    return head + request.content
