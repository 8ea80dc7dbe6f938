"""Upstream of `tandem bench relay`: a server that replays a recorded answer of Ollama.

Run as `python -m proxy.bench.developers.replayed_ollama PORT PACE`. An answer has
`options.num_predict` words. The model `fast` sends them at once, `paced` one every PACE seconds.
"""

import asyncio
import sys
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from typing import cast

import msgspec
from msgspec import Struct

FAST, PACED = "fast:latest", "paced:latest"

RECORDED = (
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.100004718Z","message":'
    b'{"role":"assistant","content":"The"},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.122512788Z","message":'
    b'{"role":"assistant","content":" capital"},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.146273474Z","message":'
    b'{"role":"assistant","content":" of"},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.170708196Z","message":'
    b'{"role":"assistant","content":" France"},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.195241064Z","message":'
    b'{"role":"assistant","content":" is"},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.219966797Z","message":'
    b'{"role":"assistant","content":" Paris"},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.244514272Z","message":'
    b'{"role":"assistant","content":"."},"done":false}\n',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T18:51:25.269716007Z","message":'
    b'{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"total_duration":198537392,"load_duration":1225474,"prompt_eval_count":16,'
    b'"prompt_eval_duration":24867000,"eval_count":8,"eval_duration":169369000}\n',
)
"""Lines of an answer of Ollama 0.33, from `tests/data/ollama/chat-stream.json`."""

_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Mon, 23 Nov 2026 18:51:25 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class _Options(Struct, frozen=True):
    num_predict: int = 0


class _Body(Struct):
    model: str
    stream: bool = True
    options: _Options = _Options()


def _models() -> list[dict[str, object]]:
    details = {"format": "gguf", "quantization_level": "Q4_1", "context_length": 8192}
    facts = {"size": 1, "details": details, "capabilities": ["completion"]}
    return [{"name": name, "model": name, "digest": name, **facts} for name in (FAST, PACED)]


_PAGES: dict[bytes, object] = {
    b"/api/version": {"version": "0.33.0"},
    b"/api/tags": {"models": _models()},
    b"/api/ps": {"models": _models()},
    b"/api/show": {"details": {}, "model_info": {}, "capabilities": ["completion"]},
}


@cache
def _streamed(words: int) -> tuple[bytes, ...]:
    """Return the HTTP chunks of a streamed answer, including the last chunk."""
    lines = (*islice(cycle(RECORDED[:-1]), words), RECORDED[-1])
    return (*(b"%x\r\n%b\r\n" % (len(line), line) for line in lines), b"0\r\n\r\n")


@cache
def _at_once(words: int) -> bytes:
    return _STREAM + b"".join(_streamed(words))


@cache
def _complete(words: int) -> bytes:
    """Return the response to `stream: false`: the last line with the complete text."""
    texts = (msgspec.json.decode(line)["message"]["content"] for line in RECORDED[:-1])
    answer = msgspec.json.decode(RECORDED[-1])
    answer["message"]["content"] = "".join(islice(cycle(list(texts)), words))
    return _page(answer)


def _page(value: object) -> bytes:
    text = msgspec.json.encode(value)
    return _RESPONSE % (len(text), text)


class _Connection(asyncio.Protocol):
    """One connection, on which requests are not pipelined."""

    def __init__(self, pace: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pace = pace
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        _, name, rest = head.lower().partition(b"content-length:")
        length = int(rest.partition(b"\r\n")[0]) if name else 0
        if end and len(body) >= length:
            self._received = b""
            self._answer(head.split(b" ", 2)[1], body, b"connection: close" in head.lower())

    def _answer(self, path: bytes, body: bytes, last: bool) -> None:
        if path in _PAGES:
            self._write(_page(_PAGES[path]), last)
            return
        request = msgspec.json.decode(body, type=_Body)
        words = request.options.num_predict
        if not request.stream:
            self._write(_complete(words), last)
        elif request.model == PACED:
            self._write(_STREAM, False)
            self._send_paced(iter(_streamed(words)), self._loop.time(), last)
        else:
            self._write(_at_once(words), last)

    def _send_paced(self, chunks: Iterator[bytes], due: float, last: bool) -> None:
        """Send one word and schedule the next at a fixed rate: delays do not accumulate."""
        chunk = next(chunks)
        if chunk.startswith(b"0\r"):
            self._write(chunk, last)
            return
        self._write(chunk, False)
        due += self._pace
        self._timer = self._loop.call_at(due, self._send_paced, chunks, due, last)

    def _write(self, data: bytes, last: bool) -> None:
        if self._transport is not None:
            self._transport.write(data)
            if last:
                self._transport.close()


async def _serve(port: int, pace: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(pace), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
