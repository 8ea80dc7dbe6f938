"""Stored responses, read and continued by OpenAI's client."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fakes.scripted_backend import (
    DONE,
    EVERYTHING,
    HANG,
    HELLO,
    ScriptedBackend,
    Step,
    http_client,
    openai_client,
)
from fakes.waiting import until
from servers.served import own_server, served

from adapters.errors import GenerationError
from adapters.events import Started, TextDelta, ToolCallDelta, ToolCallStarted
from adapters.request import Message, TextPart
from proxy.config import Config, ServerConfig

URL = "/v1/responses"
CALL: list[Step] = [Started(), ToolCallStarted(0, "c0", "f"), ToolCallDelta(0, "{}"), DONE]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(server=ServerConfig(state_folder=str(tmp_path), shutdown_grace=0.1))


@asynccontextmanager
async def real_client(
    backend: ScriptedBackend, config: Config
) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client on a real socket, where streams arrive piece by piece."""
    async with served(backend, config) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            yield client


def said(backend: ScriptedBackend) -> list[tuple[str, str]]:
    """Role and text of each message of the last request."""
    prompt = backend.requests[-1].prompt
    assert isinstance(prompt, tuple)
    return [(message.role, text_of(message)) for message in prompt]


def text_of(message: Message) -> str:
    return "".join([part.text for part in message.content if isinstance(part, TextPart)])


# --- read and deleted ---


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_response_is_stored_by_default(config: Config, stream: bool):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer: Any = await client.responses.create(
            model="m", input="Hi", metadata={"a": "b"}, stream=stream
        )
        if stream:
            events = [event async for event in answer]
            answer = events[-1].response
        found = await client.responses.retrieve(answer.id)
    assert found == answer
    assert found.output_text == "Hello"
    assert found.to_dict()["store"] is True
    assert found.metadata == {"a": "b"}


async def test_streamed_response_is_stored_before_its_end(config: Config):
    async with real_client(ScriptedBackend(HELLO), config) as client:
        async for event in await client.responses.create(model="m", input="Hi", stream=True):
            if event.type == "response.completed":
                assert (await client.responses.retrieve(event.response.id)).status == "completed"
                return
    raise AssertionError("there was no end")


