"""Download of images: allowed URLs are downloaded, hostile ones reach no server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from fakes.pictures import png

from adapters.errors import BackendError, InvalidRequestError, UnsupportedParameterError
from proxy.config import ImagesConfig
from proxy.images.fetch import Fetcher, is_public

PICTURE = png(3, 5)


class Canary:
    """A server that records the head of each request, and responds with `answer`."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.port = 0
        self.answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + PICTURE

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.read(10_000)).decode(errors="replace"))
        writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def open_canary() -> AsyncIterator[Canary]:
    canary = Canary()
    server = await asyncio.start_server(canary.serve, "127.0.0.1", 0)
    canary.port = server.sockets[0].getsockname()[1]
    try:
        yield canary
    finally:
        server.close()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    async with open_canary() as canary:
        yield canary


def fetcher(*hosts: str, plain_http: bool = True, max_bytes: int = 1000) -> Fetcher:
    """Build a fetcher that takes 127.0.0.1 for a public address."""
    config = ImagesConfig(fetch_from=hosts, plain_http=plain_http, max_bytes=max_bytes)
    return Fetcher(config, is_allowed=lambda address: address == "127.0.0.1")


async def failure(work: Awaitable[bytes]) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await work
    assert caught.value.param == "images"
    return caught.value


async def test_image_of_an_allowed_host_is_fetched(canary: Canary):
    host = f"localhost:{canary.port}"
    assert await fetcher(host).fetch(f"http://{host}/a.png?b=1") == PICTURE
    (head,) = canary.heads
    assert head.startswith("GET /a.png?b=1 HTTP/1.1\r\n")
    assert f"host: {host}\r\n" in head.lower()
    assert "cookie" not in head.lower()


async def test_nothing_is_fetched_where_no_host_is_allowed(canary: Canary):
    error = await failure(fetcher().fetch(f"http://localhost:{canary.port}/"))
    assert isinstance(error, UnsupportedParameterError)
    assert "data:" in error.message


async def test_plain_http_is_refused_unless_it_is_configured(canary: Canary):
    host = f"localhost:{canary.port}"
    error = await failure(fetcher(host, plain_http=False).fetch(f"http://{host}/"))
    assert isinstance(error, UnsupportedParameterError)
    assert not canary.heads


async def test_server_without_tls_fails_the_download(canary: Canary):
    host = f"localhost:{canary.port}"
    canary.answer = b"no TLS"
    assert isinstance(await failure(fetcher(host).fetch(f"https://{host}/")), InvalidRequestError)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "404 No", "500 No"])
async def test_redirects_and_errors_are_not_followed(canary: Canary, status: str):
    host = f"localhost:{canary.port}"
    location = f"location: http://{host}/inner\r\n"
    canary.answer = f"HTTP/1.1 {status}\r\n{location}content-length: 0\r\n\r\n".encode()
    assert isinstance(await failure(fetcher(host).fetch(f"http://{host}/")), InvalidRequestError)
    assert len(canary.heads) == 1


async def test_too_many_bytes_are_not_read(canary: Canary):
    host = f"localhost:{canary.port}"
    canary.answer += bytes(5000)
    error = await failure(fetcher(host).fetch(f"http://{host}/"))
    assert "more than 1000 bytes" in error.message


async def test_unreachable_host_is_an_invalid_request():
    error = await failure(fetcher("localhost:1").fetch("http://localhost:1/"))
    assert isinstance(error, InvalidRequestError)


HOSTILE = (
    "http://127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://017700000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:ffff:7f00:0001]:{port}/",
    "http://[::ffff:0:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://images.example@127.0.0.1:{port}/",
    "http://images.example:80@127.0.0.1:{port}/",
    "http://images.example\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@images.example/",
    "http://127.0.0.1:{port}#@images.example/",
    "http://127.0.0.1:{port}?@images.example/",
    "http://127.0.0.1:{port}/@images.example/",
    "http:\\\\127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\t/",
    "http://127.0.0.1\n:{port}/",
    " http://127.0.0.1:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://images.example%40127.0.0.1:{port}/",
    "http://images.example%00.127.0.0.1:{port}/",
    "http://images.example.127.0.0.1.invalid:{port}/",
    "http://images.example:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "unix:///run/x.sock",
    "javascript:alert(1)",
    "",
    "http://",
    "http://xn--a:{port}/",
    "http://xn--:{port}/",
    "http://xn--zz--9999999:{port}/",
    "http://images.xn--a.example:{port}/",
)


@pytest.mark.parametrize("form", HOSTILE)
@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed"])
async def test_hostile_url_reaches_no_server(canary: Canary, form: str, listed: bool):
    """An allowed name must resolve to a public address, too."""
    port = canary.port
    names = ("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0", "::1")
    hosts = tuple(f"{name}:{port}" for name in names) if listed else ("images.example",)
    fetching = Fetcher(ImagesConfig(fetch_from=hosts, plain_http=True)).fetch
    await failure(fetching(form.format(port=port)))
    assert not canary.heads


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888"]
)
def test_address_of_the_internet_is_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::",
        "fc00::1",
        "fe80::1%eth0",
        "ff02::1",
        "fec0::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "5f00::1",
        "4000::1",
        "100::1",
        "2001:db8::1",
        "2001:10::1",
        "2001:20::1",
        "64:ff9b:1::1",
        "::1.1.1.1",
        "192.0.0.9",
        "192.88.99.1",
    ],
)
def test_address_of_elsewhere_is_not_public(address: str):
    assert not is_public(address)


async def test_name_is_resolved_once_and_all_its_addresses_must_be_public(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
):
    resolved: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        resolved.append(host)
        return [(2, 1, 6, "", (address, port)) for address in answers]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    url = f"http://images.example:{canary.port}/"
    answers = ["1.1.1.1", "127.0.0.1"]
    real = Fetcher(ImagesConfig(fetch_from=(f"images.example:{canary.port}",), plain_http=True))
    await failure(real.fetch(url))
    assert (resolved, canary.heads) == (["images.example"], [])
    answers = ["127.0.0.1"]
    assert await fetcher(f"images.example:{canary.port}").fetch(url) == PICTURE
