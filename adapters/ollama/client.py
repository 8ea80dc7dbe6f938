"""The way to one Ollama: typed JSON over the official client's transport, with deadlines.

The client itself is narrower than the server (no `truncate`, no `shift`), waits without end, ends
quietly on a stream that was cut, and holds a line of any length. What it knows of hosts and
headers is used; what it does with answers is not.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import anyio
import httpx
import msgspec
import ollama
from msgspec import Struct
from msgspec.json import Decoder

from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError, BadUpstreamError
from adapters.ollama.errors import Progress, from_response, translated
from adapters.ollama.lines import LineReader
from adapters.ollama.transport import Body, Connection, Transport
from adapters.ollama.wire import Line, PullLine

_T = TypeVar("_T")
_L = TypeVar("_L", Line, PullLine)

_MOST_BODY_BYTES = 32_000_000  # /api/show of a large vocabulary is long.
_MOST_ERROR_BYTES = 64_000
_CLOSING_SECONDS = 1.0
_DIGEST_SECONDS = 900.0
"""Ollama says nothing while it checks what it has fetched: many gigabytes, on a slow disk."""

_encode = msgspec.json.Encoder().encode
_LINES = Decoder(Line)
_PULL_LINES = Decoder(PullLine)


class OllamaClient:
    def __init__(self, host: str, config: OllamaConfig) -> None:
        self._config = config
        self._transport = Transport(config.connect_timeout)
        self._official = ollama.AsyncClient(
            host, transport=self._transport, follow_redirects=False, trust_env=False
        )
        self._http = cast(httpx.AsyncClient, self._official._client)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        # The key in $OLLAMA_API_KEY is for ollama.com, not for whatever host is configured.
        self._http.headers.pop("authorization", None)
        # The caps below are meant for what is held, so nothing may come packed.
        self._http.headers["accept-encoding"] = "identity"
        self._headers = self._http.headers.raw
        self._urls: dict[str, httpx.URL] = {}

    def lines(self, path: str, body: Struct, seconds: float) -> AsyncGenerator[Sequence[Line]]:
        """The lines that Ollama streams, as many at a time as have arrived.

        The very last one has `done`. Closing it closes the socket. The first may take so many
        `seconds`, those after it what is configured.

        Raises:
            BackendError: by the tables in `errors.py`; also where the stream ends before `done`.
        """
        return self._stream(path, body, _LINES, (seconds, self._config.token_timeout))

    def pulled(self, body: Struct) -> AsyncGenerator[Sequence[PullLine]]:
        """The lines of `/api/pull`, as many at a time as have arrived; the last says `success`.

        Raises:
            BackendError: as in `lines`.
        """
        return self._stream("/api/pull", body, _PULL_LINES, (_DIGEST_SECONDS, _DIGEST_SECONDS))

    def created(self, body: Struct) -> AsyncGenerator[Sequence[PullLine]]:
        """The lines of `/api/create`, as `pulled`."""
        return self._stream("/api/create", body, _PULL_LINES, (_DIGEST_SECONDS, _DIGEST_SECONDS))

    async def _stream(
        self, path: str, body: Struct, decoder: Decoder[_L], seconds: tuple[float, float]
    ) -> AsyncGenerator[Sequence[_L]]:
        """`seconds` are to the first line, and from one to the next."""
        progress = Progress()
        until = asyncio.get_running_loop().time() + seconds[0]
        with translated(progress):
            async with self._open("POST", path, body, until) as response:
                reader = LineReader(_connection_of(response), decoder)
                while lines := await reader.read(until):
                    progress.started = True
                    if lines[-1].done:
                        await reader.drain()
                    yield lines
                    if lines[-1].done:
                        return
                    until = asyncio.get_running_loop().time() + seconds[1]
        raise BadUpstreamError("Ollama's answer ended before it was done.")

    async def get(self, path: str, kind: type[_T], seconds: float) -> _T:
        """What a GET of `path` answers within `seconds`; errors as in `lines`."""
        return await self._fetch("GET", path, None, kind, seconds)

    async def post(self, path: str, body: Struct, kind: type[_T], seconds: float) -> _T:
        """What a POST of `body` answers within `seconds`; errors as in `lines`."""
        return await self._fetch("POST", path, body, kind, seconds)

    async def aclose(self) -> None:
        await self._official.close()

    async def _fetch(
        self, method: str, path: str, body: Struct | None, kind: type[_T], seconds: float
    ) -> _T:
        until = asyncio.get_running_loop().time() + seconds
        with translated(Progress()):
            async with self._open(method, path, body, until) as response:
                content = await _read(response, _MOST_BODY_BYTES, until)
                return msgspec.json.decode(content, type=kind)

    def _url(self, path: str) -> httpx.URL:
        """Where the client would send it: joined once, for that costs as much as an answer."""
        if path not in self._urls:
            self._urls[path] = self._http.build_request("GET", path).url
        return self._urls[path]

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: Struct | None, until: float
    ) -> AsyncGenerator[httpx.Response]:
        """A response of status 200, nothing of it read; closed at the end, come what may."""
        if self._http.is_closed:
            raise BackendUnavailableError("The backend for Ollama is closed.")
        content = None if body is None else _encode(body)
        request = httpx.Request(method, self._url(path), headers=self._headers, content=content)
        # Not through the client's `send`: redirects, cookies and secrets are not for an Ollama.
        response = await self._transport.send(request, until)
        try:
            if response.status_code != 200:
                raise await _refusal(response, until)
            yield response
        finally:
            # Shielded: where a scope is cancelled, anyio lets nothing else be awaited, and the
            # socket is what tells Ollama to stop.
            with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                await response.aclose()


def _connection_of(response: httpx.Response) -> Connection:
    return cast(Body, response.stream).connection


async def _read(response: httpx.Response, most: int, until: float) -> bytes:
    connection, content = _connection_of(response), bytearray()
    while piece := await connection.read(until):
        content += piece
        if len(content) > most:
            raise BadUpstreamError("Ollama's answer is too long.")
    return bytes(content)


async def _refusal(response: httpx.Response, until: float) -> Exception:
    try:
        body = await _read(response, _MOST_ERROR_BYTES, until)
    except BadUpstreamError:  # Whatever it is, it is not Ollama's `{"error": "…"}`.
        body = b""
    return from_response(response.status_code, body, response.headers.get("retry-after"))
