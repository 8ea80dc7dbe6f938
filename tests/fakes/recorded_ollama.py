"""A fake Ollama on a real socket: each path answers by a script, or by a recording."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).parents[1] / "data" / "ollama"


class Seen(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Reply:
    """One response in progress. Each piece is a write, and an HTTP chunk, of its own."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Seen
    ) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def head(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        fields = headers or {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}
        lines = [f"HTTP/1.1 {status} Said", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        await self._write("\r\n".join(lines).encode())

    async def raw(self, data: bytes) -> None:
        """Send `data` unchanged, be it HTTP or not."""
        await self._write(data)

    async def chunk(self, data: bytes) -> None:
        await self._write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self._write(b"0\r\n\r\n")

    async def plain(self, status: int, body: bytes, **headers: str) -> None:
        """Send a complete response that is not chunked."""
        fields = {k.replace("_", "-"): v for k, v in headers.items()}
        await self.head(status, fields | {"Content-Length": str(len(body))})
        await self._write(body)

    async def gone(self) -> None:
        """Wait until the client has closed its end."""
        await self._reader.read()

    def cut(self) -> None:
        self._writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)


Script = Callable[[Reply], Awaitable[None]]


class StandIn:
    def __init__(self) -> None:
        self.host = ""
        self.seen: list[Seen] = []
        """Requests, without those to render."""
        self.rendered: list[Any] = []
        """Bodies of requests to render."""
        self.renders: Callable[[Any], str] | None = None
        """Renders a body, or raises `ValueError` as a template that refuses it; `None`: it does not
        render, as an old Ollama."""
        self.connections = 0
        """Sockets opened since the start."""
        self._open = 0
        self._changed = asyncio.Condition()
        self._scripts: dict[str, Script] = {}

    @property
    def open(self) -> int:
        """Sockets open now."""
        return self._open

    def bodies(self, path: str) -> list[Any]:
        return [seen.body for seen in self.seen if seen.path == path]

    def says(self, path: str, script: Script) -> None:
        """Answer requests to `path` by `script` from now on; other paths answer 404."""
        self._scripts[path] = script

    def replays(self, name: str, path: str | None = None, piece: int | None = None) -> None:
        """Answer by a recording, in its own chunks or in pieces of `piece` bytes."""
        record = recording(name)
        self.says(path or record["request"]["path"], replay(record["response"], piece))

    async def has_seen(self, path: str, count: int = 1) -> None:
        """Wait until `count` requests to `path` have been read."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.bodies(path)) >= count)

    async def closed(self, seconds: float = 2.0) -> None:
        """Wait until no client has a socket open.

        Raises:
            TimeoutError: one still has.
        """
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: not self._open)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        try:
            while (seen := await _read_request(reader)) is not None:
                if isinstance(seen.body, dict) and "_debug_render_only" in seen.body:
                    await self._render(seen.body, Reply(reader, writer, seen))
                    continue
                self.seen.append(seen)
                async with self._changed:
                    self._changed.notify_all()
                await self._scripts.get(seen.path, not_there)(Reply(reader, writer, seen))
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client has disconnected, as some tests do.
        finally:
            self._open -= 1
            writer.close()
            async with self._changed:
                self._changed.notify_all()

    async def _render(self, body: Any, reply: "Reply") -> None:
        self.rendered.append(body)
        answer: dict[str, Any] = {"model": body["model"], "message": {"role": "assistant"}}
        if self.renders is not None:
            try:
                answer["_debug_info"] = {"rendered_template": self.renders(body)}
            except ValueError as error:
                words = {"error": f"Jinja Exception: {error}"}
                await reply.plain(400, json.dumps(words).encode())
                return
        await reply.plain(200, json.dumps(answer).encode())


async def not_there(reply: Reply) -> None:
    await reply.plain(404, b"404 page not found", Content_Type="text/plain")


def replay(response: dict[str, Any], piece: int | None = None) -> Script:
    async def script(reply: Reply) -> None:
        await reply.head(response["status"])
        for chunk in _pieces([text.encode() for text in response["chunks"]], piece):
            await reply.chunk(chunk)
        if response["ended"] == "cut":
            reply.cut()
        else:
            await reply.end()

    return script


def says_lines(*lines: object, cut: bool = False) -> Script:
    """Return a response of these lines: bytes unchanged, everything else as JSON."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    chunks = [f"{text.decode('latin-1')}\n" for text in texts]
    return replay({"status": 200, "chunks": chunks, "ended": "cut" if cut else "complete"})


def recording(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())


def _pieces(chunks: list[bytes], size: int | None) -> Iterable[bytes]:
    if size is None:
        return chunks
    whole = b"".join(chunks)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *fields = head.strip().split("\r\n")
    headers = {k.lower(): v for k, v in (field.split(": ", 1) for field in fields)}
    method, path, _ = first.split(" ")
    if headers.get("transfer-encoding") == "chunked":
        return Seen(method, path, headers, await _read_chunks(reader))
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, json.loads(body) if body else None)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """Read a body in chunks, which is a file and no JSON."""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


@asynccontextmanager
async def stand_in(port: int = 0) -> AsyncIterator[StandIn]:
    standin = StandIn()
    server = await asyncio.start_server(standin.serve, "127.0.0.1", port)
    standin.host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield standin
    finally:
        server.close()
        await standin.closed()
