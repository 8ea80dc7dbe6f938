"""Requests are adapted to the template of their model."""

import json
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from fakes.recorded_ollama import StandIn, recording, says_lines
from msgspec.structs import replace
from servers.ollama_server import PLAIN, own_ollama

from adapters import sink
from adapters.config import OllamaConfig
from adapters.events import TextDelta
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.translate.image_placement import is_mixed
from adapters.ollama.translate.template import to_template
from adapters.ollama.wire import Show
from adapters.request import (
    ContentPart,
    GenerationRequest,
    ImagePart,
    JSONObject,
    Message,
    Sampling,
    TextPart,
)

ONE, TWO = ImagePart("data:;base64,AAAA"), ImagePart("data:;base64,BBBB")
A, B, C = TextPart("A"), TextPart("B"), TextPart("C")
GO = "{{ range .Messages }}{{ .Content }}{{ end }}"
JINJA = "{% for m in messages %}{{ m.content }}{% endfor %}"
BUILT_IN = {"template": GO, "modelfile": "FROM x\nRENDERER gemma4\nPARSER gemma4\n"}
RECORDED = json.loads("".join(recording("show-vision")["response"]["chunks"]))


def asked(*content: ContentPart, **fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", prompt=(Message(role="user", content=content),), **fields)


async def sent(
    backend: OllamaBackend, standin: StandIn, template: str, request: GenerationRequest
) -> Any:
    """Return the body that an Ollama which shows `template` gets."""
    standin.says("/api/show", says_lines({"template": template}))
    standin.says("/api/chat", says_lines({"message": {"content": "{}"}, "done": True}))
    async for _ in sink.events(backend, request):
        pass
    return standin.bodies("/api/chat")[-1]


@pytest.mark.parametrize(
    ("show", "places", "keeps_to_json"),
    [
        ({"template": GO}, True, True),
        ({"template": JINJA}, False, False),
        ({"template": "{{ .Prompt }}"}, False, True),
        ({"template": ""}, False, True),
        (BUILT_IN, False, True),
        (RECORDED, True, True),
    ],
    ids=["go", "jinja", "default", "none", "built in", "recorded"],
)
def test_template_is_recognised_by_its_language(
    show: dict[str, Any], places: bool, keeps_to_json: bool
):
    template = to_template(msgspec.convert(show, Show))
    assert (template.places_images, template.keeps_to_json) == (places, keeps_to_json)


@pytest.mark.parametrize(
    ("content", "mixed"),
    [
        ((A, ONE, B), True),
        ((ONE, A, TWO), True),
        ((A, ONE), False),
        ((ONE, TWO, A, B), True),
        ((A, ONE, ONE), True),
        ((ONE, A, B), False),
        ((ONE,), False),
        ((A, B), False),
        ((A, ONE, TextPart("What is [img]?")), False),
        ((A, ONE, TextPart("What is [img-0]?")), False),
    ],
)
def test_image_between_words_or_beside_another_has_a_place(
    content: tuple[ContentPart, ...], mixed: bool
):
    assert is_mixed(Message(role="user", content=content)) == mixed


@pytest.mark.parametrize(
    ("template", "text"), [(GO, "A\n[img]\n[img]\nB\n[img]\nC"), (JINJA, "A\nB\nC")]
)
async def test_images_keep_their_places_where_the_template_heeds_them(
    backend: OllamaBackend, standin: StandIn, template: str, text: str
):
    body = await sent(backend, standin, template, asked(A, ONE, TWO, B, ONE, C))
    (message,) = body["messages"]
    assert (message["content"], message["images"]) == (text, ["AAAA", "BBBB", "AAAA"])


@pytest.mark.parametrize(("template", "format_"), [(GO, "json"), (JINJA, {"type": "object"})])
async def test_any_json_is_a_schema_where_the_word_is_not_heeded(
    backend: OllamaBackend, standin: StandIn, template: str, format_: Any
):
    """llama-server takes the word, and lets the model say what it likes."""
    body = await sent(backend, standin, template, asked(A, response_format=JSONObject()))
    assert body["format"] == format_


@pytest.mark.ollama
@pytest.mark.long
async def test_any_json_is_json_where_llama_server_renders_the_chat(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OLLAMA_GO_TEMPLATE", "0")
    with own_ollama() as server:
        async with aclosing(OllamaBackend(OllamaConfig(host=server.host))) as backend:
            request = replace(
                asked(TextPart("What is the capital of France?"), response_format=JSONObject()),
                model=PLAIN,
                sampling=Sampling(temperature=0),
                max_tokens=40,
            )
            events = [event async for event in sink.events(backend, request)]
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert said.startswith("{")
