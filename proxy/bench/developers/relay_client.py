"""Client of `tandem bench relay`: OpenAI's or Ollama's chat API as bytes, at low CPU cost."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

_READ_SIZE = 262144
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
_WORD = re.compile(rb'"content": ?"[^"]')


class Endpoint(Struct, frozen=True):
    """The chat API of a server on 127.0.0.1."""

    port: int
    path: str
    to_body: Callable[[str, int, bool], dict[str, Any]]
    """Build the request body from the model, the number of words and `stream`."""


class Latency(Struct, frozen=True):
    """Times of one streamed answer, in seconds from the moment the request was written."""

    first: float
    """Time to the first word."""
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


async def stream(endpoint: Endpoint, model: str, words: int) -> Latency:
    """Read one streamed answer of `words` words, on a connection of its own.

    Raises:
        RuntimeError: the response has another number of words.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port, limit=2**20)
    try:
        request = _request(endpoint.path, endpoint.to_body(model, words, True), "close")
        began = time.perf_counter()
        writer.write(request)
        first, pieces = 0.0, list[bytes]()
        while data := await reader.read(_READ_SIZE):
            first = first or (time.perf_counter() if _WORD.search(data) else 0.0)
            pieces.append(data)
        ended = time.perf_counter()
    finally:
        writer.close()
    _check(b"".join(pieces), words)
    return Latency(first - began, ended - began)


async def fetch(endpoint: Endpoint, model: str, words: int, times: int) -> None:
    """Read `times` answers without streaming, in sequence on one connection, as OpenAI's SDK does.

    Raises:
        RuntimeError: a response is not a chat completion.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port, limit=2**20)
    try:
        request = _request(endpoint.path, endpoint.to_body(model, words, False), "keep-alive")
        for _ in range(times):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            _check(await reader.readexactly(int(length[1])) if length else head, 1)
    finally:
        writer.close()


def _check(response: bytes, texts: int) -> None:
    """Check that `response` contains `texts` contents that are not empty."""
    if len(_WORD.findall(response)) != texts:
        raise RuntimeError(f"unexpected response: {response[:500]!r}")


def _request(path: str, body: dict[str, Any], connection: str) -> bytes:
    text = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text
