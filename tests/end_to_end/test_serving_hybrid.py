"""The hybrid API as its users meet it: a real server, both engines, Ollama's own client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ollama
import pytest
from fakes.tiny_model import write_tiny_model
from fakes.waiting import until_now
from servers.ollama_server import PLAIN, THINK, TOOLS, require_model
from servers.server_process import Running, serving, write

pytestmark = [pytest.mark.ollama, pytest.mark.long]

TINY = "mlx/tiny"
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "num_predict": 12}
SCHEMA: Any = {
    "type": "object",
    "properties": {"capital": {"enum": ["Paris", "Rome"]}},
    "required": ["capital"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CONFIG = """
backends:
  mlx: {{folders: [{folder}], huggingface_cache: false, embedded: never}}
  ollama: {{host: '{host}'}}
models:
  both: {{mlx: tiny, ollama: '{plain}', prefer: ollama}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ollama_host: str) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("hybrid")
    write_tiny_model(folder / "models" / "tiny")
    text = CONFIG.format(folder=folder / "models", host=ollama_host, plain=PLAIN)
    with serving(write(folder, text)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[ollama.Client]:
    with ollama.Client(f"http://127.0.0.1:{server.port}") as client:
        yield client


def asked(city: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Weather in {city}?"}]


def called(city: str) -> dict[str, Any]:
    call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def is_loaded(server: Running, name: str, expected: bool) -> bool:
    """Return true if the server reports `expected`, which may be as old as its list."""

    def is_reported() -> bool:
        held = json.loads(server.get("/api/models")[1])["backends"]
        (model,) = [m for each in held.values() for m in each["models"] if m["name"] == name]
        return model["loaded"] == expected

    until_now(is_reported, every=0.5)
    return True


@pytest.mark.parametrize("model", [PLAIN, TINY, "both"])
def test_stream_is_the_whole_answer_on_either_engine(client: ollama.Client, model: str):
    whole = client.chat(model, FRANCE, options=GREEDY)
    parts = list(client.chat(model, FRANCE, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts[-2:]] == [False, True]
    end = parts[-1]
    assert (end.done_reason, end.eval_count) == (whole.done_reason, whole.eval_count)
    assert end.prompt_eval_count == whole.prompt_eval_count
    assert end.model == model
    for told in (whole, end):
        assert told.total_duration is not None
        assert told.prompt_eval_duration is not None
        assert 0 < told.prompt_eval_duration < told.total_duration


@pytest.mark.parametrize("model", [PLAIN, TINY])
def test_format_is_kept_on_either_engine(client: ollama.Client, model: str):
    options = {"temperature": 0, "num_predict": 60}
    answer = client.chat(model, FRANCE, options=options, format=SCHEMA)
    jsonschema.validate(json.loads(answer.message.content or ""), SCHEMA)


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_is_called_with_an_object(client: ollama.Client, ollama_host: str, streamed: bool):
    model = require_model(ollama_host, TOOLS)
    history = [m for city in ("Rome", "Oslo", "Cairo") for m in (*asked(city), called(city))]
    options = {"temperature": 0, "num_predict": 60}
    fields: Any = {"tools": [WEATHER], "options": options, "stream": streamed}
    answer: Any = client.chat(model, [*history, *asked("Paris")], **fields)
    parts = list(answer) if streamed else [answer]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [call.function.name for call in calls] == ["get_weather"]
    assert calls[0].function.arguments == {"city": "Paris"}


def test_thoughts_are_told_apart(client: ollama.Client, ollama_host: str):
    model = require_model(ollama_host, THINK)
    options = {"temperature": 0, "num_predict": 6}
    thinking, plain = [
        client.chat(model, FRANCE, think=think, options=options).message for think in (True, False)
    ]
    assert (bool(thinking.thinking), bool(thinking.content)) == (True, False)
    assert (bool(plain.thinking), bool(plain.content)) == (False, True)


@pytest.mark.parametrize(("model", "name"), [(PLAIN, PLAIN), (TINY, "tiny")])
def test_model_is_loaded_and_unloaded_without_messages(
    client: ollama.Client, server: Running, model: str, name: str
):
    assert client.chat(model, []).done_reason == "load"
    assert is_loaded(server, name, True)
    assert client.chat(model, [], keep_alive=0).done_reason == "unload"
    assert is_loaded(server, name, False)


def test_error_is_raised_by_ollamas_client(client: ollama.Client):
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("absent", FRANCE)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        client.chat(TINY, FRANCE, options={"mirostat": 1})


def test_prompt_is_answered_by_both_engines(server: Running):
    body = {"prompt": "Hi", "max_tokens": 4, "temperature": 0}
    for path, model, kind in (
        ("/api/chat", "both", "ollama"),
        ("/api/mlx/generate", "both", "mlx"),
    ):
        status, text = server.post(path, {"model_id": model, **body})
        answer = json.loads(text)
        assert (status, answer["model_id"], answer["backend"]) == (200, model, kind)
        assert 1 <= answer["usage"]["completion_tokens"] <= 4
        assert 0 < answer["performance"]["ttft_s"] <= answer["performance"]["total_s"]


def test_mlx_model_is_loaded_in_steps_and_unloaded(server: Running):
    _, text = server.post("/api/mlx/load/tiny", {"stream": True})
    assert json.loads(text.splitlines()[-1])["status"] == "success"
    assert is_loaded(server, "tiny", True)
    assert json.loads(server.post("/api/mlx/unload/tiny")[1])["status"] == "unloaded"
    assert is_loaded(server, "tiny", False)
    health = json.loads(server.get("/api/health")[1])
    assert (health["status"], set(health["backends"])) == ("ok", {"mlx", "ollama"})
