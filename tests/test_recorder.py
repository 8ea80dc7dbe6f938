"""The recorder finds what OpenAI's schema forbids, in bodies and in events, of every server."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.scripted_backend import HELLO, ScriptedBackend, chat, http_client
from recorder.journal import Answer, End, FileJournal, Head, Piece, answers, read_file
from recorder.openai_schema import OpenAISchema, check
from recorder.plugin import Recorder

CHAT = "/v1/chat/completions"
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
}


@pytest.fixture(scope="module")
def schema() -> OpenAISchema:
    path = os.environ.get("TANDEM_OPENAI_SCHEMA")
    if not path:
        pytest.skip("TANDEM_OPENAI_SCHEMA is not set to the path of OpenAI's openapi.yaml")
    return OpenAISchema(Path(path))


def answer(
    *pieces: bytes,
    path: str = CHAT,
    method: str = "POST",
    status: int = 200,
    content_type: str = "application/json",
    headers: list[str] | None = None,
) -> Answer:
    head = Head("1-1", method, path, status, content_type, headers or [], True)
    return Answer(head, list(pieces), complete=True)


def stream(*chunks: Mapping[str, Any]) -> Answer:
    frames = [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks]
    return answer(*frames, b"data: [DONE]\n\n", content_type="text/event-stream; charset=utf-8")


def test_missing_field_of_a_body_is_found(schema: OpenAISchema):
    (wrong, *_) = check(answer(b'{"id": "x"}'), schema).violations
    assert "CreateChatCompletionResponse" in wrong
    assert "required" in wrong


def test_each_event_is_checked(schema: OpenAISchema):
    good = check(stream(CHUNK, CHUNK), schema)
    assert (good.events, good.violations) == (2, [])
    bad = check(stream(CHUNK, CHUNK | {"created": "now"}), schema)
    assert ["created" in wrong for wrong in bad.violations] == [True]


def test_event_that_is_cut_is_not_checked(schema: OpenAISchema):
    cut = stream(CHUNK)
    cut.pieces[1:] = [b'data: {"id": "chat']
    assert check(cut, schema).events == 1


@pytest.mark.parametrize("body", [b'{"error": "text"}', b'{"detail": "no"}', b"no JSON"])
def test_error_without_openais_body_is_found(schema: OpenAISchema, body: bytes):
    assert check(answer(body, status=404), schema).violations


def test_error_event_of_a_stream_is_an_error_body(schema: OpenAISchema):
    error = {"message": "m", "type": "t", "param": None, "code": None}
    assert check(stream(CHUNK, {"error": error}), schema).violations == []
    assert check(stream(CHUNK, {"error": {"message": "m"}}), schema).violations


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("GET", "/v1/models/org/Big:7b", "/models/{model}"),
        ("GET", "/v1/models/", "/models"),
        ("GET", "/v1/responses/resp_1", "/responses/{response_id}"),
        ("POST", "/v1/responses/compact", "/responses/compact"),
        ("POST", "/v1/responses", "/responses"),
        ("GET", "/v1/chat/completions/c/messages", "/chat/completions/{completion_id}/messages"),
        ("GET", "/v1/messages", None),
        ("POST", "/api/chat", None),
    ],
)
def test_operation_is_found(schema: OpenAISchema, method: str, path: str, operation: str | None):
    found = schema.find(method, path)
    assert (found.path if found else None) == operation


def test_events_of_a_response_are_checked_over_websockets_too(schema: OpenAISchema):
    frame = b'{"type": "response.output_text.delta", "delta": 1}'
    sse = answer(
        b"event: x\ndata: " + frame + b"\n\n",
        path="/v1/responses",
        content_type="text/event-stream",
    )
    socket = answer(frame, path="/v1/responses", method="GET", status=0, content_type="")
    for each in (sse, socket):
        checked = check(each, schema)
        assert checked.events == 1
        assert checked.violations


def test_other_shape_for_anthropics_clients_is_not_openais(schema: OpenAISchema):
    body = b'{"type": "model", "data": []}'
    listed = answer(body, path="/v1/models", method="GET", headers=["anthropic-version"])
    assert check(listed, schema).violations == []
    listed.head.request_headers.clear()
    assert check(listed, schema).violations


async def test_application_of_a_test_is_recorded(recorder: Recorder | None):
    if recorder is None:
        pytest.skip("TANDEM_OPENAI_SCHEMA is not set to the path of OpenAI's openapi.yaml")
    async with http_client(ScriptedBackend(HELLO)) as client:
        body = (await client.post(CHAT, json=chat())).content
        streamed = (await client.post(CHAT, json=chat(stream=True))).content
    sent = [each for each in answers(list(recorder.entries), {}) if each.head.path == CHAT]
    assert [b"".join(each.pieces) for each in sent] == [body, streamed]
    assert [each.head.status for each in sent] == [200, 200]


def test_journal_of_other_processes_is_read_on_where_it_ended(tmp_path: Path):
    path = tmp_path / "journal"
    assert read_file(path, 0) == ([], 0)
    journal, entries = FileJournal(path), [Piece("1-1", b"\xff\n"), End("1-1")]
    journal(entries[0])
    read, position = read_file(path, 0)
    assert read == entries[:1]
    journal(entries[1])
    assert read_file(path, position)[0] == entries[1:]
