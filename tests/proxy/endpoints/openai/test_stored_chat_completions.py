"""`store: true` of chat completions: kept, listed, read, updated, deleted, by OpenAI's client."""

import os
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes.scripted_backend import HELLO, ScriptedBackend, chat, http_client, openai_client
from jsonschema import Draft202012Validator
from servers.served import served

from adapters.errors import GenerationError
from adapters.events import Started, TextDelta
from proxy.config import Config, ServerConfig

URL = "/v1/chat/completions"
HI: Any = [{"role": "user", "content": "Hi"}]
PARTS: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "me"},
]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(server=ServerConfig(state_folder=str(tmp_path)))


async def test_answer_is_stored_and_read_by_the_official_client(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.chat.completions.create(
            model="m", messages=HI, store=True, metadata={"a": "b"}, temperature=0.5, user="u"
        )
        found = await client.chat.completions.retrieve(answer.id)
    assert found.choices == answer.choices
    assert (found.id, found.created, found.model) == (answer.id, answer.created, "m")
    assert found.usage == answer.usage
    assert found.to_dict()["metadata"] == {"a": "b"}
    assert found.to_dict()["temperature"] == 0.5
    assert found.to_dict()["input_user"] == "u"


async def test_streamed_answer_is_stored_before_its_end(config: Config):
    async with (
        served(ScriptedBackend(HELLO), config) as port,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0
        ) as client,
    ):
        stream = await client.chat.completions.create(
            model="m", messages=HI, store=True, stream=True, n=2
        )
        texts, found = "", None
        async for chunk in stream:
            texts += "".join([choice.delta.content or "" for choice in chunk.choices])
            if any(choice.finish_reason for choice in chunk.choices):
                found = found or await client.chat.completions.retrieve(chunk.id)
    assert texts == "HelHellolo" or texts == "HelloHello"
    assert found is not None
    assert [choice.message.content for choice in found.choices] == ["Hello", "Hello"]


@pytest.mark.parametrize("fields", [{}, {"store": False}, {"store": None}])
async def test_answer_is_not_stored_unless_asked(config: Config, fields: Any):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.chat.completions.create(model="m", messages=HI, **fields)
        with pytest.raises(openai.NotFoundError, match=answer.id):
            await client.chat.completions.retrieve(answer.id)


