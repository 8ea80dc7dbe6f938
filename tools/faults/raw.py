"""Raw HTTP/1.1 for clients and servers that misbehave on purpose."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

CHAT = "/v1/chat/completions"


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """Read a head; returns the second word of its first line, and the headers in lower case."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    return lines[0].split(" ")[1], {name.lower(): value.strip() for name, _, value in fields}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of an error of OpenAI's form."""
        try:
            return json.loads(self.body)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return None


def encode(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """Encode a request; an underscore in the name of a header is a hyphen."""
    fields = {"host": "localhost", **{name.replace("_", "-"): v for name, v in headers.items()}}
    if body is not None:
        fields = {"content-type": "application/json", "content-length": str(len(body)), **fields}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + (body or b"")


def chat(words: str, *, stream: bool = True, **fields: Any) -> bytes:
    """Encode a chat completion with one message."""
    message = {"role": "user", "content": words}
    body = {"model": "m:latest", "messages": [message], "stream": stream, **fields}
    return encode("POST", CHAT, json.dumps(body).encode())


@asynccontextmanager
async def connected(
    port: int, receive_buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    client = socket.socket()
    client.setblocking(False)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=client, limit=2**24)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def send(port: int, request: bytes, seconds: float = 60.0) -> Reply:
    """Send a request on a connection of its own; returns the whole response.

    Raises:
        TimeoutError: it did not come within `seconds`.
        OSError, asyncio.IncompleteReadError: the connection was cut.
    """
    async with asyncio.timeout(seconds), connected(port) as (reader, writer):
        writer.write(request)
        return await read_reply(reader)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read a response with a length, with chunks, or until the server closes."""
    status, headers = await read_head(reader)
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        body = b"".join([piece async for piece in chunks(reader)])
    else:
        body = await reader.read(-1)
    return Reply(int(status), headers, body)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Iterate over the chunks of a body."""
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)


def is_told(text: bytes) -> bool:
    """True for a stream that ends with an error event and not with `[DONE]`."""
    return b"[DONE]" not in text and re.search(rb'data: \{"error":', text) is not None
