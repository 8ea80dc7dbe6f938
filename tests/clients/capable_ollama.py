"""An Ollama with the one model `capable`, which answers by `capable_model`."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clients.capable_model import Question, reply
from fakes.recorded_ollama import Reply as HTTPReply
from fakes.recorded_ollama import StandIn, stand_in
from servers.ollama_server import MODELFILES

MODEL = "capable:latest"
_DETAILS = {
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "7B",
    "quantization_level": "Q4_0",
}
_CAPABILITIES = ["completion", "tools"]
_TEMPLATE = (MODELFILES / "smollm2-tools.Modelfile").read_text().split('"""')[1]
_INFO = {
    "general.architecture": "llama",
    "llama.context_length": 32768,
    "llama.embedding_length": 64,
    "llama.block_count": 1,
    "llama.attention.head_count": 1,
    "llama.attention.head_count_kv": 1,
}


@contextmanager
def capable_ollama() -> Iterator[str]:
    """The address of the server, which runs in a thread."""
    loop = asyncio.new_event_loop()
    context = stand_in()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    server = wait(context.__aenter__())
    _set_up(server)
    try:
        yield server.host
    finally:
        wait(context.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _set_up(server: StandIn) -> None:
    listed = {"name": MODEL, "model": MODEL, "size": 1000, "digest": "00" * 32}
    tags = {**listed, "details": _DETAILS, "capabilities": _CAPABILITIES}
    show = {
        "template": _TEMPLATE,
        "details": _DETAILS,
        "model_info": _INFO,
        "capabilities": _CAPABILITIES,
    }
    for path, body in {
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [tags]},
        "/api/ps": {"models": []},
        "/api/show": show,
        "/api/generate": _line(done=True),
    }.items():
        server.says(path, _always(body))

    server.says("/api/chat", _chat)


def _always(body: Any) -> Any:
    async def script(http: HTTPReply) -> None:
        await http.plain(200, json.dumps(body).encode(), Content_Type="application/json")

    return script


async def _chat(http: HTTPReply) -> None:
    """The lines of an answer, a word each, as far as `num_predict` and `stop` let it come."""
    body: dict[str, Any] = http.request.body
    answer = reply(to_question(body))
    calls = [{"function": {"name": c.name, "arguments": c.arguments}} for c in answer.calls]
    words, reason = _limited(answer.text, body.get("options") or {})
    lines: list[dict[str, Any]] = [{"content": word} for word in words]
    if calls:
        lines.append({"content": "", "tool_calls": calls})
    await http.head()
    for message in lines:
        await http.chunk(_encoded(_line(message=message)))
    await http.chunk(_encoded(_line(done=True, done_reason=reason, words=len(words))))
    await http.end()


def _limited(text: str, options: dict[str, Any]) -> tuple[list[str], str]:
    ends = [at for stop in options.get("stop") or () if (at := text.find(stop)) >= 0]
    words = text[: min(ends, default=len(text))].split(" ")
    words = [words[0], *(f" {word}" for word in words[1:])]
    most = options.get("num_predict", -1)
    if 0 <= most < len(words):
        return words[:most], "length"
    return words, "stop"


def to_question(body: dict[str, Any]) -> Question:
    """Read a body of `/api/chat`."""
    messages = body["messages"]
    last = max((at for at, m in enumerate(messages) if m["role"] == "user"), default=-1)
    tools = [each["function"] for each in body.get("tools") or ()]
    given = body.get("format")
    return Question(
        messages[last]["content"] if last >= 0 else "",
        tuple(m["content"] for m in messages[last + 1 :] if m["role"] == "tool"),
        tuple((tool["name"], tool.get("parameters") or {}) for tool in tools),
        schema={} if given == "json" else given,
        conversation="\n".join(m["content"] for m in messages),
    )


def _line(
    message: dict[str, Any] | None = None,
    done: bool = False,
    done_reason: str = "stop",
    words: int = 1,
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "model": MODEL,
        "created_at": "2026-11-29T00:00:00Z",
        "message": {"role": "assistant", "content": "", **(message or {})},
        "done": done,
    }
    if done:
        counts = {"prompt_eval_count": 10, "eval_count": max(1, words)}
        times = {"total_duration": 2, "prompt_eval_duration": 1, "eval_duration": 1}
        line |= {"done_reason": done_reason, **counts, **times}
    return line


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
