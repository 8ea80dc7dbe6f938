"""The way to one Ollama: typed JSON over the official client's transport, with deadlines.

The client itself is narrower than the server (no `truncate`, no `shift`), waits without end, ends
quietly on a stream that was cut, and holds a line of any length. What it knows of hosts and
headers is used; what it does with answers is not.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import TypeVar, cast

import anyio
import httpx
import msgspec
import ollama
from msgspec import Struct

from adapters.config import OllamaConfig
from adapters.errors import BackendUnavailableError, BadUpstreamError
from adapters.ollama.errors import Progress, from_line, from_response, translated
from adapters.ollama.wire import Line, PullLine

_T = TypeVar("_T")
_L = TypeVar("_L", Line, PullLine)

MOST_LINE_BYTES = 1_000_000
_MOST_BODY_BYTES = 32_000_000  # /api/show of a large vocabulary is long.
_MOST_ERROR_BYTES = 64_000
_CLOSING_SECONDS = 1.0
_DRAINING_SECONDS = 0.2
_DIGEST_SECONDS = 900.0
"""Ollama says nothing while it checks what it has fetched: many gigabytes, on a slow disk."""

_encode = msgspec.json.Encoder().encode


class OllamaClient:
    def __init__(self, host: str, config: OllamaConfig) -> None:
        self._config = config
        self._official = ollama.AsyncClient(
            host,
            # Only connecting is timed here. Every other wait has a deadline of its own below,
            # for a timeout of each read would let an answer drip in byte by byte.
            timeout=httpx.Timeout(None, connect=config.connect_timeout),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )
        self._http = cast(httpx.AsyncClient, self._official._client)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        # The key in $OLLAMA_API_KEY is for ollama.com, not for whatever host is configured.
        self._http.headers.pop("authorization", None)
        # The caps below are meant for what is held, so nothing may come packed.
        self._http.headers["accept-encoding"] = "identity"

    async def lines(
        self, path: str, body: Struct, patience: float | None = None
    ) -> AsyncGenerator[Line]:
        """The lines that Ollama streams; the last one has `done`. Closing it closes the socket.

        The first may take `patience` seconds; by default what is configured.

        Raises:
            BackendError: by the tables in `errors.py`; also where the stream ends before `done`.
        """
        first = self._config.first_token_timeout if patience is None else patience
        seconds = (first, self._config.token_timeout)
        async with aclosing(self._stream(path, body, Line, seconds)) as lines:
            async for line in lines:
                yield line

    async def pulled(self, body: Struct) -> AsyncGenerator[PullLine]:
        """The lines of `/api/pull`; the last one says `success`.

        Raises:
            BackendError: as in `lines`.
        """
        seconds = (_DIGEST_SECONDS, _DIGEST_SECONDS)
        async with aclosing(self._stream("/api/pull", body, PullLine, seconds)) as lines:
            async for line in lines:
                yield line

    async def _stream(
        self, path: str, body: Struct, kind: type[_L], seconds: tuple[float, float]
    ) -> AsyncGenerator[_L]:
        """`seconds` are to the first line, and from one to the next."""
        progress = Progress()
        until = anyio.current_time() + seconds[0]
        with translated(progress):
            async with self._open("POST", path, body, until) as response:
                reader = _LineReader(response)
                while batch := await reader.read(until):
                    for data in batch:
                        line = _decode_line(data, kind)
                        progress.started = True
                        if line.done:
                            await reader.drain()
                        yield line
                        if line.done:
                            return
                    until = anyio.current_time() + seconds[1]
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
        until = anyio.current_time() + seconds
        with translated(Progress()):
            async with self._open(method, path, body, until) as response:
                with _deadline(until):
                    content = await _read(response, _MOST_BODY_BYTES)
                return msgspec.json.decode(content, type=kind)

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: Struct | None, until: float
    ) -> AsyncGenerator[httpx.Response]:
        """A response of status 200, nothing of it read; closed at the end, come what may."""
        if self._http.is_closed:
            raise BackendUnavailableError("The backend for Ollama is closed.")
        content = None if body is None else _encode(body)
        request = self._http.build_request(method, path, content=content)
        with _deadline(until):
            response = await self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                with _deadline(until):
                    raise await _refusal(response)
            yield response
        finally:
            # Shielded: where a scope is cancelled, anyio lets nothing else be awaited, and the
            # socket is what tells Ollama to stop.
            with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                await response.aclose()


class _LineReader:
    """The lines of a body, in the batches in which they arrive."""

    def __init__(self, response: httpx.Response) -> None:
        self._pieces = response.aiter_raw()
        self._rest = bytearray()

    async def read(self, until: float) -> list[bytes]:
        """At least one line without its end, or nothing at the end of the body.

        Raises:
            BadUpstreamError: a line is longer than `MOST_LINE_BYTES`.
            TimeoutError: no line was complete by `until`.
        """
        with _deadline(until):
            async for piece in self._pieces:
                if lines := self._split(piece):
                    return lines
        lines, self._rest = self._rest.split(b"\n"), bytearray()
        return [bytes(line) for line in lines if line.strip()]

    async def drain(self) -> None:
        """Read what follows the last line, so that the connection can be used again."""
        try:
            with anyio.move_on_after(_DRAINING_SECONDS):
                async for _ in self._pieces:
                    pass
        except httpx.HTTPError:  # The answer is complete: how its connection ends is no matter.
            return

    def _split(self, piece: bytes) -> list[bytes]:
        if b"\n" not in piece:
            self._keep(piece)
            return []
        first, *others = piece.split(b"\n")
        self._keep(first)
        lines = [bytes(self._rest), *others[:-1]]
        self._rest = bytearray(others[-1])
        return [line for line in lines if line.strip()]

    def _keep(self, piece: bytes) -> None:
        self._rest += piece
        if len(self._rest) > MOST_LINE_BYTES:
            raise BadUpstreamError("Ollama sent a line of more than a megabyte.")


def _deadline(until: float) -> AbstractContextManager[anyio.CancelScope]:
    return anyio.fail_after(until - anyio.current_time())


def _decode_line(data: bytes, kind: type[_L]) -> _L:
    try:
        line = msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError:  # One bad byte of a token is not worth the whole answer.
        line = msgspec.json.decode(data.decode(errors="replace"), type=kind)
    if line.error is not None:
        raise from_line(line.error)
    return line


async def _read(response: httpx.Response, most: int) -> bytes:
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > most:
            raise BadUpstreamError("Ollama's answer is too long.")
    return bytes(content)


async def _refusal(response: httpx.Response) -> Exception:
    try:
        body = await _read(response, _MOST_ERROR_BYTES)
    except BadUpstreamError:  # Whatever it is, it is not Ollama's `{"error": "…"}`.
        body = b""
    return from_response(response.status_code, body, response.headers.get("retry-after"))
