"""An Ollama behind TLS: trusted certificates, and the message for one that is not."""

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
"""A self-signed certificate of localhost, and its key."""


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


async def test_certificate_that_the_machine_trusts_is_accepted(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(OWN))
    assert await detail(address) is None


async def test_untrusted_certificate_is_named_in_the_health_report(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    said = await detail(address)
    assert said is not None
    assert said.startswith("Ollama's certificate is not trusted (self-signed certificate): ")
    assert "$SSL_CERT_FILE" in said


async def test_https_address_of_a_server_without_tls_is_named():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)  # All of it: a close beside unread data resets the connection.
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        said = await detail(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert said == "Ollama's address is https, but the server does not use TLS: try http."


async def test_host_name_that_cannot_be_resolved_is_named():
    backend = OllamaBackend(OllamaConfig(host="nowhere.invalid"))
    with pytest.raises(BackendUnavailableError, match="name of Ollama's host cannot be resolved"):
        await backend.list_models()
    await backend.aclose()