async def test_response_is_not_stored_where_the_client_says_so(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.responses.create(model="m", input="Hi", store=False)
        assert answer.to_dict()["store"] is False
        for call in (
            client.responses.retrieve(answer.id),
            client.responses.delete(answer.id),
            client.responses.cancel(answer.id),
            client.responses.input_items.list(answer.id),
        ):
            with pytest.raises(openai.NotFoundError, match=answer.id):
                await call


async def test_deleted_response_is_gone(config: Config):
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        key = (await client.post(URL, json={"model": "m", "input": "Hi"})).json()["id"]
        deleted = await client.delete(f"{URL}/{key}")
        again = await client.delete(f"{URL}/{key}")
    assert deleted.json() == {"id": key, "object": "response", "deleted": True}
    assert again.status_code == 404


async def test_responses_are_kept_apart_by_key(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.responses.create(model="m", input="Hi")
        conversation = await client.conversations.create()
        other = client.with_options(api_key="other")
        for call in (
            other.responses.retrieve(answer.id),
            other.responses.delete(answer.id),
            other.responses.input_items.list(answer.id),
            other.conversations.retrieve(conversation.id),
            other.conversations.delete(conversation.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
        with pytest.raises(openai.BadRequestError) as failure:
            await other.responses.create(model="m", input="Hi", previous_response_id=answer.id)
        assert failure.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError, match="not found") as missing:
            await other.responses.create(model="m", input="Hi", conversation=conversation.id)
        assert missing.value.param == "conversation"


# --- continued ---


async def test_response_continues_another_with_all_before_it(config: Config):
    backend = ScriptedBackend(HELLO)
    async with openai_client(backend, config=config) as client:
        first = await client.responses.create(model="m", input="1", instructions="Be brief.")
        second = await client.responses.create(model="m", input="2", previous_response_id=first.id)
        third = await client.responses.create(
            model="m", input="3", previous_response_id=second.id, store=False
        )
        with pytest.raises(openai.BadRequestError) as failure:
            await client.responses.create(model="m", input="4", previous_response_id=third.id)
    assert second.previous_response_id == first.id
    assert said(backend) == [
        ("user", "1"),
        ("assistant", "Hello"),
        ("user", "2"),
        ("assistant", "Hello"),
        ("user", "3"),
    ]
    assert failure.value.param == "previous_response_id"
    assert failure.value.code == "previous_response_not_found"


async def test_result_of_a_tool_continues_its_call(config: Config):
    backend = ScriptedBackend(CALL)
    tools: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    async with openai_client(backend, config=config) as client:
        first = await client.responses.create(model="m", input="Go", tools=tools)
        backend.script = HELLO
        result: Any = [{"type": "function_call_output", "call_id": "c0", "output": "4"}]
        await client.responses.create(
            model="m", input=result, tools=tools, previous_response_id=first.id
        )
    prompt = backend.requests[-1].prompt
    assert isinstance(prompt, tuple)
    assert [message.role for message in prompt] == ["user", "assistant", "tool"]
    assert prompt[1].tool_calls[0].name == "f"


async def test_deleted_link_of_a_chain_is_refused(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        first = await client.responses.create(model="m", input="1")
        second = await client.responses.create(model="m", input="2", previous_response_id=first.id)
        await client.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError, match=first.id):
            await client.responses.create(model="m", input="3", previous_response_id=second.id)
        items = await client.responses.input_items.list(second.id)
    assert len(items.data) == 1


async def test_item_reference_is_the_stored_item(config: Config):
    backend = ScriptedBackend(HELLO)
    async with openai_client(backend, config=config) as client:
        first = await client.responses.create(model="m", input="1")
        inputs: Any = [
            {"type": "item_reference", "id": first.output[0].id},
            {"role": "user", "content": "2"},
        ]
        await client.responses.create(model="m", input=inputs)
        inputs[0]["id"] = "msg_unknown"
        with pytest.raises(openai.NotFoundError, match="'msg_unknown' not found") as error:
            await client.responses.create(model="m", input=inputs)
    assert error.value.param == "input[0]"
    assert said(backend) == [("assistant", "Hello"), ("user", "2")]


async def test_input_items_have_pages(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        inputs: Any = [{"role": "user", "content": str(at)} for at in range(4)]
        first = await client.responses.create(model="m", input=inputs)
        second = await client.responses.create(
            model="m", input="last", previous_response_id=first.id
        )
        own = await client.responses.input_items.list(first.id, order="asc")
        latest = await client.responses.input_items.list(first.id, limit=2)
        every = [
            item
            async for item in client.responses.input_items.list(second.id, limit=2, order="asc")
        ]
    texts = [item.to_dict()["content"][0]["text"] for item in own.data]  # type: ignore[index]
    assert texts == ["0", "1", "2", "3"]
    assert [item.id for item in latest.data] == [item.id for item in own.data[:1:-1]]
    assert latest.has_more is True
    assert [item.to_dict()["content"][0]["text"] for item in every] == [  # type: ignore[index]
        *texts,
        "Hello",
        "last",
    ]
    assert all(item.to_dict()["status"] == "completed" for item in every)


async def test_items_with_equal_ids_have_pages(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        equal: Any = [{"role": "user", "content": text, "id": "msg_1"} for text in "ab"]
        first = await client.responses.create(model="m", input=equal)
        repeated: Any = [*first.output, {"role": "user", "content": "c"}]
        second = await client.responses.create(
            model="m", input=repeated, previous_response_id=first.id
        )
        pages = client.responses.input_items.list(second.id, limit=1, order="asc")
        items = [item.to_dict() async for item in pages]
        conversation = await client.conversations.create(items=equal)
        members = await client.conversations.items.list(conversation.id, order="asc")
        held = await client.responses.create(model="m", input=equal, conversation=conversation.id)
        found = await client.responses.retrieve(held.id)
    texts = [item["content"][0]["text"] for item in items]  # type: ignore[index]
    assert texts == ["a", "b", "Hello", "Hello", "c"]
    assert items[0]["id"] == "msg_1"
    assert len({item["id"] for item in items}) == len(items)
    assert [each.to_dict()["content"][0]["text"] for each in members.data] == ["a", "b"]  # type: ignore[index]
    assert found == held


# --- failures ---


async def test_response_that_failed_after_its_beginning_is_stored(config: Config):
    script = [Started(), TextDelta("Hel"), GenerationError("No.")]
    async with real_client(ScriptedBackend(script), config) as client:
        stream = await client.responses.create(model="m", input="Hi", stream=True)
        events: list[Any] = [event async for event in stream]
        found = await client.responses.retrieve(events[0].response.id)
    assert found == events[-1].response
    assert found.status == "failed"
    assert found.output_text == "Hel"


async def test_response_that_failed_is_stored_when_its_stream_has_ended(config: Config):
    backend = ScriptedBackend((Started(), TextDelta("Hel"), GenerationError("It broke.")))
    async with http_client(backend, config=config) as client:
        await client.post(URL, json={"model": "m", "input": "Hi", "stream": True})
    path = Path(config.server.state_folder or "") / "stored" / "answers.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT status FROM entries").fetchall() == [("failed",)]


async def test_response_is_sent_where_it_cannot_be_stored(
    tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "stored").write_text("a file where the folder should be")
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        answer = await client.post(URL, json={"model": "m", "input": "Hi"})
        streamed = await client.post(URL, json={"model": "m", "input": "Hi", "stream": True})
        background = await client.post(URL, json={"model": "m", "input": "Hi", "background": True})
    assert answer.json()["status"] == "completed"
    assert answer.headers["x-tandem-ignored"] == "store"
    assert "event: response.completed" in streamed.text
    assert "is not kept" in caplog.text
    assert background.status_code == 500
    assert background.json()["error"]["code"] == "storage_failed"
    assert background.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/health", "/api/health"])
async def test_health_reports_that_answers_cannot_be_stored(
    tmp_path: Path, config: Config, path: str
):
    (tmp_path / "stored").write_text("a file where the folder should be")
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        before = (await client.get(path)).json()["stored"]
        await client.post(URL, json={"model": "m", "input": "Hi"})
        failing = (await client.get(path)).json()["stored"]
        (tmp_path / "stored").unlink()
        await client.post(URL, json={"model": "m", "input": "Hi"})
        after = (await client.get(path)).json()["stored"]
    assert before == after == {"ok": True, "detail": None}
    assert failing["ok"] is False
    assert failing["detail"]
    assert str(tmp_path) not in failing["detail"]


async def test_health_has_nothing_of_answers_where_none_are_stored(tmp_path: Path):
    config = Config(server=ServerConfig(state_folder=str(tmp_path), store=False))
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        assert (await client.get("/health")).json()["stored"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
    ],
)
async def test_switched_off_store_refuses_by_name(tmp_path: Path, fields: Any, param: str):
    config = Config(server=ServerConfig(state_folder=str(tmp_path), store=False))
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        refused = await client.post(URL, json={"model": "m", "input": "Hi", **fields})
        passed = await client.post(URL, json={"model": "m", "input": "Hi", "store": True})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert passed.json()["store"] is False
    assert passed.headers["x-tandem-ignored"] == "store"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "conversation"),
        ({"conversation": {"name": "x"}}, "conversation.id"),
    ],
)
async def test_conflicts_are_refused_by_name(config: Config, fields: Any, param: str):
    async with http_client(ScriptedBackend(HELLO), config=config) as client:
        refused = await client.post(URL, json={"model": "m", "input": "Hi", **fields})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


