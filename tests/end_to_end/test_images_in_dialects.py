"""Images in every dialect: the clients of others, the real server, both engines.

The models have random eyes: on MLX a Qwen2.5-VL of a few kilobytes, on a real Ollama SmolLM2 with a
projector of `tiny_projector.py`.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import anthropic
import ollama
import pytest
from fakes.pictures import blank, data_url, photo
from fakes.tiny_vision import write_tiny_vision
from openai import BadRequestError, OpenAI
from servers.ollama_server import SEES, require_model
from servers.server_process import Running, serving, write

pytestmark = [pytest.mark.long, pytest.mark.process]

FIRST, SECOND = photo("png"), blank(96, 64)
WORDS = ("One is", "two is", "Which?")


class Served(NamedTuple):
    running: Running
    model: str
    least: int
    """Tokens that the model makes of both images, at least."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}"


@pytest.fixture(scope="module", params=["mlx", pytest.param("ollama", marks=pytest.mark.ollama)])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dialects")
    if request.param == "mlx":
        write_tiny_vision(folder / "models" / "tiny-vl", "qwen2_5_vl")
        text = (
            f"backends: {{ollama: null, mlx: {{folders: ['{folder}/models'], "
            "huggingface_cache: false, embedded: never}}"
        )
        name, least = "tiny-vl", 2 + 6
    else:
        host = request.getfixturevalue("ollama_host")
        require_model(host, SEES)
        text = f"backends: {{mlx: null, ollama: {{host: '{host}'}}}}"
        name, least = SEES, 6 + 24
    with serving(write(folder, text)) as running:
        yield Served(running, name, least)


@pytest.fixture
def sdk(served: Served) -> Iterator[OpenAI]:
    with served.running.sdk() as client:
        yield client


def test_chat_completions(served: Served, sdk: OpenAI) -> None:
    def asked(*images: str) -> Any:
        parts: list[Any] = [{"type": "text", "text": words} for words in WORDS]
        for at, image in enumerate(images):
            parts.insert(2 * at + 1, {"type": "image_url", "image_url": {"url": image}})
        return {
            "model": served.model,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": 8,
            "temperature": 0,
        }

    both = asked(data_url(FIRST), data_url(SECOND))
    words: Any = sdk.chat.completions.create(**asked()).usage
    seen: Any = sdk.chat.completions.create(**both)
    chunks: Any = list(
        sdk.chat.completions.create(**both, stream=True, stream_options={"include_usage": True})
    )
    assert seen.usage.prompt_tokens - words.prompt_tokens >= served.least
    assert chunks[-1].usage.prompt_tokens == seen.usage.prompt_tokens
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == seen.choices[0].message.content


def test_responses(served: Served, sdk: OpenAI) -> None:
    def ask(*images: str) -> Any:
        parts: list[Any] = [{"type": "input_text", "text": words} for words in WORDS]
        for at, image in enumerate(images):
            parts.insert(2 * at + 1, {"type": "input_image", "image_url": image, "detail": "auto"})
        message: Any = {"role": "user", "content": parts}
        return sdk.responses.create(model=served.model, input=[message], max_output_tokens=16)

    seen, words = ask(data_url(FIRST), data_url(SECOND)), ask()
    assert seen.usage.input_tokens - words.usage.input_tokens >= served.least
    assert seen.output[0].content[0].type == "output_text"


def test_messages(served: Served) -> None:
    def ask(client: anthropic.Anthropic, *images: bytes) -> Any:
        parts: list[Any] = [{"type": "text", "text": words} for words in WORDS]
        for at, image in enumerate(images):
            data = base64.b64encode(image).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
            parts.insert(2 * at + 1, {"type": "image", "source": source})
        message: Any = {"role": "user", "content": parts}
        answer = client.messages.create(model=served.model, max_tokens=8, messages=[message])
        counted = client.messages.count_tokens(model=served.model, messages=[message])
        read = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
        assert counted.input_tokens >= read
        return read

    with anthropic.Anthropic(base_url=served.url, api_key="x", max_retries=0) as client:
        assert ask(client, FIRST, SECOND) - ask(client) >= served.least


