"""Clients that read nothing, or have vanished: they keep no answer in progress."""

import asyncio
import json
import socket

import pytest
from fakes.scripted_backend import DONE, EndlessBackend, ScriptedBackend, chat
from fakes.waiting import pause, until
from servers.served import served

from adapters.events import Started, TextDelta
from proxy.http.protocol import Connection, Deadlines
from proxy.http.stalled_clients import limit_silence

LONG = "x" * 1_000_000


class Impatient(Connection):
    deadlines = Deadlines(writing=0.3)


def request(**fields: object) -> bytes:
    body = json.dumps(chat(**fields)).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def connect(port: int) -> socket.socket:
    """Connect a client with a small buffer: what it does not read stays on the server.

    A full buffer may not take the server's reset. The system's probes ask for it again.
    """
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    limit_silence(client, 4.0)
    return client


async def test_client_that_does_not_read_ends_its_stream():
    backend = EndlessBackend()
    async with served(backend, protocol=Impatient) as port:
        with connect(port) as client:
            client.sendall(request(stream=True))
            await until(lambda: backend.running > 0)
            await until(lambda: backend.running == 0)


async def test_client_that_does_not_read_an_answer_in_one_piece_is_cut():
    pieces = [Started(), *[TextDelta(LONG)] * 20]
    backend = ScriptedBackend([*pieces, DONE])
    async with served(backend, protocol=Impatient) as port:
        with connect(port) as client:
            client.sendall(request())
            await until(lambda: _is_reset(client))


def _is_reset(client: socket.socket) -> bool:
    """True once the server has reset the connection; reads nothing."""
    error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return error != 0


async def test_client_that_reads_slowly_gets_all_of_it():
    backend = ScriptedBackend([Started(), *[TextDelta(LONG)] * 6, DONE])
    async with served(backend, protocol=Impatient) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
        writer.write(request(stream=True))
        said = 0
        last = b""
        while not last.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            piece = await reader.read(200_000)
            assert piece, "the connection was cut"
            said += len(piece)
            last = (last + piece)[-100:]
            await pause(0.005)
        writer.close()
    assert said > 6_000_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="an option of Linux")
def test_system_ends_connections_of_which_the_peer_acknowledges_nothing():
    with socket.socket() as client:
        limit_silence(client, 60.0)
        options = {
            name: client.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        }
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert options == {
        "TCP_USER_TIMEOUT": 60_000,
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
    }
