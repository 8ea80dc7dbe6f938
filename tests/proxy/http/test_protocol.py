"""Valid and invalid HTTP/1.1, as raw bytes on a socket, and the answers."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from fakes.scripted_backend import DONE, HANG, EndlessBackend, ScriptedBackend, chat
from fakes.waiting import pause, until
from servers.served import served
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adapters.events import Started, TextDelta
from proxy.config import ServerConfig
from proxy.http.protocol import Connection, Deadlines

URL = b"/v1/chat/completions"
BODY = json.dumps(chat()).encode()
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d" % len(BODY)
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")


class Impatient(Connection):
    deadlines = Deadlines(head=0.1, body=0.1, idle=0.1)


def get(*headers: bytes, target: bytes = b"/health", version: bytes = b"HTTP/1.1") -> bytes:
    """A request with a `Host`, unless `headers` begin with another or with nothing for it."""
    return head(b"GET", b"Host: localhost", *headers, target=target, version=version)


def head(
    method: bytes, *headers: bytes, target: bytes = b"/health", version: bytes = b"HTTP/1.1"
) -> bytes:
    return b"\r\n".join((b"%b %b %b" % (method, target, version), *headers, b"", b""))


def post(*headers: bytes, body: bytes = BODY, version: bytes = b"HTTP/1.1") -> bytes:
    return head(b"POST", b"Host: localhost", *headers, target=URL, version=version) + body


def chunks(*pieces: bytes, rest: bytes = b"\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + rest


async def answers(port: int, *sent: bytes, many: int = 9) -> bytes:
    """Return the bytes of `many` answers, or all until the server closes or a second of silence."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        for piece in sent:
            writer.write(piece)
            await pause(0.005 if len(sent) < 4 else 0)
        async with asyncio.timeout(1):
            while whole_answers(said) < many and (data := await reader.read(65536)):
                said += data
        return said if whole_answers(said) == many else said + b"<closed>"
    except TimeoutError:
        return said
    except ConnectionResetError:
        return said + b"<closed>"
    finally:
        writer.transport.abort()


def whole_answers(said: bytes) -> int:
    """Count the complete answers, by their lengths."""
    count = 0
    while found := re.match(rb"HTTP/1\.1 .*?content-length: (\d+)\r\n.*?\r\n\r\n", said, re.DOTALL):
        said = said[found.end() + int(found[1]) :]
        count += 1
    return count


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", said)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Override the fixture for the whole module, which shares a server."""
    return "asyncio"


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    async with served(ScriptedBackend()) as port:
        yield port


