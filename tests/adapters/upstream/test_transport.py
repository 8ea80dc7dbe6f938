"""HTTP as servers really speak it, on a real socket, and what is done where they do not."""

import asyncio
import gc
import math
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import cast

import httpx
import pytest
from fakes.waiting import pause, settled, until

from adapters.upstream.transport import Body, Connection, ReadTurn, Transport

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    def __init__(self, speak: Speak) -> None:
        self.url = ""
        self.connections = 0
        self.open = 0
        self._speak = speak

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._speak(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client has gone, as it may.
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def speaking(speak: Speak) -> AsyncIterator[Server]:
    it = Server(speak)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield it
    finally:
        server.close()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(connect_timeout=1)
    yield transport
    await transport.aclose()


def says(*answers: bytes, then_closes: bool = False) -> Speak:
    """One of `answers` to each request of a connection, the last one to all that follow."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        remaining = list(answers)
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(remaining[0])
            remaining = remaining[1:] or remaining
            if then_closes:
                await writer.drain()
                return

    return speak


def soon(seconds: float = 2.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def ask(transport: Transport, server: Server) -> tuple[int, bytes]:
    response = await transport.send(httpx.Request("GET", server.url), soon())
    try:
        return response.status_code, await read_all(response)
    finally:
        await response.aclose()


async def read_all(response: httpx.Response) -> bytes:
    stream, data = response.stream, bytearray()
    assert isinstance(stream, Body)
    while piece := await stream.connection.read(soon()):
        data += piece
    return bytes(data)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (WHOLE, b"ok"),
        (CHUNKED + b"1;x=y\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHOLE, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_answer_is_read_and_the_connection_used_again(
    transport: Transport, answer: bytes, body: bytes
):
    async with speaking(says(answer)) as server:
        for _ in range(3):
            assert (await ask(transport, server))[1] == body
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
async def test_answer_that_ends_the_connection_is_whole(transport: Transport, answer: bytes):
    async with speaking(says(answer, then_closes=True)) as server:
        for _ in range(2):
            assert await ask(transport, server) == (200, b"ok")
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"",
    ],
)
async def test_answer_that_breaks_off_is_an_error(transport: Transport, answer: bytes):
    async with speaking(says(answer, then_closes=True)) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(transport, server)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    ],
)
async def test_what_is_no_http_is_an_error_at_once(transport: Transport, answer: bytes):
    async with speaking(says(answer)) as server:
        with pytest.raises(httpx.ProtocolError) as failure:
            await ask(transport, server)
        # That one is for what broke off.
        assert not isinstance(failure.value, httpx.RemoteProtocolError)
        await until(lambda: not server.open)


async def test_second_response_to_one_request_is_an_error(transport: Transport):
    async with speaking(says(WHOLE + WHOLE.replace(b"ok", b"no"))) as server:
        for _ in range(2):
            assert await ask(transport, server) == (200, b"ok")
        assert server.connections == 2


async def test_connection_that_was_closed_while_idle_is_not_used(transport: Transport):
    async with speaking(says(WHOLE, then_closes=True)) as server:
        for _ in range(2):
            assert await ask(transport, server) == (200, b"ok")
            await until(lambda: not server.open)
        assert server.connections == 2


async def test_connection_that_was_closed_this_moment_is_not_used(transport: Transport):
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(20)
    server = Server(says())
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(WHOLE)

    with listening:
        for _ in range(3):
            answering = asyncio.create_task(asyncio.to_thread(answer))
            assert await ask(transport, server) == (200, b"ok")
            await answering  # The loop has not noticed the close yet.


async def test_request_that_met_a_closing_connection_is_put_again(transport: Transport):
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        cast(asyncio.ReadTransport, writer.transport).pause_reading()
        writer.write(WHOLE)
        await pause(0.05)
        writer.transport.abort()

    async with speaking(speak) as server:
        for _ in range(3):
            assert await ask(transport, server) == (200, b"ok")
        assert server.connections == 3


async def test_request_that_was_read_is_not_put_again(transport: Transport):
    is_read = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)
        await reader.readuntil(b"\r\n\r\n")
        is_read.set()
        await reader.read()

    async with speaking(speak) as server:
        await ask(transport, server)
        asking = asyncio.create_task(ask(transport, server))
        await is_read.wait()
        await transport.aclose()
        with pytest.raises(httpx.ReadError):
            await asking
        assert server.connections == 1


async def test_two_at_once_have_a_connection_each(transport: Transport):
    async with speaking(says(WHOLE)) as server:
        await asyncio.gather(ask(transport, server), ask(transport, server))
        await ask(transport, server)
        assert server.connections == 2


async def test_connections_of_a_crowd_are_closed_when_it_has_gone():
    async with (
        speaking(says(WHOLE)) as server,
        aclosing(Transport(connect_timeout=1, idle_seconds=0.1)) as transport,
    ):
        await asyncio.gather(*(ask(transport, server) for _ in range(8)))
        assert server.open == 8
        for _ in range(8):  # Each in time for the one of the last.
            await pause(0.03)
            await ask(transport, server)
        await until(lambda: server.open <= 1)


async def test_server_waits_while_the_body_is_not_read(transport: Transport):
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with speaking(endless) as server:
        response = await transport.send(httpx.Request("GET", server.url), soon())
        held = await settled(lambda: sent)
        stream = response.stream
        assert isinstance(stream, Body)
        received = 0
        while received <= held:
            received += len(await stream.connection.read(soon()))
        await response.aclose()


@pytest.mark.slow
async def test_one_deadline_after_another_is_kept(transport: Transport):
    """One that is nearer than the last too, though the timer is not set for each."""

    async def hesitates(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(3):
            writer.write(b"x")
            await pause(0.06)
        await reader.read()

    async with speaking(hesitates) as server:
        response = await transport.send(httpx.Request("GET", server.url), soon(0.1))
        stream = response.stream
        assert isinstance(stream, Body)
        assert [await stream.connection.read(soon(0.1)) for _ in range(3)] == [b"x"] * 3
        for seconds in (0.3, 0.1):
            began = soon(0)
            with pytest.raises(TimeoutError):
                await stream.connection.read(soon(seconds))
            assert seconds <= soon(0) - began + 0.01 < seconds + 0.5
        await response.aclose()


async def test_httpx_itself_can_use_it(transport: Transport):
    async with (
        speaking(says(CHUNKED + b"2\r\nok\r\n0\r\n\r\n")) as server,
        httpx.AsyncClient(transport=transport) as client,
    ):
        for _ in range(2):
            assert (await client.get(server.url)).text == "ok"
        assert server.connections == 1


# --- push -------------------------------------------------------------------------------------

CHUNK = b"2\r\nok\r\n"


async def pushed(
    transport: Transport, server: Server, receive: Callable[[bytes], bool], seconds: float = 2.0
) -> bool:
    """The result of one `push` of the body, read from its first byte."""
    connection = await transport.ask(httpx.URL(server.url), [REQUEST], soon())
    try:
        return await connection.push(receive, soon(seconds))
    finally:
        transport.take_back(connection)


REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def steps(*pieces: bytes) -> tuple[Speak, Callable[[bytes], bool], list[bytes]]:
    """A server that sends each piece when the one before was received, and what receives them."""
    received: list[bytes] = []
    turn = asyncio.Semaphore(0)

    def receive(piece: bytes) -> bool:
        received.append(piece)
        turn.release()
        return False

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        for piece in pieces:
            writer.write(piece)
            await turn.acquire()
        writer.write(b"0\r\n\r\n")
        await reader.read()

    return speak, receive, received


async def test_each_piece_is_pushed_as_it_arrives(transport: Transport):
    speak, receive, received = steps(CHUNK, CHUNK, CHUNK)
    async with speaking(speak) as server:
        assert await pushed(transport, server, receive) is False
    assert received == [b"ok"] * 3


async def test_push_stops_where_the_receiver_says_so_and_goes_on(transport: Transport):
    async with speaking(says(CHUNKED + CHUNK + b"0\r\n\r\n")) as server:
        connection = await transport.ask(httpx.URL(server.url), [REQUEST], soon())
        received: list[bytes] = []
        assert await connection.push(lambda piece: not received.append(piece), soon()) is True
        assert await connection.push(lambda piece: not received.append(piece), soon()) is False
        transport.take_back(connection)
        assert received == [b"ok"]
        assert await ask(transport, server) == (200, b"ok")
        assert server.connections == 1


async def test_paused_connection_is_used_again_after_its_end(transport: Transport):
    """The end of the body arrives during the pause."""
    sent, resumed = asyncio.Event(), asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED + CHUNK)
        await resumed.wait()
        writer.write(b"0\r\n\r\n")
        sent.set()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)

    async with speaking(speak) as server:
        connection = await transport.ask(httpx.URL(server.url), [REQUEST], soon())
        assert await connection.push(lambda _: True, soon()) is True
        resumed.set()
        await sent.wait()
        assert await connection.read(soon()) == b""
        transport.take_back(connection)
        assert await ask(transport, server) == (200, b"ok")
        assert server.connections == 1


async def test_error_of_the_receiver_is_raised_by_push(transport: Transport):
    def fails(_piece: bytes) -> bool:
        raise ArithmeticError

    speak, _, _ = steps(CHUNK, CHUNK)
    async with speaking(speak) as server:
        with pytest.raises(ArithmeticError):
            await pushed(transport, server, fails)


@pytest.mark.parametrize(
    ("rest", "failure"),
    [(b"zz\r\n", httpx.ProtocolError), (b"", httpx.RemoteProtocolError)],
)
async def test_break_comes_after_the_pieces_before(
    transport: Transport, rest: bytes, failure: type[Exception]
):
    received: list[bytes] = []
    async with speaking(says(CHUNKED + CHUNK + rest, then_closes=True)) as server:
        with pytest.raises(failure):
            await pushed(transport, server, lambda piece: bool(received.append(piece)))
    assert received == [b"ok"]


async def test_push_ends_at_its_deadline_which_the_receiver_may_move(transport: Transport):
    speak, receive, received = steps(CHUNK, CHUNK, b"")
    async with speaking(speak) as server:
        connection = await transport.ask(httpx.URL(server.url), [REQUEST], soon())

        def moves(piece: bytes) -> bool:
            connection.until = soon(0.3)
            return receive(piece)

        with pytest.raises(TimeoutError):
            await connection.push(moves, soon(0.3))
        transport.take_back(connection)
    assert received == [b"ok"] * 2


class Silent(asyncio.Transport):
    """A transport without a peer."""

    reads = True

    def __init__(self) -> None:
        super().__init__({"socket": self})

    def fileno(self) -> int:
        return 0

    def writelines(self, list_of_data: object) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


def connected(turn: ReadTurn) -> tuple[Connection, Silent, "asyncio.Task[None]"]:
    connection, transport = Connection(turn), Silent()
    connection.connection_made(transport)
    return connection, transport, asyncio.create_task(connection.ask([b"GET"], math.inf))


async def read_three_at_once() -> tuple[Connection, Silent]:
    """Return the last of three connections that got data in one turn, of which two are parsed."""
    turn = ReadTurn(per_turn=1)
    connections = [connected(turn) for _ in range(3)]
    await asyncio.sleep(0)
    for connection, _, _ in connections:
        connection.data_received(WHOLE)
    assert [connection.status for connection, _, _ in connections] == [200, 200, None]
    return connections[-1][:2]


async def test_reads_of_one_moment_are_parsed_in_turns():
    last, transport = await read_three_at_once()
    assert not transport.reads
    await until(lambda: last.status is not None)
    assert (last.status, transport.reads) == (200, True)
    assert await last.read(math.inf) == b"ok"


async def test_data_that_waits_for_its_turn_is_parsed_before_the_end():
    last, _ = await read_three_at_once()
    assert not last.is_open
    last.eof_received()
    assert last.status == 200
    assert await last.read(math.inf) == b"ok"


async def test_closed_connection_leaves_nothing_to_the_garbage_collector(transport: Transport):
    async with speaking(says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")) as server:
        gc.disable()
        try:
            url = httpx.URL(server.url)
            request = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]
            connection = await transport.ask(url, request, math.inf)
            freed = weakref.ref(connection)
            transport.take_back(connection)
            del connection
            await until(lambda: freed() is None and not server.open)
        finally:
            gc.enable()