@pytest.mark.parametrize("streamed", [False, True])
def test_ollamas_chat_and_prompt(served: Served, streamed: bool) -> None:
    options = {"num_predict": 8, "temperature": 0}
    with closing(ollama.Client(served.url)) as client:

        def counts(*images: bytes) -> list[int]:
            message = {"role": "user", "content": "Which?", "images": images}
            chat: Any = client.chat(served.model, [message], stream=streamed, options=options)
            text: Any = client.generate(
                served.model, "Which?", images=images, stream=streamed, options=options
            )
            lasts: list[Any] = [list(each)[-1] if streamed else each for each in (chat, text)]
            return [last.prompt_eval_count for last in lasts]

        pairs = zip(counts(FIRST, SECOND), counts(), strict=True)
        assert all(seen - words >= served.least for seen, words in pairs)
        assert "vision" in (client.show(served.model).capabilities or ())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (data_url(FIRST[:-20]), "not a complete PNG"),
        (data_url(blank(8000, 8000)), "more than 33000000 pixels"),
        ("http://127.0.0.1/a.png", "downloads no images"),
        ("data:image/png;base64,%%%", "not a valid base64"),
    ],
    ids=["incomplete", "too large", "by http", "no base64"],
)
def test_refusals_are_the_same_on_both_engines(
    served: Served, sdk: OpenAI, url: str, words: str
) -> None:
    content: Any = [
        {"type": "text", "text": "Which?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    with pytest.raises(BadRequestError, match=words) as caught:
        sdk.chat.completions.create(
            model=served.model, messages=[{"role": "user", "content": content}]
        )
    assert caught.value.param == "messages[0].content[1]"


def test_image_that_only_the_engine_finds_broken_is_named(served: Served, sdk: OpenAI) -> None:
    """Head and end are there, and nothing in between."""
    broken: Any = {"type": "image_url", "image_url": {"url": data_url(FIRST[:41] + FIRST[-12:])}}
    content: Any = [{"type": "text", "text": "Which?"}, broken]
    with pytest.raises(BadRequestError) as caught:
        sdk.chat.completions.create(
            model=served.model, messages=[{"role": "user", "content": content}]
        )
    assert caught.value.param == "messages[0].content[1]"


def test_constraints_hold_beside_an_image(served: Served, sdk: OpenAI) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"animal": {"enum": ["cat", "dog"]}},
        "required": ["animal"],
        "additionalProperties": False,
    }
    image: Any = {"type": "image_url", "image_url": {"url": data_url(FIRST)}}
    messages: Any = [{"role": "user", "content": [image, {"type": "text", "text": "Which?"}]}]
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "strict": True}}
    form["json_schema"]["schema"] = schema
    tool: Any = {"type": "function", "function": {"name": "name_it", "parameters": schema}}
    asked: Any = {"model": served.model, "messages": messages, "max_tokens": 200, "seed": 3}
    written = sdk.chat.completions.create(**asked, response_format=form)
    called = sdk.chat.completions.create(**asked, tools=[tool], tool_choice="required")
    assert json.loads(written.choices[0].message.content or "") in (
        {"animal": "cat"},
        {"animal": "dog"},
    )
    calls: Any = called.choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"name_it"}


def test_image_in_a_result_of_a_tool_is_read_in_every_dialect(served: Served, sdk: OpenAI) -> None:
    """Each costs tokens that the same result without it does not."""
    for prompt_tokens in (_chat_result, _response_result, _message_result):
        assert prompt_tokens(served, sdk, with_image=True) > prompt_tokens(
            served, sdk, with_image=False
        )


def _chat_result(served: Served, sdk: OpenAI, *, with_image: bool) -> int:
    image: Any = {"type": "image_url", "image_url": {"url": data_url(FIRST)}}
    call = {"id": "call_1", "type": "function", "function": {"name": "shot", "arguments": "{}"}}
    result = [{"type": "text", "text": "Here."}, *([image] if with_image else [])]
    messages: Any = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]
    answer = sdk.chat.completions.create(model=served.model, messages=messages, max_tokens=1)
    assert answer.usage is not None
    return answer.usage.prompt_tokens


def _response_result(served: Served, sdk: OpenAI, *, with_image: bool) -> int:
    image = {"type": "input_image", "image_url": data_url(FIRST), "detail": "low"}
    result = [{"type": "input_text", "text": "Here."}, *([image] if with_image else [])]
    items: Any = [
        {"role": "user", "content": "Look."},
        {"type": "function_call", "call_id": "call_1", "name": "shot", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": result},
    ]
    answer = sdk.responses.create(model=served.model, input=items, max_output_tokens=16)
    assert answer.usage is not None
    return answer.usage.input_tokens


def _message_result(served: Served, sdk: OpenAI, *, with_image: bool) -> int:
    data = base64.b64encode(FIRST).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    result = [{"type": "text", "text": "Here."}, *([image] if with_image else [])]
    messages: Any = [
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "shot", "input": {}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": result}],
        },
    ]
    with closing(anthropic.Anthropic(base_url=served.url, api_key="x")) as client:
        usage = client.messages.create(model=served.model, messages=messages, max_tokens=1).usage
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)