REFUSED = {
    "two hosts": (400, get(b"Host: localhost")),
    "no host": (400, head(b"GET")),
    "another server's address": (400, get(target=b"http://evil.com/health")),
    "fragment": (400, get(target=b"/health#x")),
    "no path": (400, get(target=b"health")),
    "star": (400, get(target=b"*")),
    "tunnel": (400, head(b"CONNECT", b"Host: localhost", target=b"localhost:80")),
    "tunnel to a path": (400, head(b"CONNECT", b"Host: localhost", target=b"/health")),
    "NUL in the path": (400, get(target=b"/hea\0lth")),
    "DEL in the path": (400, get(target=b"/hea\x7flth")),
    "UTF-8 in the path": (400, get(target="/é".encode())),
    "space in the path": (400, get(target=b"/hea lth")),
    "long path": (431, get(target=b"/" + b"a" * 70_000)),
    "long header": (431, get(b"X: " + b"a" * 70_000)),
    "header without end": (431, get()[:-2] + b"X: " + b"a" * 1_000_000),
    "many headers": (431, get(*(b"X%d: y" % at for at in range(200)))),
    "length twice": (400, post(LENGTH, LENGTH)),
    "two lengths": (400, post(LENGTH, b"Content-Length: 5")),
    "list of lengths": (400, post(LENGTH + b", %d" % len(BODY))),
    "negative length": (400, post(b"Content-Length: -5")),
    "length with a plus": (400, post(b"Content-Length: +5")),
    "huge length": (400, post(b"Content-Length: " + b"9" * 30)),
    "length over the limit": (413, post(b"Content-Length: 999999999999")),
    "hexadecimal length": (400, post(b"Content-Length: 0x10")),
    "length in other digits": (400, post("Content-Length: ٣".encode())),
    "empty length": (400, post(b"Content-Length: ")),
    "length and chunks": (400, post(LENGTH, CHUNKED, body=chunks(BODY))),
    "chunks and length": (400, post(CHUNKED, LENGTH, body=chunks(BODY))),
    "another coding": (400, post(b"Transfer-Encoding: gzip")),
    "two codings": (400, post(b"Transfer-Encoding: gzip, chunked", body=chunks(BODY))),
    "chunked not last": (400, post(b"Transfer-Encoding: chunked, gzip", body=chunks(BODY))),
    "chunked twice": (400, post(CHUNKED, CHUNKED, body=chunks(BODY))),
    "almost chunked": (400, post(b"Transfer-Encoding: xchunked", body=chunks(BODY))),
    "chunks in HTTP/1.0": (400, post(CHUNKED, body=chunks(BODY), version=b"HTTP/1.0")),
    "NUL in a header": (400, get(b"X: a\0b")),
    "CR in a header": (400, get(b"X: a\rb")),
    "LF in a header": (400, get(b"X: a\nContent-Length: 5")),
    "LF for CRLF": (400, b"GET /health HTTP/1.1\nHost: localhost\n\n"),
    "folded header": (400, get(b"X: a\r\n b")),
    "folded host": (400, head(b"GET", b"Host: local\r\n host")),
    "fold at once": (400, head(b"GET", b" Host: localhost")),
    "space before the colon": (400, get(b"Content-Length : 3") + b"abc"),
    "no name": (400, get(b": a")),
    "no colon": (400, get(b"X")),
    "control in a name": (400, get(b"X\x01: a")),
    "parenthesis in a name": (400, get(b"X(: a")),
    "chunk of no size": (400, post(CHUNKED, body=b"zz\r\nab\r\n0\r\n\r\n")),
    "negative chunk": (400, post(CHUNKED, body=b"-1\r\nab\r\n0\r\n\r\n")),
    "huge chunk": (400, post(CHUNKED, body=b"f" * 19 + b"\r\nab\r\n")),
    "chunk without an end": (400, post(CHUNKED, body=b"2\r\nabX\r\n0\r\n\r\n")),
    "chunk with LF": (400, post(CHUNKED, body=b"%x\n%b\n0\n\n" % (len(BODY), BODY))),
    "bad trailer": (400, post(CHUNKED, body=chunks(BODY, rest=b"X y\r\n\r\n"))),
    "extension without end": (400, post(CHUNKED, body=b"2;" + b"a" * 1_000_000)),
    "RTSP": (400, get(version=b"RTSP/1.0")),
    "two spaces": (400, get(target=b" /health")),
    "empty line before": (400, b"\r\n" + get()),
    "space before": (400, b" " + get()),
    "HTTP/0.9": (400, b"GET /health\r\n\r\n"),
    "HTTP/0.9, said so": (505, get(version=b"HTTP/0.9")),
    "HTTP/1.2": (505, get(version=b"HTTP/1.2")),
    "HTTP/2.0": (505, get(version=b"HTTP/2.0")),
    "HTTP/2, known before": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no version": (400, get(version=b"HTTP/1.1x")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)),
    "garbage": (400, b"\xff\xfe\xfd\r\n\r\n"),
    "unknown method": (400, head(b"G@T", b"Host: localhost")),
}


