"""The way to one Ollama: typed JSON over the official client's transport, with deadlines.

The client itself is narrower than the server (no `truncate`, no `shift`), waits without end, ends
quietly on a stream that was cut, and holds a line of any length. What it knows of hosts and
headers is used; what it does with answers is not.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from functools import partial
from typing import TypeVar, cast

import httpx
import msgspec
import ollama
from msgspec import Struct
from msgspec.json import Decoder

from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError, BadUpstreamError
from adapters.ollama.errors import FOREIGN, from_response, translate
from adapters.ollama.ndjson import LineReader, Lines
from adapters.ollama.wire import Line, PullLine
from adapters.upstream.transport import Connection, Transport

_T = TypeVar("_T")
_L = TypeVar("_L", Line, PullLine)

_MOST_BODY_BYTES = 32_000_000  # /api/show of a large vocabulary is long.
_MOST_ERROR_BYTES = 64_000
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
        self._heads: dict[tuple[str, str], tuple[httpx.URL, bytes]] = {}

    def lines(self, path: str, body: Struct, seconds: float) -> Awaitable[Lines[Line]]:
        """The lines that Ollama streams; the first is there within `seconds`.

        Closing them closes the socket, if they are not at their end.

        Raises:
            BackendError: by the tables in `errors.py`.
        """
        return self._begin(path, body, _LINES, (seconds, self._config.token_timeout))

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
        lines = await self._begin(path, body, decoder, seconds)
        try:
            async for batch in lines:
                yield batch
        finally:
            lines.close()

    async def _begin(
        self, path: str, body: Struct, decoder: Decoder[_L], seconds: tuple[float, float]
    ) -> Lines[_L]:
        """`seconds` are to the first line, and from one to the next."""
        until = asyncio.get_running_loop().time() + seconds[0]
        connection = await self._ask("POST", path, body, until)
        lines = Lines(LineReader(connection, decoder), seconds[1])
        lines.at_end.append(partial(self._transport.take_back, connection))
        try:
            await lines.begin(until)
        except BaseException:
            lines.close()
            raise
        return lines

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
        connection = await self._ask(method, path, body, until)
        try:
            content = await _read(connection, _MOST_BODY_BYTES, until)
            return msgspec.json.decode(content, type=kind)
        except FOREIGN as error:
            raise translate(error, began=False) from error
        finally:
            self._transport.take_back(connection)

    async def _ask(self, method: str, path: str, body: Struct | None, until: float) -> Connection:
        """An answer of status 200 has begun on it; nothing of that is read."""
        if self._http.is_closed:
            raise BackendUnavailableError("The backend for Ollama is closed.")
        url, head = self._heads.get((method, path)) or self._head(method, path)
        content = b"" if body is None else _encode(body)
        request = head + b"content-length: %d\r\n\r\n%b" % (len(content), content)
        # Not through the client's `send`: redirects, cookies and secrets are not for an Ollama.
        try:
            connection = await self._transport.ask(url, request, until)
            if connection.status == 200:
                return connection
            try:
                raise await _refusal(connection, until)
            finally:
                self._transport.take_back(connection)
        except FOREIGN as error:
            raise translate(error, began=False) from error

    def _head(self, method: str, path: str) -> tuple[httpx.URL, bytes]:
        """As the client would write it: once, for that costs as much as an answer."""
        request = self._http.build_request(method, path)
        head = b"%b %b HTTP/1.1\r\n" % (method.encode(), request.url.raw_path)
        for name, value in request.headers.raw:
            if name.lower() != b"content-length":
                head += b"%b: %b\r\n" % (name, value)
        self._heads[method, path] = request.url, head
        return request.url, head


async def _read(connection: Connection, most: int, until: float) -> bytes:
    content = bytearray()
    while piece := await connection.read(until):
        content += piece
        if len(content) > most:
            raise BadUpstreamError("Ollama's answer is too long.")
    return bytes(content)


async def _refusal(connection: Connection, until: float) -> Exception:
    try:
        body = await _read(connection, _MOST_ERROR_BYTES, until)
    except BadUpstreamError:  # Whatever it is, it is not Ollama's `{"error": "…"}`.
        body = b""
    headers = {name.lower(): value for name, value in connection.headers}
    retry_after = headers.get(b"retry-after", b"").decode("latin-1") or None
    return from_response(connection.status or 0, body, retry_after)
