"""Client of `tandem bench engine`: concurrent streamed chats with a timestamp for each piece.

The client shares the machine with the server it measures. To cost little CPU, it only records the
time of each read and parses the bytes after the answer has ended.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

_READ_SIZE = 65536


class Target(Struct, frozen=True):
    """A server on 127.0.0.1, and the model to request from it."""

    port: int
    model: str


class Question(Struct, frozen=True):
    text: str
    max_tokens: int


class Timing(Struct, frozen=True):
    """Times of one streamed answer, in seconds of `time.perf_counter`."""

    began: float
    pieces: tuple[float, ...]
    """Arrival time of each piece of text."""
    tokens: int


async def ask_all(target: Target, questions: Sequence[Question]) -> list[Timing]:
    """Send all `questions` concurrently.

    Raises:
        RuntimeError: an answer failed.
    """
    return list(await asyncio.gather(*(ask(target, question) for question in questions)))


async def ask(
    target: Target, question: Question, on_text: Callable[[], None] = lambda: None
) -> Timing:
    """Send one question, and read its answer to the end.

    `on_text` is called for each read that contains text of the answer.

    Raises:
        RuntimeError: the response is an error, or has no text or no usage.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        began = time.perf_counter()
        writer.write(_request(target, question))
        reads: list[tuple[float, bytes]] = []
        while data := await reader.read(_READ_SIZE):
            reads.append((time.perf_counter(), data))
            if b'"content"' in data and b'"content":""' not in data:
                on_text()
        return _timing(began, reads)
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


def _timing(began: float, reads: list[tuple[float, bytes]]) -> Timing:
    pieces: list[float] = []
    tokens: int | None = None
    rest = b""
    for moment, data in reads:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            chunk: dict[str, Any] = json.loads(line[6:]) if line.startswith(b"data: {") else {}
            if any(choice.get("delta", {}).get("content") for choice in chunk.get("choices") or ()):
                pieces.append(moment)
            if chunk.get("usage") is not None:
                tokens = chunk["usage"]["completion_tokens"]
    if tokens is None or not pieces:
        raise RuntimeError(f"unexpected response: {b''.join(data for _, data in reads)[:500]!r}")
    return Timing(began, tuple(pieces), tokens)