@pytest.mark.parametrize(("status", "sent"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_no_request_is_refused_and_the_connection_closed(
    port: int, status: int, sent: bytes
):
    said = await answers(port, sent)
    assert statuses(said) == [status]
    assert said.endswith(b"<closed>")
    top, _, body = said.removesuffix(b"<closed>").partition(b"\r\n\r\n")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert b"x-request-id: req_" in top
    assert b"x-tandem-backend: none" in top
    assert b"connection: close" in top
    assert statuses(await answers(port, get(), many=1)) == [200]


@pytest.mark.parametrize(
    "sent",
    [
        get(b"Origin: app://x", b"X: " + b"a" * 70_000),
        head(b"POST", b"Host: localhost", b"Origin: app://x", LENGTH, target=URL),
        get(b"Origin: app://x", b"Content-Length: 3", b"Content-Length: 4"),
    ],
    ids=["431", "408", "400"],
)
@pytest.mark.parametrize("allowed", [True, False])
async def test_refusal_can_be_read_by_pages_of_allowed_origins(sent: bytes, allowed: bool):
    class Configured(Impatient):
        def settings(self) -> ServerConfig:
            return ServerConfig(allowed_origins=("app://*",) if allowed else ())

    async with served(ScriptedBackend(), protocol=Configured) as port:
        said = await answers(port, sent)
    assert statuses(said)[0] in (400, 408, 431)
    assert (b"access-control-allow-origin: app://x\r\n" in said) is allowed


@pytest.mark.parametrize("name", ["header without end", "extension without end", "bad trailer"])
async def test_what_comes_in_pieces_is_refused_as_well(port: int, name: str):
    status, sent = REFUSED[name]
    third = len(sent) // 3
    said = await answers(port, sent[:third], sent[third : 2 * third], sent[2 * third :])
    assert statuses(said) == [status]


TAKEN = {
    "plain": (200, get()),
    "query": (200, get(target=b"/health?a=b")),
    "NUL, escaped": (404, get(target=b"/health%00")),
    "two slashes": (404, get(target=b"//evil.com/health")),
    "HTTP/1.0": (200, get(version=b"HTTP/1.0")),
    "Latin-1 in a header": (200, get(b"X: a\xffb")),
    "a body where none is needed": (200, get(b"Content-Length: 3") + b"abc"),
    "post": (200, post(LENGTH)),
    "chunks": (200, post(CHUNKED, body=chunks(BODY[:9], BODY[9:]))),
    "chunks, shouted": (200, post(b"TRANSFER-ENCODING: CHUNKED", body=chunks(BODY))),
    "chunk with an extension": (200, post(CHUNKED, body=b"1;a=b\r\n{\r\n" + chunks(BODY[1:]))),
    "trailer": (200, post(CHUNKED, body=chunks(BODY, rest=b"Host: evil.com\r\n\r\n"))),
    "offered WebSocket": (200, get(b"Connection: Upgrade", b"Upgrade: websocket")),
    "offered HTTP/2": (200, post(LENGTH, *H2C)),
    "offered HTTP/2, chunks": (200, post(CHUNKED, *H2C, body=chunks(BODY))),
    "method of others": (405, head(b"DELETE", b"Host: localhost")),
}


@pytest.mark.parametrize(("status", "sent"), TAKEN.values(), ids=TAKEN.keys())
async def test_what_is_a_request_is_answered_byte_by_byte_as_well(
    port: int, status: int, sent: bytes
):
    middle = len(sent) // 2
    for pieces in ([sent], [sent[:middle], sent[middle:]], [bytes([byte]) for byte in sent]):
        assert statuses(await answers(port, *pieces, many=1)) == [status]


async def test_chunks_of_a_byte_are_passed_on_together(port: int, monkeypatch: pytest.MonkeyPatch):
    """Each copy of the body that waits has its length: 40,000 held the loop for 0.4 s."""
    calls: list[bytes] = []
    on_body = HttpToolsProtocol.on_body

    def counted(self: HttpToolsProtocol, body: bytes) -> None:
        calls.append(body)
        on_body(self, body)

    monkeypatch.setattr(HttpToolsProtocol, "on_body", counted)
    pieces = [bytes([byte]) for byte in BODY]
    assert statuses(await answers(port, post(CHUNKED, body=chunks(*pieces)), many=1)) == [200]
    assert b"".join(calls) == BODY
    assert len(calls) < len(BODY) / 8


async def test_expected_100_comes_before_the_body(port: int):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(LENGTH, b"Expect: 100-continue", body=b""))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_http_1_0_gets_no_100(port: int):
    said = await answers(port, post(LENGTH, b"Expect: 100-continue", version=b"HTTP/1.0"), many=1)
    assert statuses(said) == [200]


async def test_requests_sent_together_are_answered_in_their_order(port: int):
    said = await answers(port, post(LENGTH) + get(target=b"/nope") + get(), many=3)
    assert statuses(said) == [200, 404, 200]


@pytest.mark.parametrize("second", ["no colon", "chunk of no size", "HTTP/2.0"])
async def test_bad_request_after_a_good_one_spoils_only_itself(port: int, second: str):
    status, sent = REFUSED[second]
    said = await answers(port, post(LENGTH) + sent)
    assert statuses(said) == [200, status]
    assert said.endswith(b"<closed>")


async def test_nothing_is_read_after_the_last_request(port: int):
    said = await answers(port, get(b"Connection: close") + get())
    assert statuses(said) == [200]
    assert said.endswith(b"<closed>")


async def test_more_requests_than_anybody_waits_for_are_refused():
    async with served(ScriptedBackend([Started(), HANG])) as port:
        streamed = json.dumps(chat(stream=True)).encode()
        first = post(b"Content-Length: %d" % len(streamed), body=streamed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        await reader.readuntil(b"assistant")
        writer.write(get() * 100)
        await pause(0.05)  # The server reads meanwhile, and sends nothing.
        writer.transport.abort()
        assert statuses(await answers(port, get(), many=1)) == [200]


async def test_client_that_sent_more_and_goes_ends_the_work():
    backend = EndlessBackend()
    async with served(backend) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        streamed = json.dumps(chat(stream=True)).encode()
        writer.write(post(b"Content-Length: %d" % len(streamed), body=streamed) + get())
        await until(lambda: backend.running > 0)
        writer.transport.abort()
        await until(lambda: backend.running == 0)


async def test_answer_to_a_body_that_was_not_read_is_the_last(port: int):
    """The rest of the body would be taken for a request, or a request for the rest of the body."""
    said = await answers(port, post(LENGTH, b"Content-Type: text/plain", body=b"{"), get())
    assert statuses(said) == [415]
    assert said.endswith(b"<closed>")


WORDS = [TextDelta(word) for word in ("One", "\u2028two\r\n", " three")]


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_each_line_of_ollamas_stream_is_a_chunk(version: bytes):
    """Programs take each chunk, as httpx and requests give it, for one object."""
    body = json.dumps(chat()).encode()
    length = b"Content-Length: %d" % len(body)
    asked = head(b"POST", b"Host: localhost", length, target=b"/api/chat", version=version) + body
    async with served(ScriptedBackend([Started(), *WORDS, DONE])) as port:
        said = await answers(port, asked, many=1)
    lines = said.partition(b"\r\n\r\n")[2].removesuffix(b"<closed>")
    if version == b"HTTP/1.1":
        lines = b"".join(read_chunks(lines, each=json.loads))
    texts = [json.loads(line)["message"]["content"] for line in lines.split(b"\n")[:-1]]
    assert texts == [*(word.text for word in WORDS), ""]


def read_chunks(body: bytes, each: Callable[[bytes], object]) -> Iterator[bytes]:
    """The chunks of a body, for each of which `each` is called."""
    while body != b"0\r\n\r\n":
        size, _, body = body.partition(b"\r\n")
        piece, body = body[: int(size, 16)], body[int(size, 16) + 2 :]
        each(piece)
        yield piece


async def test_stream_for_http_1_0_has_no_chunks(port: int):
    streamed = json.dumps(chat(stream=True)).encode()
    length = b"Content-Length: %d" % len(streamed)
    said = await answers(port, post(length, body=streamed, version=b"HTTP/1.0"))
    top, _, body = said.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in top
    assert b"connection: close" in top
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n<closed>")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", []),
        (b"GET /health HT", [408]),
        (get()[:-2], [408]),
        (post(LENGTH, body=BODY[:5]), [408]),
        (get(), [200]),
        (get() + b"GET", [200, 408]),
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "nothing more", "half the next"],
)
@pytest.mark.slow
async def test_slow_client_is_left(sent: bytes, expected: list[int]):
    async with served(ScriptedBackend(), protocol=Impatient) as port:
        said = await answers(port, sent)
    assert statuses(said) == expected
    assert said.endswith(b"<closed>")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models", "/api/chat", "/v1/completions"])
