"""Every field x every backend is honoured or refused by name: nothing is dropped in silence."""

from importlib import import_module
from typing import Any

import pytest
from fakes.pictures import data_url, png
from fakes.scripted_backend import EVERYTHING, ScriptedBackend, chat, http_client
from msgspec.structs import fields, replace

from adapters import BACKENDS
from adapters.backend import Backend, refuse_unsupported
from adapters.errors import UnsupportedParameterError
from adapters.request import (
    Feature,
    GenerationRequest,
    ImagePart,
    JSONObject,
    Lark,
    Message,
    NamedTool,
    Regex,
    Sampling,
    TextPart,
    TokenIds,
    Tool,
    first_needed,
    needs,
)
from proxy.sinks import Collector

URL = "/v1/chat/completions"
PLAIN = GenerationRequest(
    model="m", prompt=(Message(role="user", content=(TextPart("Hi"),)),), tools=()
)
TOOL = Tool("f")
WITH_IMAGE = (Message(role="user", content=(ImagePart("data:x"),)),)

ASKING: dict[str, tuple[GenerationRequest, Feature]] = {
    "prompt": (replace(PLAIN, prompt="raw"), "prompt"),
    "prompt[].content": (replace(PLAIN, prompt=WITH_IMAGE), "images"),
    "prompt.ids": (replace(PLAIN, prompt=TokenIds((1, 2))), "tokens"),
    "suffix": (replace(PLAIN, prompt="raw", suffix="end"), "suffix"),
    "echo": (replace(PLAIN, prompt="raw", echo=True), "echo"),
    "echo, top_logprobs": (
        replace(PLAIN, prompt="raw", echo=True, top_logprobs=0),
        "echo_logprobs",
    ),
    "echo, max_tokens": (replace(PLAIN, prompt="raw", echo=True, max_tokens=0), "empty_answer"),
    "n": (replace(PLAIN, n=2), "n"),
    "num_ctx": (replace(PLAIN, num_ctx=512), "num_ctx"),
    "keep_alive": (replace(PLAIN, keep_alive=0), "keep_alive"),
    "options": (replace(PLAIN, options={"mirostat": 1}), "options"),
    "max_tokens": (replace(PLAIN, max_tokens=1), "max_tokens"),
    "stop": (replace(PLAIN, stop=("x",)), "stop"),
    "tools": (replace(PLAIN, tools=(TOOL,)), "tools"),
    "tool_choice": (replace(PLAIN, tools=(TOOL,), tool_choice=NamedTool("f")), "tool_choice"),
    "parallel_tool_calls": (
        replace(PLAIN, tools=(TOOL,), parallel_tool_calls=False),
        "parallel_tool_calls",
    ),
    "response_format": (replace(PLAIN, response_format=JSONObject()), "response_format"),
    "response_format.pattern": (replace(PLAIN, response_format=Regex("a")), "guided_regex"),
    "response_format.grammar": (
        replace(PLAIN, response_format=Lark("start: /a/")),
        "guided_grammar",
    ),
    "reasoning_effort": (replace(PLAIN, reasoning_effort="low"), "reasoning_effort"),
    "reasoning_budget": (replace(PLAIN, reasoning_budget=5), "reasoning_budget"),
    "continue_final_message": (
        replace(PLAIN, continue_final_message=True),
        "continue_final_message",
    ),
    "top_logprobs": (replace(PLAIN, top_logprobs=0), "logprobs"),
    **{
        f"sampling.{name}": (replace(PLAIN, sampling=Sampling(**{name: value})), name)
        for name, value in {
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 5,
            "min_p": 0.1,
            "seed": 1,
            "frequency_penalty": 0.5,
            "presence_penalty": 0.5,
            "repetition_penalty": 1.2,
            "repeat_last_n": 64,
            "logit_bias": {1: 1.0},
        }.items()
    },  # type: ignore[dict-item]
}
"""For every field of the contract, a request that uses it and the feature that stands for it."""

NO_WISH = {
    "model",
    "sampling",
    "client",
    "patience",
    "whole",
    "wishes",
    "names_stop",
    "default_sampling",
}
"""Features that the server reports itself, or that consist of fields of their own."""

