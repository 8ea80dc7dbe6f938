"""Fields of one API in a request of another: refused by name, with the name that they have there.

Recorded: the structured outputs of `ddalcu/responses-chat-messages-validator`, which sends the
`response_format` of chat completions to `/v1/responses`.
"""

from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend, chat, http_client

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "item", "strict": True, "schema": SCHEMA},
}
HI = [{"role": "user", "content": "Hi"}]
CASES: tuple[tuple[str, dict[str, Any], str, object, str], ...] = (
    ("/v1/responses", {"input": "Hi"}, "response_format", FORMAT, "text.format"),
    ("/v1/responses", {"input": "Hi"}, "max_completion_tokens", 5, "max_output_tokens"),
    ("/v1/responses", {"input": "Hi"}, "reasoning_effort", "none", "reasoning.effort"),
    ("/v1/chat/completions", chat(), "text", {"format": FORMAT}, "response_format"),
    ("/v1/chat/completions", chat(), "max_output_tokens", 5, "max_completion_tokens"),
    ("/v1/chat/completions", chat(), "stop_sequences", ["."], "stop"),
    ("/v1/completions", {"prompt": "Hi"}, "messages", HI, "prompt"),
    ("/v1/completions", {"prompt": "Hi"}, "max_completion_tokens", 5, "max_tokens"),
    ("/v1/completions", {"prompt": "Hi"}, "stop_sequences", ["."], "stop"),
    ("/v1/messages", {"messages": HI}, "response_format", FORMAT, "output_config.format"),
    ("/v1/messages", {"messages": HI}, "stop", ["."], "stop_sequences"),
    ("/v1/messages", {"messages": HI}, "max_completion_tokens", 5, "max_tokens"),
    ("/v1/messages", {"messages": HI}, "max_output_tokens", 5, "max_tokens"),
)


@pytest.mark.parametrize(("url", "body", "name", "value", "here"), CASES)
async def test_a_field_of_another_api_is_refused_with_its_name_here(
    url: str, body: dict[str, Any], name: str, value: object, here: str
):
    message = f"Unsupported parameter: '{name}'. In this API it is '{here}'."

    status, answer = await sent(url, body | {name: value})

    assert status == 400
    assert answer["error"]["message"].endswith(message)


async def test_the_other_name_of_a_required_field_is_told():
    body = {"messages": HI, "max_tokens": None, "max_completion_tokens": 5}

    status, answer = await sent("/v1/messages", body)

    assert status == 400
    assert "In this API it is 'max_tokens'" in answer["error"]["message"]


@pytest.mark.parametrize(("url", "body", "name"), [case[:3] for case in CASES])
async def test_null_is_the_same_as_absent(url: str, body: dict[str, Any], name: str):
    assert (await sent(url, body | {name: None}))[0] == 200


async def sent(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(url, json={"model": "m", "max_tokens": 9} | body)
    return response.status_code, response.json()