# --- background ---


async def polled(client: openai.AsyncOpenAI, key: str, *before: str) -> Any:
    """Poll a background response until it has another status than those of `before`."""
    while True:
        found = await client.responses.retrieve(key)
        if found.status not in before:
            return found


async def ended(client: openai.AsyncOpenAI, key: str) -> Any:
    return await polled(client, key, "queued", "in_progress")


async def test_background_response_is_polled(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        begun = await client.responses.input_items.list(queued.id)
        found = await ended(client, queued.id)
        again = await client.responses.cancel(queued.id)
        items = await client.responses.input_items.list(queued.id)
        with pytest.raises(openai.BadRequestError, match="stream"):
            await client.responses.retrieve(queued.id, stream=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    assert (found.status, found.output_text) == ("completed", "Hello")
    assert found == again
    assert items.data == begun.data


async def test_background_response_is_in_progress_and_cancelled(config: Config):
    backend = ScriptedBackend([Started(), TextDelta("Hel"), HANG])
    async with openai_client(backend, config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        await backend.began.wait()
        assert (await polled(client, queued.id, "queued")).status == "in_progress"
        with pytest.raises(openai.BadRequestError, match="in_progress"):
            await client.responses.create(model="m", input="x", previous_response_id=queued.id)
        cancelled = await client.responses.cancel(queued.id)
        found = await client.responses.retrieve(queued.id)
        again = await client.responses.cancel(queued.id)
        assert backend.closed.is_set()
    assert cancelled.status == "cancelled"
    assert cancelled.output_text == "Hel"
    assert cancelled == found == again


async def test_background_response_is_cancelled_at_once(config: Config):
    backend = ScriptedBackend([Started(), HANG])
    async with openai_client(backend, config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        cancelled = await client.responses.cancel(queued.id)
    assert cancelled.status == "cancelled"
    assert backend.running == 0


@pytest.mark.parametrize("turns", range(0, 24, 3))
async def test_background_response_that_is_cancelled_at_any_time_has_ended(
    config: Config, turns: int
):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled, again = await asyncio.gather(
            client.responses.cancel(queued.id), client.responses.cancel(queued.id)
        )
        found = await client.responses.retrieve(queued.id)
    assert found == cancelled == again
    assert found.status in ("cancelled", "completed")


async def test_background_response_fails_with_its_error(config: Config):
    async with openai_client(ScriptedBackend([GenerationError("No.")]), config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        found = await ended(client, queued.id)
    assert found.status == "failed"
    assert found.error.message == "No."


async def test_background_response_that_no_model_can_answer_is_refused(config: Config):
    backend = ScriptedBackend(HELLO, honours=EVERYTHING - {"tools"})
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    async with openai_client(backend, config=config) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            await client.responses.create(model="no-such-model", input="Hi", background=True)
        with pytest.raises(openai.BadRequestError) as lacking:
            await client.responses.create(model="m", input="Hi", tools=[tool], background=True)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert lacking.value.param == "tools"


async def test_background_response_fails_with_a_shutdown(config: Config):
    backend = ScriptedBackend([Started(), TextDelta("Hel"), HANG])
    async with openai_client(backend, config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        await backend.began.wait()
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        found = await client.responses.retrieve(queued.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.message == "The server is shutting down."
    assert found.output_text == "Hel"


async def test_stream_of_a_background_response_is_told_of_a_shutdown(config: Config):
    backend = ScriptedBackend([Started(), TextDelta("Hel"), HANG])
    body = {"model": "m", "input": "Hi", "background": True, "stream": True}
    async with own_server(backend, config) as (server, port), httpx.AsyncClient() as client:
        answer = client.stream("POST", f"http://127.0.0.1:{port}/v1/responses", json=body)
        async with answer as response:
            lines = response.aiter_lines()
            while "output_text.delta" not in await anext(lines):
                pass
            server.handle_exit(signal.SIGTERM, None)
            rest = "".join([line async for line in lines])
    assert '"type":"response.failed"' in rest
    assert "The server is shutting down." in rest


async def test_background_stream_is_resumed_while_it_runs_and_later(config: Config):
    go = asyncio.Event()

    class Waiting(ScriptedBackend):
        async def generate(self, request: Any, sink: Any) -> None:
            sink.write(Started())
            sink.write(TextDelta("Hel"))
            await go.wait()
            sink.write(TextDelta("lo"))
            sink.write(DONE)

    async with real_client(Waiting(), config) as client:
        first: Any = await client.responses.create(
            model="m", input="Hi", background=True, stream=True
        )
        seen: list[Any] = []
        async for event in first:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await first.close()
        key = seen[0].response.id
        assert (await polled(client, key, "queued")).status == "in_progress"
        resumed = await client.responses.retrieve(
            key, stream=True, starting_after=seen[-1].sequence_number
        )
        go.set()
        rest = [event async for event in resumed]
        later = [e async for e in await client.responses.retrieve(key, stream=True)]
        end = [
            e
            async for e in await client.responses.retrieve(
                key, stream=True, starting_after=len(later) - 2
            )
        ]
    assert [e.type for e in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert rest[0].delta == "lo"  # type: ignore[union-attr]
    assert [*seen, *rest] == later
    assert [e.sequence_number for e in later] == list(range(len(later)))
    assert end == later[-1:]
    assert end[0].response.output_text == "Hello"  # type: ignore[union-attr]


async def test_background_response_outlasts_its_client(config: Config):
    backend = ScriptedBackend(HELLO)
    async with http_client(backend, config=config) as client:
        body = {"model": "m", "input": "Hi", "background": True, "stream": True}
        streamed = await client.post(URL, json=body)
        key = streamed.text.partition('"id":"')[2].partition('"')[0]
        found = (await client.get(f"{URL}/{key}")).json()
        wrong = await client.get(f"{URL}/{key}?starting_after=1")
        unfit = await client.get(f"{URL}/{key}?stream=true&starting_after=-1")
    assert found["status"] == "completed"
    assert wrong.json()["error"]["param"] == unfit.json()["error"]["param"] == "starting_after"


async def test_deleted_background_response_is_stopped(config: Config):
    backend = ScriptedBackend([Started(), HANG])
    async with openai_client(backend, config=config) as client:
        queued = await client.responses.create(model="m", input="Hi", background=True)
        await backend.began.wait()
        await client.responses.delete(queued.id)
        await until(backend.closed.is_set)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(queued.id)


# --- conversations ---


async def test_conversation_is_created_updated_and_deleted(config: Config):
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        created = await client.conversations.create(metadata={"a": "b"})
        found = await client.conversations.retrieve(created.id)
        changed = await client.conversations.update(created.id, metadata={"c": "d"})
        deleted = await client.conversations.delete(created.id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(created.id)
    assert created == found
    assert created.metadata == {"a": "b"}
    assert changed.metadata == {"c": "d"}
    assert (deleted.id, deleted.deleted) == (created.id, True)


@pytest.mark.slow
async def test_items_of_a_conversation(config: Config):
    hi: Any = [{"role": "user", "content": "Hi"}]
    more: Any = [{"type": "message", "role": "assistant", "content": "Hello"}]
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        conversation = await client.conversations.create(items=hi)
        added = await client.conversations.items.create(conversation.id, items=more)
        listed = await client.conversations.items.list(conversation.id, order="asc")
        latest = await client.conversations.items.list(conversation.id, limit=1)
        item = await client.conversations.items.retrieve(
            listed.data[0].id or "", conversation_id=conversation.id
        )
        back = await client.conversations.items.delete(
            listed.data[0].id or "", conversation_id=conversation.id
        )
        left = await client.conversations.items.list(conversation.id)
        empty = await client.conversations.items.list(conversation.id, after=left.last_id or "")
        with pytest.raises(openai.BadRequestError, match="items"):
            await client.conversations.items.create(conversation.id, items=hi * 21)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.create("conv_unknown", items=hi)
    assert [each.to_dict()["content"][0]["type"] for each in listed.data] == [  # type: ignore[index]
        "input_text",
        "output_text",
    ]
    assert empty.to_dict() == {
        "object": "list",
        "data": [],
        "first_id": "",
        "last_id": "",
        "has_more": False,
    }
    assert added.data == latest.data == left.data == listed.data[1:]
    assert item == listed.data[0]
    assert back.id == conversation.id


async def test_stored_items_have_the_fields_that_a_client_may_leave_out(config: Config):
    caller = {"type": "program", "caller_id": "p"}
    action = {"commands": ["ls"]}
    items: Any = [
        {"type": "tool_search_call", "arguments": {}},
        {"type": "tool_search_output", "tools": []},
        {"type": "shell_call", "call_id": "s", "action": action, "caller": caller},
        {"type": "shell_call_output", "call_id": "s", "output": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "caller": caller},
    ]
    async with openai_client(ScriptedBackend(HELLO), config=config) as client:
        created = await client.conversations.create(items=items)
        listed = await client.conversations.items.list(created.id, order="asc")
    search, found, shell, output, call = [item.to_dict() for item in listed.data]
    assert (search["call_id"], search["execution"]) == (None, "client")
    assert (found["call_id"], found["execution"]) == (None, "client")
    assert (shell["environment"], shell["caller"], call["caller"]) == (None, caller, caller)
    assert output["max_output_length"] is None
    assert shell["action"] == {**action, "timeout_ms": None, "max_output_length": None}


async def test_stored_shell_call_is_the_same_prompt_later(config: Config):
    backend = ScriptedBackend(HELLO)
    items: Any = [
        {"role": "user", "content": "Hi"},
        {"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "s", "output": []},
    ]
    async with openai_client(backend, config=config) as client:
        first = await client.responses.create(model="m", input=items)
        await client.responses.create(model="m", input="more", previous_response_id=first.id)
    prompts: list[Any] = [request.prompt for request in backend.requests]
    before, after = prompts
    assert after[: len(before)] == before


@pytest.mark.slow
async def test_conversation_gets_input_and_output_of_each_response(config: Config):
    backend = ScriptedBackend(HELLO)
    start: Any = [{"role": "user", "content": "0"}]
    async with openai_client(backend, config=config) as client:
        conversation = await client.conversations.create(items=start)
        first = await client.responses.create(model="m", input="1", conversation=conversation.id)
        second: Any = await client.responses.create(
            model="m", input="2", conversation={"id": conversation.id}, stream=True
        )
        async for _ in second:
            pass
        items = [item async for item in client.conversations.items.list(conversation.id, limit=2)]
        inputs = await client.responses.input_items.list(first.id, order="asc")
        await client.responses.create(model="m", input="3", previous_response_id=first.id)
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    texts = [item.to_dict()["content"][0]["text"] for item in items]  # type: ignore[index]
    assert texts == ["Hello", "2", "Hello", "1", "0"]
    assert [item.to_dict()["content"][0]["text"] for item in inputs.data] == ["0", "1"]  # type: ignore[index]
    assert said(backend) == [
        ("user", "0"),
        ("user", "1"),
        ("assistant", "Hello"),
        ("user", "3"),
    ]