WIRE: dict[Feature, tuple[dict[str, Any], str]] = {
    "images": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": data_url(png(2, 2))}}],
                }
            ]
        },
        "messages[0].content[0]",
    ),
    "n": ({"n": 2}, "n"),
    "temperature": ({"temperature": 0.5}, "temperature"),
    "top_p": ({"top_p": 0.5}, "top_p"),
    "top_k": ({"top_k": 5}, "top_k"),
    "min_p": ({"min_p": 0.1}, "min_p"),
    "seed": ({"seed": 1}, "seed"),
    "frequency_penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "presence_penalty": ({"presence_penalty": 0.5}, "presence_penalty"),
    "logit_bias": ({"logit_bias": {"1": 1}}, "logit_bias"),
    "repetition_penalty": ({"repeat_penalty": 1.1}, "repeat_penalty"),
    "repeat_last_n": ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
    "guided_regex": ({"guided_regex": "a"}, "guided_regex"),
    "guided_grammar": ({"guided_grammar": "start: A"}, "guided_grammar"),
    "num_ctx": ({"options": {"num_ctx": 512}}, "options.num_ctx"),
    "keep_alive": ({"ttl": 5}, "ttl"),
    "options": ({"typical_p": 0.5}, "typical_p"),
    "max_tokens": ({"max_tokens": 5}, "max_tokens"),
    "stop": ({"stop": "x"}, "stop"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "tool_choice": (
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": "required",
        },
        "tool_choice",
    ),
    "parallel_tool_calls": (
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "parallel_tool_calls": False,
        },
        "parallel_tool_calls",
    ),
    "response_format": ({"response_format": {"type": "json_object"}}, "response_format"),
    "reasoning_effort": ({"reasoning_effort": "low"}, "reasoning_effort"),
    "continue_final_message": (
        {
            "messages": [{"role": "assistant", "content": "The sky"}],
            "continue_final_message": True,
        },
        "continue_final_message",
    ),
    "logprobs": ({"logprobs": True}, "logprobs"),
}
"""Fields of a chat for each feature; `prompt` is for raw text, which a chat never sends."""


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"num_gpu": 1, "use_mmap": True}, set[str]()),
        ({"typical_p": 1}, set[str]()),
        ({"typical_p": 1.0, "num_thread": 2}, set[str]()),
        ({"typical_p": 0.9}, {"options"}),
    ],
)
def test_options_are_a_feature_only_where_they_change_answers(
    options: dict[str, Any], needed: set[str]
) -> None:
    assert needs(replace(PLAIN, options=options)) == needed


FOR_EMBEDDINGS: set[Feature] = {"embeddings", "embedding_tokens"}
NOT_FOR_CHATS: frozenset[Feature] = frozenset(
    {
        "embeddings",
        "embedding_tokens",
        "prompt",
        "tokens",
        "suffix",
        "echo",
        "echo_logprobs",
        "empty_answer",
        "reasoning_budget",
    }
)
"""Features of /v1/completions, /v1/embeddings and /v1/messages; their own tests send them."""


def backend_classes() -> list[Any]:
    """Every backend's class; one that is not written yet is marked as skipped, with its name."""
    found: list[Any] = []
    for dotted in BACKENDS.values():
        module, name = dotted.split(":")
        try:
            found.append(pytest.param(getattr(import_module(module), name), id=name))
        except ModuleNotFoundError as exc:
            skip = pytest.mark.skip(reason=f"{dotted}: {exc}")
            found.append(pytest.param(None, id=name, marks=skip))
    return found


def test_every_field_of_the_contract_is_asked_for():
    own = {field.name for field in fields(GenerationRequest)} - NO_WISH
    nested = {f"sampling.{field.name}" for field in fields(Sampling)}
    parts = {"prompt[].content", "prompt.ids", "response_format.pattern", "response_format.grammar"}
    parts |= {name for name in ASKING if ", " in name}
    assert set(ASKING) - parts == own | nested


def test_every_feature_stands_for_a_field():
    assert {feature for _, feature in ASKING.values()} == EVERYTHING - FOR_EMBEDDINGS


@pytest.mark.parametrize("field", ASKING)
def test_field_asks_for_its_feature(field: str):
    request, feature = ASKING[field]
    assert feature in needs(request)
    assert needs(PLAIN) == frozenset()
    assert {each for each in EVERYTHING if first_needed((each,), request)} == needs(request)


@pytest.mark.parametrize("backend", backend_classes())
@pytest.mark.parametrize("field", ASKING)
async def test_backend_honours_or_refuses(backend: type[Backend], field: str):
    request, feature = ASKING[field]
    lacks = needs(request) - backend.honours
    if not lacks:
        assert feature in backend.honours
        return
    # Refused before the model's name is looked at: `generate` needs no engine for that.
    unopened: Any = object.__new__(backend)
    with pytest.raises(UnsupportedParameterError) as caught:
        await unopened.generate(request, Collector())
    assert caught.value.param in lacks
    assert caught.value.param == min(lacks)


@pytest.mark.parametrize("backend", backend_classes())
def test_backend_claims_only_features_that_exist(backend: type[Backend]):
    assert backend.honours <= EVERYTHING


def test_every_feature_has_a_way_over_the_wire():
    assert set(WIRE) == EVERYTHING - NOT_FOR_CHATS


@pytest.mark.parametrize("feature", WIRE)
async def test_chat_that_asks_reaches_the_backend_that_honours(feature: Feature):
    body, _ = WIRE[feature]
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        assert (await client.post(URL, json=chat(**body))).status_code == 200
    assert feature in needs(backend.requests[0])


@pytest.mark.parametrize("feature", WIRE)
async def test_chat_that_asks_is_refused_by_name_when_nobody_honours(feature: Feature):
    body, param = WIRE[feature]
    async with http_client(ScriptedBackend(honours=EVERYTHING - {feature})) as client:
        response = await client.post(URL, json=chat(**body))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_parameter"
    assert response.json()["error"]["param"] == param


def test_refusal_of_the_contract_names_the_first_feature_that_is_lacking():
    request = replace(PLAIN, stop=("x",), max_tokens=1)
    with pytest.raises(UnsupportedParameterError) as caught:
        refuse_unsupported(request, frozenset({"max_tokens"}), "x")
    assert caught.value.param == "stop"
