"""One name over MLX's SmolLM2 and a real Ollama's: each request lands where it can be honoured."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema
import pytest
from servers.ollama_server import FILL, PLAIN, require_model
from servers.server_process import serving, write

pytestmark = [pytest.mark.ollama, pytest.mark.long]

SMOL = "SmolLM2-135M-Instruct"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CONFIG = """
backends:
  mlx: {{huggingface_cache: false, embedded: always}}
  ollama: {{host: '{host}'}}
models:
  mlx-first: {{mlx: {smol}, ollama: '{plain}', prefer: mlx}}
  ollama-first: {{mlx: {smol}, ollama: '{plain}', prefer: ollama}}
  mlx-first-to-fill: {{mlx: {smol}, ollama: '{fill}', prefer: mlx}}
"""
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Is it sunny?"}]}
SUNNY: dict[str, Any] = {
    "type": "object",
    "properties": {"sunny": {"type": "boolean"}},
    "required": ["sunny"],
    "additionalProperties": False,
}
FEW_DAYS: dict[str, Any] = {
    "type": "object",
    "properties": {"day": {"type": "integer", "minimum": 1, "maximum": 14}},
    "patternProperties": {"^is_": {"type": "boolean"}},
    "required": ["day"],
    "additionalProperties": False,
}
"""A schema with a keyword that Ollama does not enforce."""
FILLING: dict[str, Any] = {"prompt": "def f(", "suffix": "return 1", "max_tokens": 4}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    named = {"name": "s", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, ollama_host: str) -> Iterator[httpx2.Client]:
    text = CONFIG.format(host=ollama_host, smol=SMOL, plain=PLAIN, fill=FILL)
    with (
        serving(write(tmp_path_factory.mktemp("routing"), text)) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client,
    ):
        client.get("/v1/models")
        yield client


def ask(client: httpx2.Client, model: str, **fields: Any) -> httpx2.Response:
    """A chat; a text where there is a `prompt`."""
    url, asked = (TEXT, {}) if "prompt" in fields else (CHAT, QUESTION)
    body = {"model": model, "max_tokens": 20, "temperature": 0, **asked, **fields}
    return client.post(url, json=body)


def texts(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"]
    return [each["message"]["content"] if "message" in each else each["text"] for each in choices]


def refused(answer: httpx2.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


SCHEMA = "response_format.json_schema.schema"
YES_NO = 'start: "yes" | "no"'


@pytest.mark.parametrize(
    ("model", "wish", "kind", "param"),
    [
        ("ollama-first", {"logit_bias": {"28": -100}, "max_tokens": 4}, "mlx", "logit_bias"),
        ("ollama-first", {"guided_grammar": YES_NO}, "mlx", "guided_grammar"),
        ("ollama-first", strict(FEW_DAYS), "mlx", f"{SCHEMA}.patternProperties"),
        ("ollama-first", {"n": 2, "logit_bias": {"28": 1}, "max_tokens": 4}, "mlx", "logit_bias"),
        ("mlx-first", {"typical_p": 0.9, "max_tokens": 4}, "ollama", "typical_p"),
        ("mlx-first-to-fill", FILLING, "ollama", "suffix"),
    ],
    ids=["logit_bias", "grammar", "schema", "n", "an option of Ollama", "suffix"],
)
def test_lands_on_the_engine_that_can_and_forcing_the_other_is_refused(
    client: httpx2.Client, ollama_host: str, model: str, wish: dict[str, Any], kind: str, param: str
):
    require_model(ollama_host, FILL)
    answer = ask(client, model, **wish)
    assert len(said := texts(answer)) == wish.get("n", 1)
    assert answer.headers["x-tandem-backend"] == kind
    assert "x-tandem-fallback-from" not in answer.headers
    assert keeps_to(wish, said[0])
    forced = ask(client, model, **wish, backend={"mlx": "ollama", "ollama": "mlx"}[kind])
    assert refused(forced) == (400, param, "unsupported_parameter")
    if "prompt" not in wish:
        plan = client.post("/api/route", json={"model": model, **QUESTION, **wish}).json()
        assert plan["backend"] == kind


def keeps_to(wish: dict[str, Any], said: str) -> bool:
    if "guided_grammar" in wish:
        return said in ("yes", "no")
    if "response_format" in wish:
        jsonschema.validate(json.loads(said), FEW_DAYS)
    return True


def test_what_both_can_is_honoured_by_each(client: httpx2.Client):
    for kind in ("mlx", "ollama"):
        answer = ask(client, f"{kind}-first", **strict(SUNNY))
        assert answer.headers["x-tandem-backend"] == kind
        jsonschema.validate(json.loads(texts(answer)[0]), SUNNY)
        several = ask(client, f"{kind}-first", n=2, max_tokens=3)
        assert (several.headers["x-tandem-backend"], len(texts(several))) == (kind, 2)


def test_what_no_engine_honours_is_one_error_that_names_it(client: httpx2.Client):
    wish = {"logit_bias": {"28": 1}, "typical_p": 0.9}
    status, param, code = refused(ask(client, "mlx-first", **wish))
    assert (status, code) == (400, "unsupported_parameter")
    assert param in wish
