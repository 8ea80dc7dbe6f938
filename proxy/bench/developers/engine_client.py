"""Clients for a benchmark: many streamed chats at once, at as little cost as can be.

They share the machine with what they measure, so bytes are only stamped as they come and read
when all is over.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

_LARGEST_READ = 65536


class Target(Struct, frozen=True):
    """A server to be asked for one model."""

    port: int
    model: str


class Question(Struct, frozen=True):
    text: str
    max_tokens: int


class Timing(Struct, frozen=True):
    """One streamed answer, in seconds of the benchmark's clock."""

    began: float
    pieces: tuple[float, ...]
    """When each piece of the answer arrived."""
    tokens: int


async def ask_all(target: Target, questions: Sequence[Question]) -> list[Timing]:
    """Ask all `questions` at once.

    Raises:
        RuntimeError: an answer failed; a benchmark of errors would be worth nothing.
    """
    return list(await asyncio.gather(*(ask(target, question) for question in questions)))


async def ask(
    target: Target, question: Question, on_text: Callable[[], None] = lambda: None
) -> Timing:
    """One answer, whole. `on_text` is called with every read that has a piece of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        began = time.perf_counter()
        writer.write(_request(target, question))
        stamped: list[tuple[float, bytes]] = []
        while data := await reader.read(_LARGEST_READ):
            stamped.append((time.perf_counter(), data))
            if b'"content"' in data and b'"content":""' not in data:
                on_text()
        return _timing(began, stamped)
    finally:
        writer.close()


def _request(target: Target, question: Question) -> bytes:
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


def _timing(began: float, stamped: list[tuple[float, bytes]]) -> Timing:
    pieces: list[float] = []
    tokens: int | None = None
    rest = b""
    for moment, data in stamped:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            said = _read(line)
            pieces.extend([moment] if _has_text(said) else [])
            tokens = tokens if said.get("usage") is None else said["usage"]["completion_tokens"]
    if tokens is None or not pieces:
        raise RuntimeError(f"no answer: {b''.join(data for _, data in stamped)[:500]!r}")
    return Timing(began, tuple(pieces), tokens)


def _read(line: bytes) -> dict[str, Any]:
    if not line.startswith(b"data: {"):
        return {}
    return json.loads(line.removeprefix(b"data: "))


def _has_text(said: dict[str, Any]) -> bool:
    return any(choice.get("delta", {}).get("content") for choice in said.get("choices") or ())
