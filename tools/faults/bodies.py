"""Bodies that would hold the event loop: status, time, stall of the loop, and memory of each."""

import asyncio
import base64
import json
import struct
import time
from collections.abc import Callable

from tools.faults.processes import running
from tools.faults.raw import CHAT, encode, send

MB = 1_000_000
_HEAD = b'{"model":"m:latest","messages":[{"role":"user","content":'
_TEXT = b'"a"}]'


def _messages(content: bytes) -> bytes:
    return _HEAD + content + b"}]}"


def _with(field: bytes) -> bytes:
    return _HEAD + _TEXT + b"," + field + b"}"


def _repeat(piece: bytes, size: int) -> bytes:
    return piece * (size // len(piece))


def _picture(size: int) -> str:
    """A PNG of `size` bytes as a data URL; its pixels are no data, and are not decoded here."""
    size_and_kind = struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 800, 800, 8, 2, 0, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + size_and_kind
    data = struct.pack(">I4s", size, b"IDAT") + b"\x55" * size + b"\0\0\0\0"
    end = b"\0\0\0\0IEND\xaeB`\x82"
    return "data:image/png;base64," + base64.b64encode(head + data + end).decode()


def _pictures(count: int, size: int) -> bytes:
    part = {"type": "image_url", "image_url": {"url": _picture(size)}}
    return _messages(json.dumps([{"type": "text", "text": "x"}, *[part] * count]).encode())


def _schema(objects: int) -> dict[str, object]:
    """A schema of four schemas for each of `objects`."""
    items = {"type": "array", "items": {"type": "integer"}}
    one = {"type": "object", "properties": {"a": {"type": "string"}, "b": items}}
    return {"type": "object", "properties": {f"f{at}": one for at in range(objects)}}


def _format(objects: int) -> bytes:
    wanted = {"name": "a", "strict": True, "schema": _schema(objects)}
    return _with(
        b'"response_format":' + json.dumps({"type": "json_schema", "json_schema": wanted}).encode()
    )


def _tools(count: int, objects: int, choice: str) -> bytes:
    tools = [
        {"type": "function", "function": {"name": f"t{at}", "parameters": _schema(objects)}}
        for at in range(count)
    ]
    return _with(json.dumps({"tools": tools, "tool_choice": choice}).encode()[1:-1])


BODIES: dict[str, Callable[[], tuple[str, bytes]]] = {
    "1M content parts": lambda: (
        CHAT,
        _messages(b"[" + b",".join([b'{"type":"text","text":"x"}'] * MB) + b"]"),
    ),
    "10M empty lists": lambda: (CHAT, _with(b'"x":[' + b",".join([b"[]"] * 10 * MB) + b"]")),
    "2M keys": lambda: (
        CHAT,
        b"{" + b",".join([b'"k%d":1' % at for at in range(2 * MB)]) + b"}",
    ),
    "30 MB of quotes": lambda: (CHAT, b'"' * 30 * MB),
    "unclosed quote": lambda: (CHAT, b'{"model":"' + _repeat(b'a\\"', 30 * MB)),
    "30 MB of escapes": lambda: (CHAT, _messages(b'"' + _repeat(b"a\\n", 30 * MB) + b'"')),
    "30 MB of one text": lambda: (CHAT, _messages(b'"' + b"a" * 30 * MB + b'"')),
    "30 MB of Chinese": lambda: (CHAT, _messages(b'"' + _repeat("漢".encode(), 30 * MB) + b'"')),
    "30 MB of spaces": lambda: (CHAT, _with(b" " * 30 * MB + b'"x":1')),
    "30 MB of brackets": lambda: (CHAT, b"[" * 30 * MB),
    "30 MB of numbers": lambda: (
        "/v1/embeddings",
        b'{"model":"m:latest","input":[' + b"1," * 15 * MB + b"1]}",
    ),
    "just below: 49,000 parts": lambda: (
        CHAT,
        _messages(b"[" + b",".join([b'{"type":"text","text":"x"}'] * 49_000) + b"]"),
    ),
    "just below: 4,000 messages": lambda: (
        CHAT,
        json.dumps(
            {
                "model": "m:latest",
                "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 8}]
                * 4000,
            }
        ).encode(),
    ),
    "just below: 290,000 tokens": lambda: (
        "/v1/embeddings",
        json.dumps({"model": "m:latest", "input": [[1] * 1000] * 290}).encode(),
    ),
    "just below: 99,000 unknown keys": lambda: (
        CHAT,
        _with(b'"x":{' + b",".join([b'"k%d":1' % at for at in range(99_000)]) + b"}"),
    ),
    "just below: 99,000 keys of the body": lambda: (
        CHAT,
        _with(b",".join([b'"k%d":1' % at for at in range(99_000)])),
    ),
    "strict schema of 240 KB": lambda: (CHAT, _format(2000)),
    "just below: strict schema of 1 MB": lambda: (CHAT, _format(8000)),
    "100 tools of 9 KB": lambda: (CHAT, _tools(100, 80, "auto")),
    "100 tools of 9 KB, one forced": lambda: (CHAT, _tools(100, 80, "required")),
    "16 pictures of 1.4 MB": lambda: (CHAT, _pictures(16, 1_400_000)),
    "broken picture of 20 MB": lambda: (
        CHAT,
        _messages(
            b'[{"type":"image_url","image_url":{"url":"data:image/png;base64,'
            + b"A" * 26 * MB
            + b'"}}]'
        ),
    ),
}


async def main(count: int) -> None:
    del count
    with running() as (tandem, _):
        await tandem.stall()
        print(f"idle: {tandem.use().rss_mb:.0f} MB")
        print(f"{'body':36} {'status':>6} {'s':>6} {'stall ms':>9} {'cpu ms':>7} {'peak MB':>8}")
        for name, make in BODIES.items():
            path, body = make()
            request = encode("POST", path, body)
            del body
            await asyncio.sleep(0.2)
            await tandem.stall()
            began = time.perf_counter()
            try:
                status: object = (await send(tandem.port, request, 120)).status
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                status = type(error).__name__
            took = time.perf_counter() - began
            stall = await tandem.stall()
            print(
                f"{name:36} {status:>6} {took:6.2f} {stall['wall_ms']:9.0f} {stall['cpu_ms']:7.0f}"
                f" {tandem.peak_mb():8.0f}",
                flush=True,
            )
