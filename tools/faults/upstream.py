"""A scripted Ollama on raw sockets: `python -m tools.faults.upstream PORT`.

The last message, or the prompt, says what it does: `tokens=40 pace=0.01 size=1024`, `hang=1` (no
response), `stall=1` (none after the first token), `status=500`, `echo=1` (an error with the words
of the request), `cut=3` (the socket closes after three tokens), `garbage=1`.
"""

import asyncio
import json
import re
import sys
from typing import Any

from tools.faults.raw import read_head

MODEL = "m:latest"
_TAG = {
    "name": MODEL,
    "model": MODEL,
    "size": 1,
    "digest": "a",
    "details": {"format": "gguf", "context_length": 1_048_576},
    "capabilities": ["completion", "vision"],
}
_FACTS: dict[str, Any] = {
    "/api/version": {"version": "0.33.0"},
    "/api/tags": {"models": [_TAG]},
    "/api/ps": {"models": [_TAG | {"size_vram": 1, "context_length": 1_048_576}]},
    "/api/show": {**_TAG, "model_info": {}},
}
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 3}


def _instructions(body: dict[str, Any]) -> dict[str, float]:
    messages = body.get("messages") or [{"content": body.get("prompt") or ""}]
    words = str(messages[-1].get("content") or "")[-400:]
    return {name: float(number) for name, number in re.findall(r"(\w+)=([\d.]+)", words)}


async def _answer(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    does = _instructions(body)
    if does.get("hang"):
        await asyncio.sleep(3600)
    if does.get("echo"):
        _send(writer, 500, {"error": json.dumps(body)[:400]})
        return
    if not body.get("messages") and not body.get("prompt"):
        _send(writer, 200, _DONE | {"done_reason": "load"})
        return
    if "status" in does:
        _send(writer, int(does["status"]), {"error": "it broke"})
        return
    if body.get("stream") is False:
        text = "x"
        _send(writer, 200, {"message": {"content": text}, "response": text, **_DONE})
        return
    writer.write(_HEAD)
    if body.get("format"):
        _line(writer, {"message": {"content": "{}"}, "response": "{}"})
        does["tokens"] = 0
    text = "x" * int(does.get("size", 1))
    for at in range(int(does.get("tokens", 8))):
        if does.get("cut") == at:
            writer.transport.abort()
            return
        _line(writer, {"message": {"content": f"{at} {text}"}, "response": f"{at} {text}"})
        await writer.drain()
        if does.get("garbage"):
            writer.write(b"5\r\n{{{{\n\r\n")
        if does.get("stall"):
            await asyncio.sleep(3600)
        if pace := does.get("pace"):
            await asyncio.sleep(pace)
    _line(writer, {"message": {}, "response": "", **_DONE})
    writer.write(b"0\r\n\r\n")


def _line(writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
    data = json.dumps(line).encode() + b"\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _send(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % (status, len(data)) + data)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            path, headers = await read_head(reader)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if path in ("/api/chat", "/api/generate"):
                await _answer(json.loads(body), writer)
            elif path == "/api/embed":
                inputs = json.loads(body)["input"]
                _send(writer, 200, {"embeddings": [[0.5, 0.5]] * len(inputs)})
            elif path in _FACTS:
                _send(writer, 200, _FACTS[path])
            else:
                _send(writer, 404, {"error": "404 page not found"})
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        return
    finally:
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", port, backlog=4096, limit=2**26)
    await server.serve_forever()


if __name__ == "__main__":
    from adapters.descriptors import raise_limit

    raise_limit()
    asyncio.run(main(int(sys.argv[1])))
