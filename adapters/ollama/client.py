"""Client of one Ollama: typed JSON over our own transport, with deadlines and size limits.

The official client is narrower than the server (no `truncate`, no `shift`), waits without end, ends
quietly on a stream that was cut, and buffers a line of any length. Only its reading of addresses
and its headers are used.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar, cast

import httpx
import msgspec
from msgspec import Struct
from msgspec.json import Decoder

from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError, BadUpstreamError
from adapters.ollama.errors import FOREIGN, from_response, translate
from adapters.ollama.ndjson import LineStream
from adapters.ollama.official import ollama
from adapters.ollama.wire import ChatBody, Line, PullLine, RawBody
from adapters.upstream.behind import SERVER_HEADER, SERVER_ID
from adapters.upstream.limits import DEFAULT_LIMITS, Limits
from adapters.upstream.trace_context import trace_headers
from adapters.upstream.transport import Connection, Transport

_T = TypeVar("_T")
_L = TypeVar("_L", Line, PullLine)

_MAX_BODY_BYTES = 32_000_000  # /api/show of a large vocabulary is long.
_MAX_ERROR_BYTES = 64_000
_DIGEST_SECONDS = 900.0
"""Ollama sends nothing while it checks a download: many gigabytes, on a slow disk."""

_encode = msgspec.json.Encoder().encode
_LINES = Decoder(Line)
_PULL_LINES = Decoder(PullLine)


class OllamaClient:
    def __init__(self, address: str, config: OllamaConfig, limits: Limits = DEFAULT_LIMITS) -> None:
        self.address = address
        self._token_timeout = config.token_timeout
        self._max_bytes = limits.max_bytes
        self._transport = Transport(config.connect_timeout)
        self._official = ollama.AsyncClient(
            address, transport=self._transport, follow_redirects=False, trust_env=False
        )
        self._http = cast(httpx.AsyncClient, self._official._client)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        # The key in $OLLAMA_API_KEY is for ollama.com, not for any server that is configured.
        self._http.headers.pop("authorization", None)
        self.key_headers = {"authorization": f"Bearer {key}"} if (key := config.secret) else {}
        """Headers with the key of `config`, for this address alone: no redirect is followed."""
        self._http.headers.update(self.key_headers)
        self._http.headers[SERVER_HEADER] = SERVER_ID
        # The size limits are meant for what is buffered, so nothing may come compressed.
        self._http.headers["accept-encoding"] = "identity"
        self._heads: dict[tuple[str, str], tuple[httpx.URL, bytes]] = {}

    async def open(self, body: ChatBody | RawBody, seconds: float) -> LineStream[Line]:
        """Post `body` and wait for the first line of the answer, at most `seconds`.

        `close` ends the exchange, and closes the socket where the answer is not complete.

        Raises:
            BackendError: by the tables in `errors.py`.
        """
        until = asyncio.get_running_loop().time() + seconds
        # A body of 30 MB was translated, and is encoded, in 40 ms: others have a turn between.
        await asyncio.sleep(0)
        try:
            connection = await self._transport.ask(*self._request("POST", body.path, body), until)
        except FOREIGN as error:
            raise translate(error, began=False) from error
        return await self._first_line(connection, _LINES, self._token_timeout, until)

    def close(self, lines: LineStream[_L]) -> None:
        self._transport.take_back(lines.connection)

    def pulled(self, body: Struct) -> AsyncGenerator[Sequence[PullLine]]:
        """Yield the lines of `/api/pull`, as many at a time as have arrived; the last is `success`.

        Raises:
            BackendError: as in `open`.
        """
        return self._stream("/api/pull", body)

    def created(self, body: Struct | msgspec.Raw) -> AsyncGenerator[Sequence[PullLine]]:
        """Yield the lines of `/api/create`, as `pulled`."""
        return self._stream("/api/create", body)

    async def _stream(
        self, path: str, body: Struct | msgspec.Raw
    ) -> AsyncGenerator[Sequence[PullLine]]:
        until = asyncio.get_running_loop().time() + _DIGEST_SECONDS
        try:
            connection = await self._transport.ask(*self._request("POST", path, body), until)
        except FOREIGN as error:
            raise translate(error, began=False) from error
        lines = await self._first_line(connection, _PULL_LINES, _DIGEST_SECONDS, until)
        try:
            while batch := await lines.next_lines():
                yield batch
        finally:
            self.close(lines)

    async def _first_line(
        self, connection: Connection, decoder: Decoder[_L], seconds: float, until: float
    ) -> LineStream[_L]:
        lines = LineStream(connection, decoder, seconds, self._max_bytes)
        try:
            await self._check_status(connection, until)
            await lines.wait(until)
        except BaseException:
            self.close(lines)
            raise
        return lines

    async def get(self, path: str, kind: type[_T], seconds: float) -> _T:
        """Return the response to a GET of `path` within `seconds`; raises as `open`."""
        return await self._fetch("GET", path, None, kind, seconds)

    async def post(self, path: str, body: Struct, kind: type[_T], seconds: float) -> _T:
        """Return the response to a POST of `body` within `seconds`; raises as `open`."""
        return await self._fetch("POST", path, body, kind, seconds)

    async def command(self, method: str, path: str, body: Struct | None, seconds: float) -> None:
        """Send `body` to a URL that answers without one; raises as `open`."""
        until = asyncio.get_running_loop().time() + seconds
        try:
            connection = await self._transport.ask(*self._request(method, path, body), until)
            try:
                await self._check_status(connection, until)
                await _read(connection, _MAX_ERROR_BYTES, until)
            finally:
                self._transport.take_back(connection)
        except FOREIGN as error:
            raise translate(error, began=False) from error

    async def aclose(self) -> None:
        await self._official.close()

    async def _fetch(
        self, method: str, path: str, body: Struct | None, kind: type[_T], seconds: float
    ) -> _T:
        until = asyncio.get_running_loop().time() + seconds
        try:
            connection = await self._transport.ask(*self._request(method, path, body), until)
            try:
                await self._check_status(connection, until)
                content = await _read(connection, _MAX_BODY_BYTES, until)
                return msgspec.json.decode(content, type=kind)
            finally:
                self._transport.take_back(connection)
        except FOREIGN as error:
            raise translate(error, began=False) from error

    def _request(
        self, method: str, path: str, body: Struct | msgspec.Raw | None
    ) -> tuple[httpx.URL, tuple[bytes, bytes]]:
        """Return the URL, and the head and the body to send.

        Not through the client's `send`: redirects, cookies and secrets are not for an Ollama.
        """
        if self._http.is_closed:
            raise BackendUnavailableError("The Ollama backend is closed.")
        url, head = self._heads.get((method, path)) or self._head(method, path)
        content = b"" if body is None else _encode(body)
        length = b"content-length: %d\r\n\r\n" % len(content)
        return url, (head + trace_headers() + length, content)

    def _head(self, method: str, path: str) -> tuple[httpx.URL, bytes]:
        """Build the head as the official client does; kept, for it costs as much as an answer."""
        request = self._http.build_request(method, path)
        head = b"%b %b HTTP/1.1\r\n" % (method.encode(), request.url.raw_path)
        for name, value in request.headers.raw:
            if name.lower() != b"content-length":
                head += b"%b: %b\r\n" % (name, value)
        self._heads[method, path] = request.url, head
        return request.url, head

    async def _check_status(self, connection: Connection, until: float) -> None:
        if connection.status == 200:
            return
        try:
            body = await _read(connection, _MAX_ERROR_BYTES, until)
        except BadUpstreamError:  # Too long for Ollama's `{"error": "…"}`.
            body = b""
        except FOREIGN as error:
            raise translate(error, began=False) from error
        headers = {name.lower(): value for name, value in connection.headers}
        retry_after = headers.get(b"retry-after", b"").decode("latin-1") or None
        raise from_response(connection.status or 0, body, retry_after)


async def _read(connection: Connection, limit: int, until: float) -> bytes:
    content = bytearray()
    while piece := await connection.read(until):
        content += piece
        if len(content) > limit:
            raise BadUpstreamError("Ollama's response is too long.")
    return bytes(content)
