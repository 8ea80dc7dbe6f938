"""Images all the way: the official SDK, the real server, a real Ollama, a model that takes them.

The model has random eyes (`tiny_projector.py`): it tells one picture from another, and no more.
"""

import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing, closing
from typing import Any

import jsonschema
import ollama
import pytest
from fakes.pictures import blank, data_url, photo, png
from fakes.scripted_backend import openai_client
from fakes.tiny_projector import tokens_of
from openai import BadRequestError, OpenAI
from servers.ollama_server import LLAVA, PLAIN, SEES, require_model
from servers.recording_proxy import Between, between
from servers.server_process import Running, serving, write

from adapters.config import OllamaConfig
from adapters.ollama.backend import OllamaBackend
from proxy.config import Config, ImagesConfig, ServerConfig
from proxy.images.fetch import Fetcher
from tests.proxy.images.test_fetch import open_canary

pytestmark = [pytest.mark.ollama, pytest.mark.long]

PHOTO, DARK = data_url(photo("png")), data_url(blank(64, 64, 0))
KINDS = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog"]}},
    "required": ["animal"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "a", "strict": True, "schema": SCHEMA},
}
NAME_IT: Any = {"type": "function", "function": {"name": "name_it", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def upstream(ollama_host: str) -> Iterator[Between]:
    require_model(ollama_host, SEES)
    with between(ollama_host) as it:
        yield it


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: Between) -> Iterator[Running]:
    text = f"backends: {{mlx: null, ollama: {{host: '{upstream.host}'}}}}"
    with serving(write(tmp_path_factory.mktemp("images"), text)) as it:
        yield it


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[OpenAI]:
    with server.sdk() as client:
        yield client


def image(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def chat(client: OpenAI, *messages: dict[str, Any], **fields: Any) -> Any:
    asked: Any = {"model": SEES, "temperature": 0, "max_tokens": 8, "messages": messages, **fields}
    return client.chat.completions.create(**asked)


def refusal(client: OpenAI, *parts: dict[str, Any], **fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        chat(client, user(*parts), **fields)
    return caught.value


def tokens(answer: Any) -> int:
    return answer.usage.prompt_tokens


def test_image_of_each_kind_is_seen(client: OpenAI):
    without = tokens(chat(client, user(text("Look:"))))
    urls = [data_url(photo(kind), media_type) for kind, media_type in KINDS.items()]
    seen = [tokens(chat(client, user(text("Look:"), image(url)))) - without for url in urls]
    assert len(set(seen)) == 1
    assert seen[0] > 8


def test_each_image_of_a_message_is_seen(client: OpenAI):
    large = data_url(blank(128, 96))
    parts = (text("One,"), image(DARK), text("two,"), image(large), text("three."))
    without = tokens(chat(client, user(*parts[::2])))
    assert tokens(chat(client, user(*parts))) - without >= tokens_of(64, 64) + tokens_of(128, 96)


def test_image_stands_where_it_was_among_the_words(
    client: OpenAI, upstream: Between, ollama_host: str
):
    """Ollama tells what it makes of the chat, and shows the place of each image."""
    chat(client, user(text("One is"), image(DARK), text("two is"), image(PHOTO), text("Well?")))
    asked = json.dumps(upstream.bodies("/api/chat")[-1] | {"_debug_render_only": True})
    with urllib.request.urlopen(f"{ollama_host}/api/chat", asked.encode()) as response:
        prompt = json.load(response)["_debug_info"]["rendered_template"]
    assert "user\nOne is\n[img-0]\ntwo is\n[img-1]\nWell?<" in prompt


def test_another_image_gets_another_answer(client: OpenAI):
    said = [
        chat(client, user(text("What is it?"), image(url))).choices[0].message.content
        for url in (PHOTO, data_url(blank(96, 96)), PHOTO)
    ]
    assert said[0] == said[2] != said[1]


def test_images_reach_ollama_as_they_were_in_one_message(client: OpenAI, upstream: Between):
    urls = [data_url(photo(kind), media_type) for kind, media_type in KINDS.items()]
    chat(client, user(text("Look:"), *map(image, urls)))
    (message,) = upstream.bodies("/api/chat")[-1]["messages"]
    assert message["content"].split("\n") == ["Look:", *["[img]"] * len(KINDS)]
    assert [base64.b64decode(each) for each in message["images"]] == [photo(k) for k in KINDS]


def test_images_of_earlier_turns_are_seen_again(client: OpenAI, upstream: Between):
    turns = [
        user(image(PHOTO), text("What is it?")),
        {"role": "assistant", "content": "A house."},
        user(text("And this?"), image(DARK)),
    ]
    without = [turns[0] | {"content": "What is it?"}, turns[1], turns[2] | {"content": "And this?"}]
    assert tokens(chat(client, *turns)) > tokens(chat(client, *without)) + tokens_of(64, 64)
    sent = upstream.bodies("/api/chat")[-2]["messages"]
    assert [len(message.get("images", ())) for message in sent] == [1, 0, 1]


def test_answer_about_an_image_is_the_same_streamed(client: OpenAI):
    message = user(text("What is it?"), image(PHOTO))
    whole = chat(client, message)
    chunks = list(chat(client, message, stream=True, stream_options={"include_usage": True}))
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert tokens(chunks[-1]) == tokens(whole)


@pytest.mark.parametrize("detail", ["auto", "low", "high", "original"])
def test_detail_changes_nothing(client: OpenAI, detail: str):
    answers = [chat(client, user(image(PHOTO, **fields))) for fields in ({}, {"detail": detail})]
    assert tokens(answers[0]) == tokens(answers[1])


def test_image_and_schema_together(client: OpenAI):
    message = user(text("Which animal is it?"), image(PHOTO))
    answer = chat(client, message, response_format=FORMAT, max_tokens=40)
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)


@pytest.mark.long
@pytest.mark.parametrize("streamed", [False, True])
def test_image_and_forced_call_together(client: OpenAI, streamed: bool):
    fields: dict[str, Any] = {"tools": [NAME_IT], "tool_choice": "required", "max_tokens": 40}
    message = user(text("Which animal is it?"), image(PHOTO))
    if streamed:
        chunks = list(chat(client, message, stream=True, **fields))
        deltas = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
    else:
        (call,) = chat(client, message, **fields).choices[0].message.tool_calls
        arguments = call.function.arguments
    jsonschema.validate(json.loads(arguments), SCHEMA)


@pytest.mark.long
def test_image_in_the_result_of_a_tool_is_seen(client: OpenAI):
    call = {"id": "1", "type": "function", "function": {"name": "name_it", "arguments": "{}"}}
    asked = [
        {"role": "user", "content": "Look at it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    results = [
        {"role": "tool", "tool_call_id": "1", "content": [text("Here."), *more]}
        for more in ([], [image(PHOTO)])
    ]
    without, seen = (tokens(chat(client, *asked, result, tools=[NAME_IT])) for result in results)
    assert seen > without


def test_choices_about_an_image_are_seeded_one_after_the_other(client: OpenAI):
    message = user(text("What is it?"), image(PHOTO))
    both = chat(client, message, n=2, seed=5, temperature=1).choices
    second = chat(client, message, seed=6, temperature=1).choices[0]
    assert both[1].message.content == second.message.content


@pytest.mark.long
def test_images_may_be_compared_with_one_after_the_other(client: OpenAI, ollama_host: str):
    """Side by side in the prompt they would make Ollama's runner fail at the second request."""
    model = require_model(ollama_host, LLAVA)
    other = data_url(blank(96, 64))
    seen = [
        tokens(chat(client, user(*map(image, urls), text("Well?")), model=model))
        for urls in ([PHOTO, DARK], [PHOTO, other], [PHOTO], [PHOTO, other])
    ]
    assert seen[0] == seen[1] == seen[3] > seen[2]


# --- what is refused -------------------------------------------------------------------------


def test_image_for_a_model_that_reads_text_is_refused_by_name(client: OpenAI):
    error = refusal(client, text("Look:"), image(PHOTO), model=PLAIN)
    assert (error.param, error.code) == ("messages[0].content[1]", "unsupported_parameter")


@pytest.mark.parametrize(
    "url",
    [
        data_url(photo("png")[:-20]),
        data_url(photo("jpg")[:-2], "image/jpeg"),
        data_url(photo("webp")[:-20], "image/webp"),
        data_url(png(65_500, 65_500)),
        data_url(b"%PDF-1.7", "application/pdf"),
        data_url(b"<svg/>", "image/svg+xml"),
        "data:image/png;base64,%%%",
        "https://127.0.0.1/a.png",
    ],
)
def test_image_that_is_none_is_named_and_the_server_goes_on(client: OpenAI, url: str):
    error = refusal(client, text("Look:"), image(PHOTO), image(url))
    assert (error.status_code, error.param) == (400, "messages[0].content[2]")
    assert tokens(chat(client, user(image(PHOTO)))) > 0


def test_image_that_only_ollama_finds_broken_is_named(client: OpenAI):
    """Its head and its end are there, and nothing in between."""
    broken = photo("png")[:41] + photo("png")[-12:]
    error = refusal(client, text("Look:"), image(data_url(broken)))
    assert (error.status_code, error.param) == (400, "messages[0].content[1]")
    assert tokens(chat(client, user(image(PHOTO)))) > 0


# --- the context -----------------------------------------------------------------------------


def test_images_that_do_not_fit_are_refused_with_both_numbers(client: OpenAI):
    large = image(data_url(blank(512, 512)))
    error = refusal(client, *[large] * 8, text("Which one?"))
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert re.search(r"holds 8192 tokens; the prompt alone has 8[45]\d\d\.", error.message)


@pytest.mark.long
def test_small_images_are_not_taken_for_large_ones(client: OpenAI):
    """Runs after others: what an image comes to was learned from their answers."""
    asked: Any = {"model": SEES, "messages": [user(*[image(PHOTO)] * 10)], "max_tokens": 8}
    answer = client.chat.completions.with_raw_response.create(**asked)
    assert answer.headers["x-tandem-context"] == "4096"


@pytest.mark.long
def test_images_that_fit_get_the_context_they_need(client: OpenAI):
    message: Any = user(*[image(data_url(blank(512, 512)))] * 5, text("Which one?"))
    answer = client.chat.completions.with_raw_response.create(
        model=SEES, messages=[message], max_tokens=8
    )
    assert tokens(answer.parse()) > 5 * tokens_of(512, 512)
    assert answer.headers["x-tandem-context"] == "8192"


# --- elsewhere -------------------------------------------------------------------------------


def test_model_that_sees_is_listed_as_one(client: OpenAI):
    card: Any = client.models.retrieve(SEES)
    assert set(card.capabilities) == {"chat", "tools", "vision"}


@pytest.mark.parametrize("streamed", [False, True])
def test_image_in_ollamas_own_chat(server: Running, upstream: Between, streamed: bool):
    message = {"role": "user", "content": "What is it?", "images": [photo("png"), photo("jpg")]}
    asked: dict[str, Any] = {"model": SEES, "messages": [message], "options": {"num_predict": 8}}
    with closing(ollama.Client(f"http://127.0.0.1:{server.port}")) as client:
        answer = client.chat(stream=streamed, **asked)
        last: Any = list(answer)[-1] if streamed else answer
    assert last.prompt_eval_count > 50
    (sent,) = upstream.bodies("/api/chat")[-1]["messages"]
    assert [base64.b64decode(each) for each in sent["images"]] == [photo("png"), photo("jpg")]


async def test_image_of_a_host_that_is_allowed_is_fetched_and_seen(
    ollama_host: str,
):
    """127.0.0.1 stands for a place on the internet."""
    require_model(ollama_host, SEES)

    async def fetch(url: str, config: ImagesConfig) -> bytes:
        return await Fetcher(config, is_allowed=lambda _: True).fetch(url)

    async with open_canary() as canary:
        canary.answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + photo("webp")
        host = f"localhost:{canary.port}"
        images = ImagesConfig(fetch_from=(host,), plain_http=True)
        config = Config(server=ServerConfig(images=images))
        async with (
            aclosing(OllamaBackend(OllamaConfig(host=ollama_host))) as backend,
            openai_client(backend, config=config, fetch_image=fetch) as sdk,
        ):
            asked: Any = [user(text("Look:"), image(f"http://{host}/photo.webp"))]
            answer = await sdk.chat.completions.create(model=SEES, messages=asked, max_tokens=1)
    assert tokens(answer) > 25
    assert len(canary.heads) == 1
