"""Answers taken as bytes: from Ollama's API or OpenAI's, streamed or whole, at little cost."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

_LARGEST_READ = 262144
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
_WORD = re.compile(rb'"content": ?"[^"]')


class Ask(Struct, frozen=True):
    """A question to one server, and how much it must say."""

    port: int
    path: str
    to_body: Callable[[str, int, bool], dict[str, Any]]
    """Model, words, whether to stream -> the JSON of the dialect."""


class Fetched(Struct, frozen=True):
    """In seconds, from when the request was written."""

    first: float
    """To the first word."""
    total: float


def ollama_body(model: str, words: int, stream: bool) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [_QUESTION],
        "stream": stream,
        "options": {"num_predict": words},
    }


def openai_body(model: str, words: int, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": [_QUESTION], "stream": stream, "max_tokens": words}


_QUESTION = {"role": "user", "content": "What is the capital of France?"}


async def fetch(ask: Ask, model: str, words: int) -> Fetched:
    """One streamed answer, on a connection of its own.

    Raises:
        RuntimeError: the answer is not what was asked for: nothing can be measured by it.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.port, limit=2**20)
    try:
        request = _request(ask.path, ask.to_body(model, words, True), "close")
        began = time.perf_counter()
        writer.write(request)
        first, pieces = 0.0, list[bytes]()
        while data := await reader.read(_LARGEST_READ):
            first = first or (time.perf_counter() if _WORD.search(data) else 0.0)
            pieces.append(data)
        ended = time.perf_counter()
    finally:
        writer.close()
    _check(b"".join(pieces), words)
    return Fetched(first - began, ended - began)


async def fetch_whole(ask: Ask, model: str, words: int, times: int) -> None:
    """Answers that are not streamed, one after the other on one connection, as the SDK does it.

    Raises:
        RuntimeError: as `fetch`.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.port, limit=2**20)
    try:
        request = _request(ask.path, ask.to_body(model, words, False), "keep-alive")
        for _ in range(times):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            _check(await reader.readexactly(int(length[1])) if length else head, 1)
    finally:
        writer.close()


def _check(said: bytes, times: int) -> None:
    """That a text, or a piece of one, was said so many times."""
    if len(_WORD.findall(said)) != times:
        raise RuntimeError(f"not the answer that was asked for: {said[:500]!r}")


def _request(path: str, body: dict[str, Any], connection: str) -> bytes:
    text = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text