async def test_refusal_of_the_connection_is_in_the_dialect_of_the_path(path: str):
    """431, 408 and 400, which the application does not see."""
    version = b"anthropic-version: 2023-06-01" if path == "/v1/models" else b"X: y"
    start = head(b"POST", b"Host: localhost", version, target=path.encode())[:-2]
    async with served(ScriptedBackend(), protocol=Impatient) as port:
        for rest, status in (
            (b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
            (b"Content-Length: 5\r\n\r\n{", 408),
            (b"Content-Length: -1\r\n\r\n", 400),
        ):
            if status == 408 and path == "/v1/models":  # It takes no POST, and waits for no body.
                continue
            said = await answers(port, start + rest)
            assert statuses(said) == [status]
            top, _, body = said.removesuffix(b"<closed>").partition(b"\r\n\r\n")
            error = json.loads(body)
            if path.startswith("/api/"):
                assert set(error) == {"error"}
                assert isinstance(error["error"], str)
            elif path == "/v1/completions":
                assert set(error["error"]) == {"message", "type", "param", "code"}
            else:
                assert error["type"] == "error"
                assert b"\r\nrequest-id: " + error["request_id"].encode() in top


async def test_long_body_may_take_longer_than_a_short_one():
    """A fixed deadline would limit the size of an upload to `/api/blobs`."""
    body = json.dumps(chat(messages=[{"role": "user", "content": "x" * 30_000}])).encode()
    sent = post(b"Content-Length: %d" % len(body), body=body)
    async with served(ScriptedBackend(), protocol=Impatient) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent[:-1])
        await pause(0.2)  # Twice the deadline of a body of a few bytes.
        writer.write(sent[-1:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.slow
async def test_slow_answer_is_waited_for():
    backend = ScriptedBackend([Started(), TextDelta("x"), HANG])
    async with served(backend, protocol=Impatient) as port:
        assert await answers(port, post(LENGTH)) == b""
