"""Tools of published MCP servers, as their schemas are: loose, strict, forced, alone, together.

Whatever a server writes into a schema, a loose tool works, and what is not enforced is named. The
model is tiny and writes noise: a call has its shape from the grammar alone. `logit_bias` makes it
end what it begins.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import jsonschema.validators
import pytest
from clients.capable_ollama import MODEL, capable_ollama
from fakes.scripted_backend import http_client
from fakes.tiny_model import TOOL_TEMPLATE, config_for, write_tiny_model
from servers.ollama_server import TOOLS

from adapters.config import OllamaConfig
from adapters.mlx.backend import MLXBackend
from adapters.ollama.backend import OllamaBackend

DATA = Path(__file__).parents[1] / "data" / "mcp"
URL = "/v1/chat/completions"
AT_ONCE = 16

Tools = list[dict[str, Any]]
"""Tools as OpenAI's clients send them."""


def tools_of(server: str, **fields: bool) -> Tools:
    """The tools of a recorded server; `fields` are added to each function."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool["description"],
                "parameters": tool["inputSchema"],
                **fields,
            },
        }
        for tool in json.loads((DATA / f"{server}.json").read_text())["tools"]
    ]


SERVERS = sorted(path.stem for path in DATA.glob("*.json"))


class Served(NamedTuple):
    client: httpx2.AsyncClient
    model: str
    fields: dict[str, Any]
    """Fields of every body."""

    async def ask(self, tools: Tools, choice: Any = "auto", **fields: Any) -> httpx2.Response:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Use a tool."}],
            "tools": tools,
            "tool_choice": choice,
            "parallel_tool_calls": False,
            **self.fields,
            **fields,
        }
        return await self.client.post(URL, json=body, timeout=300)


ENDINGS = {"}": 90, "]": 80, '"': 70}
"""Bias of the characters that end a value, in a model that writes noise."""


def _token_id(character: str) -> str:
    """Token ids in the byte vocabulary of `tiny_model`, which begins with the exclamation mark."""
    return str(ord(character) - ord("!"))


@asynccontextmanager
async def mlx(folder: Path) -> AsyncIterator[Served]:
    write_tiny_model(folder / "caller", template=TOOL_TEMPLATE, context=8192)
    backend = MLXBackend(config_for(folder, max_concurrent=AT_ONCE))
    bias = {_token_id(character): value for character, value in ENDINGS.items()}
    async with http_client(backend) as client:
        yield Served(client, "caller", {"logit_bias": bias, "max_tokens": 500})
    await backend.aclose()


@asynccontextmanager
async def ollama(host: str, model: str, **fields: float) -> AsyncIterator[Served]:
    backend = OllamaBackend(OllamaConfig(host=host))
    async with http_client(backend) as client:
        yield Served(client, model, fields)
    await backend.aclose()


@pytest.fixture
async def served(engine: str, tmp_path: Path) -> AsyncIterator[Served]:
    if engine == "mlx":
        async with mlx(tmp_path) as made:
            yield made
    else:  # The model fills in what the schemas that reach Ollama demand.
        with capable_ollama() as host:
            async with ollama(host, MODEL) as made:
                yield made


@pytest.fixture
async def real_ollama(ollama_host: str) -> AsyncIterator[Served]:
    async with ollama(ollama_host, TOOLS, max_tokens=60, temperature=0) as made:
        yield made


async def each(tools: Tools, ask: Any) -> list[tuple[dict[str, Any], httpx2.Response]]:
    """The answers about every tool alone, some at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(tool: dict[str, Any]) -> httpx2.Response:
        async with limit:
            return await ask(tool)

    answers = await asyncio.gather(*map(one, tools))
    return list(zip(tools, answers, strict=True))


