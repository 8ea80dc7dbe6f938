"""Every field of the hybrid API's bodies is honoured, or refused by name."""

from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend, http_client
from msgspec import Struct
from msgspec.structs import fields

from proxy.endpoints.generation_fields import OLLAMA_ONLY
from proxy.endpoints.ollama.chat.request import OllamaChatRequest
from proxy.endpoints.tandem.prompt import PromptRequest

URL = "/api/chat"
PROMPT: dict[str, Any] = {"model": "m", "prompt": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"function": {"name": "f"}}

IN_PROMPTS: dict[str, Any] = {
    "model": "scripted/m",
    "prompt": "Bye",
    "system": "Be brief.",
    "raw": True,
    "reasoning_effort": "low",
    "n": 2,
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 1,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "num_predict": 5,
    "n_predict": 5,
    "repeat_last_n": 64,
    "logit_bias": {"1": 1},
    "stop": "x",
    "stream_options": {"include_usage": True},
    "backend": "absent",
    "format": "json",
    "json_schema": {"type": "object"},
    "guided_json": {"type": "object"},
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": "start: A",
    "structured_outputs": {"regex": "a"},
    "num_ctx": 512,
    "keep_alive": "5m",
    "ttl": 5,
    "options": {"typical_p": 0.5},
    **dict.fromkeys(OLLAMA_ONLY, 2),
}
"""A value for each that says something else than none."""
IN_CHATS: dict[str, Any] = {
    "model": "scripted/m",
    "messages": [{"role": "user", "content": "Bye"}],
    "format": "json",
    "options": {"seed": 1},
    "tools": [TOOL],
    "think": True,
    "keep_alive": "5m",
    "logprobs": True,
    "top_logprobs": 2,
    "backend": "absent",
}
NO_MATTER_OF_THE_ENGINE = {"stream", "user", "model_id", "truncate", "shift"}
"""Fields of the response, the client, a second name, or without effect; other tests check them."""


@pytest.mark.parametrize(
    ("kind", "samples"), [(PromptRequest, IN_PROMPTS), (OllamaChatRequest, IN_CHATS)]
)
def test_every_field_has_a_sample(kind: type[Struct], samples: dict[str, Any]):
    names = {field.encode_name for field in fields(kind)}
    assert names - NO_MATTER_OF_THE_ENGINE == samples.keys()


@pytest.mark.parametrize(
    ("plain", "name", "value"),
    [
        *((PROMPT, name, value) for name, value in IN_PROMPTS.items()),
        *((CHAT, name, value) for name, value in IN_CHATS.items()),
    ],
)
async def test_field_reaches_the_backend_or_is_refused_by_name(
    plain: dict[str, Any], name: str, value: Any
):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        await client.post(URL, json=plain)
        response = await client.post(URL, json={**plain, name: value})
    if response.status_code == 200:
        usual, asked = backend.requests
        assert name == "model" or asked != usual
        assert "x-tandem-ignored" not in response.headers
    else:
        error = response.json()["error"]
        assert error["param"] == name if plain is PROMPT else f"'{name}'" in error
