"""Events -> Anthropic's answers, as bytes and as the official client sees them."""

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from fakes.anthropic_client import HEADERS, anthropic_client, message
from fakes.scripted_backend import DONE, HELLO, ScriptedBackend, http_client
from pydantic import TypeAdapter

from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    ContextLengthError,
    GenerationError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelNotFoundError,
)
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from proxy.config import Config, ServerConfig
from proxy.endpoints.anthropic.messages.response import FRAMING

URL = "/v1/messages"
HI: Any = [{"role": "user", "content": "Hi"}]
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)

EVERYTHING: list[Event] = [
    Started(),
    ReasoningDelta("Let me "),
    ReasoningDelta("see."),
    TextDelta("I "),
    TextDelta("look."),
    ToolCallStarted(0, "call_1", "f"),
    ToolCallDelta(0, '{"a":'),
    ToolCallDelta(0, "1}"),
    ToolCallStarted(1, "call_2", "g"),
    Finished(
        "tool_calls",
        Usage(prompt_tokens=5, completion_tokens=9, cached_tokens=4, reasoning_tokens=2),
    ),
]


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream: name and data of each."""
    frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data[6:])) for name, data in frames]


async def streamed(script: list[Any], **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    async with http_client(ScriptedBackend(script)) as client:
        answer = await client.post(URL, json=message(stream=True, **fields), headers=HEADERS)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events_of(answer.text)


async def whole(script: list[Any], **fields: Any) -> dict[str, Any]:
    async with http_client(ScriptedBackend(script)) as client:
        answer = await client.post(URL, json=message(**fields), headers=HEADERS)
    assert answer.status_code == 200
    Message.model_validate(answer.json(), strict=True)
    return answer.json()


async def test_message_has_all_that_was_said():
    answer = await whole(EVERYTHING)
    assert answer["id"].startswith("msg_")
    thinking, text, *calls = answer["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Let me see.")
    assert thinking["signature"]
    assert (text["type"], text["text"]) == ("text", "I look.")
    direct = {"type": "tool_use", "caller": {"type": "direct"}}
    assert calls == [
        {**direct, "id": "toolu_1", "name": "f", "input": {"a": 1}},
        {**direct, "id": "toolu_2", "name": "g", "input": {}},
    ]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)
    usage = answer["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (1, 4)
    assert usage["cache_creation_input_tokens"] == 0
    assert usage["output_tokens"] == 9
    assert usage["output_tokens_details"] == {"thinking_tokens": 2}


async def test_message_has_its_blocks_in_the_order_of_the_stream():
    call = [ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, "{}")]
    end = EVERYTHING[-1]
    script = [Started(), TextDelta("a"), *call, ReasoningDelta("hm"), TextDelta("b"), end]
    kinds = [block["type"] for block in (await whole(script))["content"]]
    assert kinds == ["text", "tool_use", "thinking", "text"]
    starts = [data for name, data in await streamed(script) if name == "content_block_start"]
    assert [start["content_block"]["type"] for start in starts] == kinds


async def test_stream_opens_and_closes_each_block_once():
    events = await streamed(EVERYTHING)
    for name, data in events:
        assert data["type"] == name
        if name != "ping":
            STREAM_EVENT.validate_python(data)
    flow = [
        f"{name} {data.get('index', '')}".strip()
        for name, data in events
        if name != "content_block_delta"
    ]
    assert flow == [
        "message_start",
        "ping",
        *[f"content_block_{step} {at}" for at in range(4) for step in ("start", "stop")],
        "message_delta",
        "message_stop",
    ]
    deltas = [(d["index"], d["delta"]["type"]) for n, d in events if n == "content_block_delta"]
    assert deltas == [
        (0, "thinking_delta"),
        (0, "thinking_delta"),
        (0, "signature_delta"),
        (1, "text_delta"),
        (1, "text_delta"),
        (2, "input_json_delta"),
        (2, "input_json_delta"),
    ]
    _, end = events[-2]
    assert end["delta"]["stop_reason"] == "tool_use"
    assert (end["usage"]["input_tokens"], end["usage"]["cache_read_input_tokens"]) == (1, 4)
    assert end["usage"]["output_tokens"] == 9


async def test_sdks_stream_helper_adds_up_to_the_whole_message():
    async with anthropic_client(ScriptedBackend(EVERYTHING)) as client:
        sent = await client.messages.create(model="m", max_tokens=99, messages=HI)
        async with client.messages.stream(model="m", max_tokens=99, messages=HI) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            added = await stream.get_final_message()
    assert text == "I look."
    assert added.to_dict() | {"id": ""} == sent.to_dict() | {"id": ""}


async def test_sdk_reads_the_id_of_the_request():
    async with anthropic_client(ScriptedBackend()) as client:
        answer = await client.messages.with_raw_response.create(
            model="m", max_tokens=9, messages=HI
        )
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("finished", "reason", "sequence"),
    [
        (DONE, "end_turn", None),
        (Finished("stop", DONE.usage, "END"), "stop_sequence", "END"),
        (Finished("length", DONE.usage), "max_tokens", None),
        (Finished("tool_calls", DONE.usage), "tool_use", None),
        (Finished("tool_calls", DONE.usage, "END"), "tool_use", None),
    ],
)
async def test_end_is_told_in_anthropics_words(
    finished: Finished, reason: str, sequence: str | None
):
    script = [Started(), TextDelta("Hi"), finished]
    answer = await whole(script, max_tokens=2)
    events = await streamed(script, max_tokens=2)
    ends = (answer, events[-2][1]["delta"])
    assert all((e["stop_reason"], e["stop_sequence"]) == (reason, sequence) for e in ends)


async def test_end_of_the_context_is_not_the_end_of_max_tokens():
    script = [Started(), TextDelta("Hi"), Finished("length", DONE.usage)]
    answer = await whole(script, max_tokens=3)
    assert answer["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize(
    ("context", "reason"), [(4, "model_context_window_exceeded"), (4096, "max_tokens")]
)
async def test_answer_that_ends_early_does_not_fill_a_long_context(context: int, reason: str):
    """Ollama ends an answer that repeats one token."""
    script = [Started(context), TextDelta("Hi"), Finished("length", DONE.usage)]
    answer = await whole(script, max_tokens=3)
    events = await streamed(script, max_tokens=3)
    assert [answer["stop_reason"], events[-2][1]["delta"]["stop_reason"]] == [reason, reason]


async def test_prompt_alone_is_read_where_the_limit_is_0():
    """So clients fill the cache before the first question."""
    backend = ScriptedBackend(
        [Started(), TextDelta("I"), Finished("length", Usage(prompt_tokens=5, completion_tokens=1))]
    )
    async with http_client(backend) as client:
        answer = (await client.post(URL, json=message(max_tokens=0), headers=HEADERS)).json()
    assert (answer["content"], answer["stop_reason"]) == ([], "max_tokens")
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (5, 0)
    assert backend.requests[0].max_tokens == 1


async def test_call_that_the_limit_cut_is_no_block_of_a_whole_message():
    cut = [
        Started(),
        TextDelta("I look."),
        ToolCallStarted(0, "call_1", "f"),
        ToolCallDelta(0, '{"path": "/ho'),
        Finished("length", DONE.usage),
    ]
    answer = await whole(cut, max_tokens=2)
    assert [block["type"] for block in answer["content"]] == ["text"]
    assert answer["stop_reason"] == "max_tokens"


async def test_stream_begins_with_the_counts_of_the_prompt():
    script = [Started(prompt_tokens=12, cached_tokens=8), TextDelta("Hi"), DONE]
    (_, begin), *_ = await streamed(script)
    usage = begin["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (4, 8)


async def test_stream_begins_without_counts_where_none_is_known():
    (_, begin), *_ = await streamed([*HELLO])
    assert begin["message"]["usage"]["input_tokens"] == 0


async def test_answer_without_text_has_no_block():
    script = [Started(), TextDelta(""), DONE]
    assert (await whole(script))["content"] == []
    assert [name for name, _ in await streamed(script)] == [
        "message_start",
        "ping",
        "message_delta",
        "message_stop",
    ]


async def test_text_after_a_call_is_a_block_of_its_own():
    script = [
        Started(),
        TextDelta("a"),
        ToolCallStarted(0, "call_1", "f"),
        TextDelta("b"),
        TextDelta("c"),
        DONE,
    ]
    events = await streamed(script)
    texts = [(d["index"], d["delta"]["text"]) for n, d in events if n == "content_block_delta"]
    assert texts == [(0, "a"), (2, "b"), (2, "c")]


async def test_hidden_thinking_comes_back_by_its_signature():
    thinking = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    block, *_ = (await whole(EVERYTHING, thinking=thinking))["content"]
    assert block["thinking"] == ""
    events = await streamed(EVERYTHING, thinking=thinking)
    pieces = [d for n, d in events if n == "content_block_delta" and d["index"] == 0]
    assert [piece["delta"] for piece in pieces] == [
        {"type": "signature_delta", "signature": block["signature"]}
    ]
    backend = ScriptedBackend()
    history = [*HI, {"role": "assistant", "content": [block]}, *HI]
    async with http_client(backend) as client:
        await client.post(URL, json=message(messages=history), headers=HEADERS)
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert prompt[1].reasoning == "Let me see."


async def test_context_management_is_answered_where_it_is_sent():
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    assert "context_management" not in await whole([*HELLO])
    sent = await whole([*HELLO], context_management=edits)
    events = await streamed([*HELLO], context_management=edits)
    assert sent["context_management"] == {"applied_edits": []}
    assert events[-2][1]["context_management"] == {"applied_edits": []}


# --- errors ---

FAILURES = [
    (InvalidRequestError("No.", param="top_k"), 400, "invalid_request_error"),
    (ModelNotFoundError("No model.", param="model"), 404, "not_found_error"),
    (BackendBusyError("Later."), 529, "overloaded_error"),
    (InsufficientMemoryError("Full."), 529, "overloaded_error"),
    (BackendTimeoutError("Slow."), 504, "timeout_error"),
    (GenerationError("Broken."), 500, "api_error"),
]


@pytest.mark.parametrize(("error", "status", "kind"), FAILURES)
@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_the_first_event_is_a_status(
    error: BackendError, status: int, kind: str, stream: bool
):
    async with http_client(ScriptedBackend([error])) as client:
        answer = await client.post(URL, json=message(stream=stream), headers=HEADERS)
    assert answer.status_code == status
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == answer.headers["request-id"]
    assert error.message in body["error"]["message"]


async def test_failure_after_the_first_event_is_an_event():
    events = await streamed([Started(), TextDelta("Hi"), GenerationError("Broken.")])
    name, data = events[-1]
    assert name == "error"
    assert data["error"] == {"type": "api_error", "message": "Broken."}
    assert data["request_id"].startswith("req_")
    assert "message_stop" not in [name for name, _ in events]


async def test_sdk_raises_its_own_errors():
    busy = ScriptedBackend([BackendBusyError("Later.")])
    async with anthropic_client(busy) as client:
        with pytest.raises(anthropic.InternalServerError) as overloaded:
            await client.messages.create(model="m", max_tokens=9, messages=HI)
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="nope", max_tokens=9, messages=HI)
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(model="m", max_tokens=-1, messages=HI)
    assert overloaded.value.status_code == 529
    assert overloaded.value.type == "overloaded_error"


@pytest.mark.slow
async def test_sdks_tool_runner_goes_on_where_no_conversation_is_kept():
    @anthropic.beta_async_tool
    async def f(a: int) -> str:
        """Count."""
        return f"{a + 1} is next"

    backend = ScriptedBackend(EVERYTHING[:8] + EVERYTHING[-1:])
    async with anthropic_client(backend) as client:
        runner = client.beta.messages.tool_runner(
            model="m", max_tokens=99, messages=HI, tools=[f], max_iterations=2
        )
        replies = [reply async for reply in runner]
    assert [reply.stop_reason for reply in replies] == ["tool_use", "tool_use"]
    prompt = backend.requests[1].prompt
    assert isinstance(prompt, tuple)
    assert [(m.role, m.text) for m in prompt] == [
        ("user", "Hi"),
        ("assistant", "I look."),
        ("tool", "2 is next"),
    ]


async def test_prompt_that_is_too_long_is_told_in_the_words_that_clients_look_for():
    error = ContextLengthError("Too long.", param="messages")
    error.prompt_tokens, error.limit = 9000, 8192
    async with http_client(ScriptedBackend([error])) as client:
        answer = await client.post(URL, json=message(), headers=HEADERS)
    assert answer.status_code == 400
    text = answer.json()["error"]["message"]
    assert text.startswith("prompt is too long: 9000 tokens > 8192 maximum")


async def test_body_that_is_too_large_has_anthropics_word():
    config = Config(server=ServerConfig(max_body_bytes=100))
    async with http_client(ScriptedBackend(), config=config) as client:
        answer = await client.post(URL, json=message(system="x" * 200), headers=HEADERS)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


@pytest.mark.parametrize("field", ["max_tokens", "messages", "model"])
async def test_field_that_is_missing_is_named(field: str):
    body = message()
    del body[field]
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(URL, json=body, headers=HEADERS)
    assert answer.status_code == 400
    assert f"'{field}'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("headers", [HEADERS, {}])
@pytest.mark.parametrize("path", [URL, f"{URL}/count_tokens"])
async def test_gates_answer_in_the_dialect_of_the_route(path: str, headers: dict[str, str]):
    async with http_client(ScriptedBackend()) as client:
        refused = [
            await client.post(path, json=message(), headers={**headers, "host": "evil.example"}),
            await client.post(path, content=b"{}", headers={**headers, "content-type": "text/x"}),
            await client.delete(path, headers=headers),
        ]
    kinds = [(answer.status_code, answer.json()["error"]["type"]) for answer in refused]
    assert kinds == [
        (403, "permission_error"),
        (415, "invalid_request_error"),
        (405, "invalid_request_error"),
    ]


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/files", "/nope"])
async def test_unknown_url_has_the_errors_of_the_client(path: str):
    async with http_client(ScriptedBackend()) as client:
        ours = await client.get(path, headers=HEADERS)
        others = await client.get(path)
    assert (ours.status_code, ours.json()["error"]["type"]) == (404, "not_found_error")
    assert others.json()["error"]["code"] == "unknown_url"


# --- what Claude Code sends ---


@pytest.mark.parametrize(
    "key", [{"x-api-key": "k"}, {"authorization": "Bearer k"}, {"Authorization": "bearer k"}]
)
async def test_conversation_of_claude_code_has_a_cache_of_its_own(key: dict[str, str]):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        for session in ("a", "a", "b"):
            headers = {**key, "x-claude-code-session-id": session, "anthropic-beta": "any,thing"}
            answer = await client.post(f"{URL}?beta=true", json=message(), headers=headers)
            assert answer.status_code == 200
    first, again, other = [request.client for request in backend.requests]
    assert first == again != other


def test_silent_stream_is_kept_alive_by_an_event():
    assert FRAMING.keepalive is not None
    assert events_of(FRAMING.keepalive.decode()) == [("ping", {"type": "ping"})]
