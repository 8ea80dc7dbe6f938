"""An Ollama behind TLS: whose certificate is believed, and what is said of one that is not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.recorded_ollama import StandIn

from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError
from adapters.ollama.backend import OllamaBackend

OWN = Path(__file__).parents[2] / "data" / "tls" / "localhost.pem"
"""A certificate of localhost that nobody vouches for, and its key."""


@pytest.fixture
async def address(standin: StandIn) -> AsyncIterator[str]:
    """The stand-in, by TLS."""
    standin.replays("version")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(OWN)
    server = await asyncio.start_server(standin.serve, "127.0.0.1", 0, ssl=context)
    yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    server.close()


async def detail(address: str) -> str | None:
    backend = OllamaBackend(OllamaConfig(host=address))
    try:
        said = (await backend.health()).detail
        return None if said is None else said.removeprefix(f"{address}: ")
    finally:
        await backend.aclose()


async def test_certificate_that_the_owner_trusts_is_believed(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(OWN))
    assert await detail(address) is None


async def test_certificate_that_nobody_vouches_for_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    said = await detail(address)
    assert said is not None
    assert said.startswith("Ollama's certificate is not trusted (self-signed certificate): ")
    assert "$SSL_CERT_FILE" in said


async def test_no_tls_where_the_address_says_https_is_told():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        said = await detail(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert said == "Ollama's address is https, but the server does not use TLS: try http."


async def test_name_that_leads_nowhere_is_told():
    backend = OllamaBackend(OllamaConfig(host="nowhere.invalid"))
    with pytest.raises(BackendUnavailableError, match="name of Ollama's host cannot be resolved"):
        await backend.list_models()
    await backend.aclose()
