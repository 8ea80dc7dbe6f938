"""Anthropic's own client against the real server, on both engines."""

from collections.abc import Iterator

import anthropic
import pytest
from servers.ollama_server import TOOLS, require_model
from servers.server_process import Running, serving, write

pytestmark = [pytest.mark.process, pytest.mark.long]

MLX = "SmolLM2-135M-Instruct"
BACKENDS = [
    pytest.param("mlx", MLX, id="mlx"),
    pytest.param("ollama", TOOLS, id="ollama", marks=pytest.mark.ollama),
]
PARIS: anthropic.types.MessageParam = {
    "role": "user",
    "content": "What is the capital of France?",
}


@pytest.fixture(scope="module")
def mlx_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    text = "backends: {mlx: {huggingface_cache: false}, ollama: null}\n"
    with serving(write(tmp_path_factory.mktemp("mlx"), text)) as running:
        yield running


@pytest.fixture(scope="module")
def ollama_only(tmp_path_factory: pytest.TempPathFactory, ollama_host: str) -> Iterator[Running]:
    require_model(ollama_host, TOOLS)
    text = f"backends: {{mlx: null, ollama: {{host: '{ollama_host}'}}}}\n"
    with serving(write(tmp_path_factory.mktemp("ollama"), text)) as running:
        # Each listing waits up to a second for a backend that was not listed yet.
        assert any(TOOLS in running.get("/v1/models")[1] for _ in range(30))
        yield running


@pytest.fixture
def client(request: pytest.FixtureRequest, kind: str) -> Iterator[anthropic.Anthropic]:
    running: Running = request.getfixturevalue("mlx_only" if kind == "mlx" else "ollama_only")
    with anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{running.port}", api_key="x", max_retries=0
    ) as client:
        yield client


CAPITAL: anthropic.types.ToolParam = {
    "name": "capital",
    "description": "Tell the capital of a country.",
    "input_schema": {
        "type": "object",
        "properties": {"country": {"enum": ["France", "Italy"]}},
        "required": ["country"],
    },
}


@pytest.mark.parametrize(("kind", "model"), BACKENDS)
def test_stream_counts_what_it_sends(client: anthropic.Anthropic, model: str):
    with client.messages.stream(
        model=model, max_tokens=5, messages=[PARIS], extra_body={"temperature": 0}
    ) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text
    assert message.stop_reason == "max_tokens"
    usage = message.usage
    assert usage.output_tokens == 5
    counted = client.messages.count_tokens(model=model, messages=[PARIS]).input_tokens
    prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert counted == prompt or (counted > prompt and model != MLX)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "model"), BACKENDS)
def test_forced_call_matches_its_schema(client: anthropic.Anthropic, model: str):
    message = client.messages.create(
        model=model,
        max_tokens=60,
        messages=[PARIS],
        tools=[CAPITAL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    [call] = message.content
    assert call.type == "tool_use"
    assert message.stop_reason == "tool_use"
    assert call.input["country"] in ("France", "Italy")


@pytest.mark.parametrize(("kind", "model"), BACKENDS)
def test_format_is_kept(client: anthropic.Anthropic, model: str):
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    message = client.messages.create(
        model=model,
        max_tokens=40,
        messages=[PARIS],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    [block] = message.content
    assert block.type == "text"
    assert block.text.replace(" ", "").replace("\n", "") in ('{"city":"Paris"}', '{"city":"Rome"}')
