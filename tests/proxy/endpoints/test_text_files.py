"""Files within messages, in the dialects that have them."""

import base64
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend, http_client

from adapters.request import Message

CHAT = ("/v1/chat/completions", "messages[0].content[0].file.file_data")
RESPONSE = ("/v1/responses", "input[0].content[0].file_data")
MESSAGE = ("/v1/messages", "messages[0].content[0].source")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def body_of(url: str, data: str, **file: str) -> dict[str, Any]:
    """A request with one file and a question."""
    if url == "/v1/responses":
        parts = [
            {"type": "input_file", "file_data": data, **file},
            {"type": "input_text", "text": "So?"},
        ]
        return {"model": "m", "input": [{"role": "user", "content": parts}]}
    asked = {"type": "text", "text": "So?"}
    if url == "/v1/chat/completions":
        part: dict[str, Any] = {"type": "file", "file": {"file_data": data, **file}}
        return {"model": "m", "messages": [{"role": "user", "content": [part, asked]}]}
    source = {"type": "base64", "media_type": "text/plain", "data": data}
    part = {"type": "document", "title": file.get("filename"), "source": source}
    return {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [part, asked]}],
    }


async def prompt_of(url: str, data: str, **file: str) -> list[Message]:
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        answer = await client.post(url, json=body_of(url, data, **file))
    assert answer.status_code == 200, answer.text
    (request,) = backend.requests
    return [*request.prompt] if isinstance(request.prompt, tuple) else []


@pytest.mark.parametrize("url", [CHAT[0], RESPONSE[0], MESSAGE[0]])
async def test_text_of_a_file_is_in_the_prompt_after_its_name(url: str):
    (message,) = await prompt_of(url, encoded("Milch für zwei\n".encode()), filename="list.txt")
    assert (message.role, message.text) == ("user", "list.txt\nMilch für zwei\n\nSo?")


@pytest.mark.parametrize("url", [CHAT[0], RESPONSE[0]])
@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("text/csv", b"a,b\n1,2"),
        ("application/json", b'{"a": 1}'),
        ("text/plain;charset=utf-8", b"\xef\xbb\xbfHi"),
        ("", b"print(1)"),
    ],
)
async def test_text_of_a_data_url_is_in_the_prompt_when_its_type_is_any(
    url: str, media_type: str, content: bytes
):
    (message,) = await prompt_of(url, f"data:{media_type};base64,{encoded(content)}")
    assert message.text == content.decode("utf-8-sig") + "\nSo?"


@pytest.mark.parametrize(("url", "path"), [CHAT, RESPONSE, MESSAGE])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(b"%PDF-1.4\n1 0 obj\n"), "files have to be text in UTF-8"),
        (encoded(b"PK\x03\x04\xff\xfe"), "files have to be text in UTF-8"),
        (encoded(b"a\x00b"), "files have to be text in UTF-8"),
        ("no base64!", "must be base64"),
        ("data:text/plain,Hi", "must be base64"),
    ],
)
async def test_file_is_refused_by_its_path_when_it_is_no_text(
    url: str, path: str, data: str, reason: str
):
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(url, json=body_of(url, data))
    assert answer.status_code == 400
    assert f"'{path}'" in answer.json()["error"]["message"]
    assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("url", "part", "path"),
    [
        (
            CHAT[0],
            {"type": "file", "file": {"file_id": "f"}},
            "messages[0].content[0].file.file_id",
        ),
        (CHAT[0], {"type": "file", "file": {}}, "messages[0].content[0].file"),
        (RESPONSE[0], {"type": "input_file", "file_id": "f"}, "input[0].content[0].file_id"),
        (RESPONSE[0], {"type": "input_file", "file_url": "u"}, "input[0].content[0].file_url"),
        (RESPONSE[0], {"type": "input_file", "filename": "a"}, "input[0].content[0]"),
    ],
)
async def test_file_that_is_elsewhere_is_refused_by_name(url: str, part: Any, path: str):
    field = "input" if url == RESPONSE[0] else "messages"
    async with http_client(ScriptedBackend()) as client:
        answer = await client.post(
            url, json={"model": "m", field: [{"role": "user", "content": [part]}]}
        )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, path)
    assert error["code"] == "unsupported_parameter"


async def test_result_of_a_call_may_be_a_file():
    call = {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"}
    file = {"type": "input_file", "filename": "a.md", "file_data": encoded(b"# A")}
    result = {"type": "function_call_output", "call_id": "c", "output": [file]}
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        await client.post(RESPONSE[0], json={"model": "m", "input": [call, result]})
    prompt: Any = backend.requests[0].prompt
    assert [(m.role, m.text) for m in prompt] == [("assistant", ""), ("tool", "a.md\n# A")]
