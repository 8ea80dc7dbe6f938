"""Where images stand among words: only a template in Go can be told."""

import json
from typing import Any

import msgspec
import pytest

from adapters.ollama.backend import OllamaBackend
from adapters.ollama.placing import placed, places_images
from adapters.ollama.wire import Show
from adapters.request import ContentPart, GenerationRequest, ImagePart, Message, TextPart
from tests.adapters.ollama.standin import StandIn, recording, says_lines

ONE, TWO = ImagePart("data:;base64,AAAA"), ImagePart("data:;base64,BBBB")
A, B, C = TextPart("A"), TextPart("B"), TextPart("C")
GO = "{{ range .Messages }}{{ .Content }}{{ end }}"
JINJA = "{% for m in messages %}{{ m.content }}{% endfor %}"


def asked(*content: ContentPart) -> GenerationRequest:
    return GenerationRequest(model="m", prompt=(Message(role="user", content=content),))


@pytest.mark.parametrize(
    ("show", "places"),
    [
        ({"template": GO}, True),
        ({"template": JINJA}, False),
        ({"template": "{{ .Prompt }}"}, False),
        ({"template": ""}, False),
        ({"template": GO, "modelfile": "FROM x\nRENDERER gemma4\nPARSER gemma4\n"}, False),
        (json.loads("".join(recording("show-vision")["response"]["chunks"])), True),
    ],
    ids=["go", "jinja", "default", "none", "built in", "recorded"],
)
def test_places_are_heeded_by_a_template_in_go(show: dict[str, Any], places: bool):
    assert places_images(msgspec.convert(show, Show)) == places


@pytest.mark.parametrize(
    ("content", "mixed"),
    [
        ((A, ONE, B), True),
        ((ONE, A, TWO), True),
        ((A, ONE), False),
        ((ONE, TWO, A, B), False),
        ((ONE,), False),
        ((A, B), False),
        ((A, ONE, TextPart("What is [img]?")), False),
        ((A, ONE, TextPart("What is [img-0]?")), False),
    ],
)
def test_image_between_words_has_a_place(content: tuple[ContentPart, ...], mixed: bool):
    assert (placed(asked(*content)) is not None) == mixed


@pytest.mark.parametrize(
    ("template", "text"), [(GO, "A\n[img]\n[img]\nB\n[img]\nC"), (JINJA, "A\nB\nC")]
)
async def test_images_keep_their_places_where_the_template_heeds_them(
    backend: OllamaBackend, standin: StandIn, template: str, text: str
):
    standin.says("/api/show", says_lines({"template": template}))
    standin.replays("chat-stream")
    async for _ in backend.generate(asked(A, ONE, TWO, B, ONE, C)):
        pass
    (message,) = standin.bodies("/api/chat")[-1]["messages"]
    assert (message["content"], message["images"]) == (text, ["AAAA", "BBBB", "AAAA"])