async def test_list_has_pages_and_filters(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        ids = [
            (
                await client.chat.completions.create(
                    model="m", messages=HI, store=True, metadata={"n": str(at), "all": "yes"}
                )
            ).id
            for at in range(5)
        ]
        first = await client.chat.completions.list(limit=2)
        every = [each.id async for each in client.chat.completions.list(limit=2)]
        latest = await client.chat.completions.list(limit=2, order="desc")
        third = await client.chat.completions.list(metadata={"n": "2", "all": "yes"})
        others = await client.chat.completions.list(model="other")
    assert [each.id for each in first.data] == ids[:2]
    assert first.has_more is True
    assert every == ids
    assert [each.id for each in latest.data] == ids[:2:-1]
    assert [each.id for each in third.data] == ids[2:3]
    assert others.data == []


async def test_metadata_is_updated_and_answer_deleted(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.chat.completions.create(model="m", messages=HI, store=True)
        changed = await client.chat.completions.update(answer.id, metadata={"x": "y"})
        found = await client.chat.completions.list(metadata={"x": "y"})
        cleared = await client.chat.completions.update(answer.id, metadata=None)
        deleted = await client.chat.completions.delete(answer.id)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.delete(answer.id)
    assert changed.to_dict()["metadata"] == {"x": "y"}
    assert found.data == [changed]
    assert cleared.to_dict()["metadata"] == {}
    assert (deleted.id, deleted.deleted) == (answer.id, True)


async def test_messages_are_those_of_the_request(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.chat.completions.create(model="m", messages=PARTS, store=True)
        page = await client.chat.completions.messages.list(answer.id)
        second = await client.chat.completions.messages.list(answer.id, after=page.data[0].id)
        latest = await client.chat.completions.messages.list(answer.id, order="desc", limit=1)
        with pytest.raises(openai.NotFoundError, match="'x'"):
            await client.chat.completions.messages.list(answer.id, after="x")
    assert [(m.id, m.role, m.content) for m in page.data] == [
        (f"{answer.id}-0", "system", "Be brief."),
        (f"{answer.id}-1", "user", None),
    ]
    (part,) = page.data[1].content_parts or []
    assert part.to_dict()["text"] == "Hi"
    assert page.data[1].to_dict()["name"] == "me"
    assert second.data == page.data[1:] == latest.data
    assert latest.has_more is True


async def test_answers_are_kept_apart_by_key(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.chat.completions.create(model="m", messages=HI, store=True)
        other = client.with_options(api_key="other")
        assert (await other.chat.completions.list()).data == []
        for call in (
            other.chat.completions.retrieve(answer.id),
            other.chat.completions.update(answer.id, metadata={}),
            other.chat.completions.delete(answer.id),
            other.chat.completions.messages.list(answer.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
        assert (await client.chat.completions.retrieve(answer.id)).id == answer.id


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    ],
)
async def test_metadata_that_cannot_be_stored_is_refused(config: Config, fields: Any, param: str):
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        stored = await client.post(URL, json=chat(store=True, **fields))
        passed = await client.post(URL, json=chat(**fields))
    assert stored.status_code == 400
    assert stored.json()["error"]["param"].startswith(param)
    assert passed.status_code == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order")],
)
async def test_wrong_query_is_refused_by_name(config: Config, query: str, param: str):
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        response = await client.get(f"{URL}?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_unknown_query_names_are_listed(config: Config):
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        response = await client.get(f"{URL}?limit=1&color=red")
    assert response.headers["x-tandem-ignored"] == "color"


async def test_failed_answer_is_not_stored(config: Config):
    script = [Started(), TextDelta("Hel"), GenerationError("No.")]
    async with http_client(ScriptedBackend(script), config=config) as client:
        await client.post(URL, json=chat(store=True))
        streamed = await client.post(URL, json=chat(store=True, stream=True))
        listed = await client.get(URL)
    assert "No." in streamed.text
    assert listed.json()["data"] == []


async def test_answer_is_sent_where_it_cannot_be_stored(
    tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "stored").write_text("a file where the folder should be")
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        response = await client.post(URL, json=chat(store=True))
        streamed = await client.post(URL, json=chat(store=True, stream=True))
        listed = await client.get(URL)
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert response.headers["x-tandem-ignored"] == "store"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "is not kept" in caplog.text
    assert listed.status_code == 500
    assert listed.json()["error"]["code"] == "storage_failed"


async def test_switched_off_store_keeps_nothing(tmp_path: Path):
    folder = tmp_path / "state"
    config = Config(server=ServerConfig(state_folder=str(folder), store=False))
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.post(URL, json=chat(store=True, metadata={"a": 1}))
        listed = await client.get(URL)
        found = await client.get(f"{URL}/{answer.json()['id']}")
    assert answer.headers["x-tandem-ignored"] == "store"
    assert listed.status_code == found.status_code == 404
    assert "server.store" in listed.json()["error"]["message"]
    assert os.listdir(tmp_path) == []


async def test_stored_answer_is_valid_by_openais_schema(
    config: Config, openai_components: dict[str, Any]
):
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.post(URL, json=chat(store=True, metadata={"a": "b"}))
        url = f"{URL}/{answer.json()['id']}"
        bodies = {
            "CreateChatCompletionResponse": (await client.get(url)).json(),
            "ChatCompletionList": (await client.get(URL)).json(),
            "ChatCompletionMessageList": (await client.get(f"{url}/messages")).json(),
            "ChatCompletionDeleted": (await client.delete(url)).json(),
        }
    for message in bodies["ChatCompletionMessageList"]["data"]:
        message["role"] = "assistant"  # The schema has no other; its example has `user`.
    for name, body in bodies.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": openai_components}
        assert [error.message for error in Draft202012Validator(schema).iter_errors(body)] == []