def call_of(response: httpx2.Response) -> tuple[str, Any] | None:
    """The one call; `None` where the limit has cut it."""
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    if choice["finish_reason"] == "length":
        return None
    assert choice["finish_reason"] == "tool_calls", choice
    (call,) = choice["message"]["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def not_enforced(tools: Tools, response: httpx2.Response) -> list[str]:
    """Keywords that the arguments of the call violate and the response does not name."""
    found = call_of(response)
    if found is None:
        return []
    name, arguments = found
    at, schema = next(
        (at, tool["function"]["parameters"])
        for at, tool in enumerate(tools)
        if tool["function"]["name"] == name
    )
    ignored = response.headers.get("x-tandem-ignored", "")
    return [
        f"{name}: {place} by {error.message}"
        for error in _errors(schema, arguments)
        for place in [_place(at, error)]
        if not _is_named(place, ignored)
    ]


def _errors(schema: dict[str, Any], arguments: Any) -> Iterator[jsonschema.ValidationError]:
    return jsonschema.validators.validator_for(schema)(schema).iter_errors(arguments)


def _place(at: int, error: jsonschema.ValidationError) -> str:
    """The path of the violated keyword, as headers name it."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.schema_path]
    return f"tools[{at}].function.parameters{''.join(steps)}"


def _is_named(place: str, ignored: str) -> bool:
    names = re.sub(r" \(and \d+ more\)$", "", ignored).split(", ")
    return any(name and place.startswith(name) for name in names)


def refusals(answers: list[tuple[dict[str, Any], httpx2.Response]]) -> list[str]:
    """The tools that are refused without a word about which part of them is to blame."""
    return [
        response.text
        for _, response in answers
        if response.status_code != 200
        and (
            response.status_code != 400
            or not (response.json()["error"]["param"] or "").startswith("tools[0].function")
        )
    ]


async def check_loose(served: Served, tools: Tools) -> None:
    """Each tool is called, with arguments that keep to what its schema demands."""
    answers = await each(tools, lambda tool: served.ask([tool], "required"))
    assert [wrong for tool, said in answers for wrong in not_enforced([tool], said)] == []
    assert any(call_of(said) is not None for _, said in answers)


async def check_strict(served: Served, tools: Tools) -> None:
    """Each tool is called as its schema demands, or its schema is refused by name."""
    answers = await each(tools, lambda tool: served.ask([tool], "required"))
    assert refusals(answers) == []
    honoured = [each for each in answers if each[1].status_code == 200]
    assert [wrong for tool, said in honoured for wrong in not_enforced([tool], said)] == []
    ignored = [said.headers.get("x-tandem-ignored", "") for _, said in honoured]
    # An unknown `format` says nothing.
    assert [name for names in ignored for name in names.split(", ") if name] == [
        name for names in ignored for name in names.split(", ") if name.endswith(".format")
    ]


async def check_together(served: Served, tools: Tools) -> None:
    """The tools of a server do not make each other, or the model, unusable."""
    named = {"type": "function", "function": {"name": tools[-1]["function"]["name"]}}
    answers = [await served.ask(tools, choice) for choice in ("required", named)]
    assert [not_enforced(tools, answer) for answer in answers] == [[], []]
    assert (await served.ask(tools, max_tokens=4)).status_code == 200


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("engine", [pytest.param("mlx", marks=pytest.mark.long), "scripted-ollama"])
@pytest.mark.slow
class TestEveryTool:
    async def test_loose(self, served: Served, server: str):
        await check_loose(served, tools_of(server))

    @pytest.mark.clients
    async def test_strict(self, served: Served, server: str):
        await check_strict(served, tools_of(server, strict=True))

    @pytest.mark.clients
    async def test_together(self, served: Served, server: str):
        await check_together(served, tools_of(server))


def different_tools(**fields: bool) -> Tools:
    """The smallest tool of each set of keywords, without descriptions, which take time to read."""
    found: dict[frozenset[str], dict[str, Any]] = {}
    tools = [tool for server in SERVERS for tool in tools_of(server, **fields)]
    for tool in sorted(tools, key=lambda tool: len(json.dumps(tool["function"]["parameters"]))):
        short = _without_descriptions(tool)
        found.setdefault(frozenset(_keywords(short["function"]["parameters"])), short)
    return list(found.values())


def _without_descriptions(value: Any) -> Any:
    match value:
        case dict():
            kept = {k: v for k, v in value.items() if k != "description" or isinstance(v, dict)}
            return {name: _without_descriptions(each) for name, each in kept.items()}
        case list():
            return [_without_descriptions(each) for each in value]
        case _:
            return value


def _keywords(schema: Any) -> Iterator[str]:
    """Keywords with their types, wherever they are."""
    if isinstance(schema, dict):
        for keyword, value in schema.items():
            yield keyword
            names = keyword in ("properties", "$defs", "definitions")
            for child in value.values() if names else [value]:
                yield from _keywords(child)
    elif isinstance(schema, list):
        for each in schema:
            yield from _keywords(each)


@pytest.mark.clients
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("ollama")
class TestRealOllama:
    async def test_loose(self, real_ollama: Served):
        await check_loose(real_ollama, different_tools())

    async def test_strict(self, real_ollama: Served):
        await check_strict(real_ollama, different_tools(strict=True))
