"""Invalid bodies: 400 with `param`, never a 5xx, and the next valid request is answered."""

import json
from typing import Any

import httpx2
import msgspec
import pytest
from fakes.scripted_backend import HELLO, ScriptedBackend, chat, http_client
from msgspec import Struct

from adapters.errors import InvalidRequestError
from adapters.events import Started
from proxy.config import Config, ServerConfig
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest
from proxy.http.body import decode, unknown_fields

URL = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
GOOD = json.dumps(chat()).encode()

MALFORMED = {
    "empty": b"",
    "space": b"  ",
    "word": b"hello",
    "half": GOOD[:-1],
    "trailing": GOOD + b" x",
    "two": GOOD + GOOD,
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "bad UTF-8": GOOD.replace(b"Hi", b"H\xff"),
    "bad UTF-8 in an unknown field": GOOD[:-1] + b', "x": "\xff"}',
    "overlong UTF-8": GOOD.replace(b"Hi", b"\xc0\xaf"),
    "lone surrogate": GOOD.replace(b"Hi", b"\\ud800"),
    "lone surrogate in an unknown field": GOOD[:-1] + b', "x": "\\udc00"}',
    "NaN": GOOD[:-1] + b', "temperature": NaN}',
    "Infinity": GOOD[:-1] + b', "temperature": Infinity}',
    "too large a number": GOOD[:-1] + b', "temperature": 1e999}',
    "too large a number in an unknown field": GOOD[:-1] + b', "x": 1e999}',
    "single quotes": GOOD.replace(b'"', b"'"),
    "comment": GOOD + b"// x",
    "array": b"[" + GOOD + b"]",
    "string": json.dumps(GOOD.decode()).encode(),
    "null": b"null",
    "number": b"1",
    "deep arrays": b"[" * 100_000,
    "deep closed arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep unknown field": GOOD[:-1] + b', "x": ' + b"[" * 65 + b"]" * 65 + b"}",
    "deep tool": GOOD[:-1] + b', "tools": [{"a":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    "unclosed string of quotes": b'"' + b'\\"' * 100_000,
    "control character": GOOD.replace(b"Hi", b"H\ni"),
    "bad escape": GOOD.replace(b"Hi", b"\\x41"),
}


def assert_openai_error(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["x-tandem-backend"]
    return error


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_body_is_refused_and_the_next_is_answered(body: bytes):
    async with http_client(ScriptedBackend()) as client:
        error = assert_openai_error(await client.post(URL, content=body, headers=JSON))
        assert error["type"] == "invalid_request_error"
        assert (await client.post(URL, content=GOOD, headers=JSON)).status_code == 200


WRONG: dict[str, Any] = {
    "string": "x",
    "number": 1.5,
    "integer": 10**30,
    "bool": True,
    "array": [[]],
    "object": {"\u0000": []},
}


def _wrong_values() -> list[tuple[str, Any]]:
    """Every field of the Struct with every value that its type does not take."""
    pairs: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(ChatCompletionRequest):
        for value in WRONG.values():
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError:
                pairs.append((field.encode_name, value))
    return pairs


def test_wrong_values_reach_every_field():
    named = {name for name, _ in _wrong_values()}
    assert named == {field.encode_name for field in msgspec.structs.fields(ChatCompletionRequest)}


@pytest.mark.parametrize(("name", "value"), _wrong_values(), ids=str)
def test_wrong_type_is_refused_with_the_field(name: str, value: Any):
    with pytest.raises(InvalidRequestError) as caught:
        decode(json.dumps(chat(**{name: value})).encode(), ChatCompletionRequest)
    param = caught.value.param
    assert param is not None
    assert param.split("[")[0].split(".")[0] == name


@pytest.mark.slow
async def test_wrong_types_leave_the_server_well():
    async with http_client(ScriptedBackend()) as client:
        for name, value in _wrong_values():
            assert_openai_error(await client.post(URL, json=chat(**{name: value})))
        assert (await client.post(URL, json=chat())).status_code == 200


@pytest.mark.parametrize("name", ["model", "messages"])
async def test_missing_field_is_named(name: str):
    body = chat()
    del body[name]
    async with http_client(ScriptedBackend()) as client:
        error = assert_openai_error(await client.post(URL, json=body))
    assert error["param"] == name
    assert error["message"] == f"Missing required parameter: '{name}'."


async def test_the_last_of_duplicate_keys_wins():
    body = b'{"model": "absent", ' + GOOD[1:]
    async with http_client(ScriptedBackend()) as client:
        assert (await client.post(URL, content=body, headers=JSON)).status_code == 200


async def test_the_limit_of_depth_itself_is_allowed():
    inner = b"[" * 63 + b"]" * 63
    body = GOOD[:-1] + b', "metadata": {"x": ' + inner[1:-1] + b"}}"
    async with http_client(ScriptedBackend()) as client:
        assert (await client.post(URL, content=body, headers=JSON)).status_code == 200


async def test_brackets_in_strings_are_no_depth():
    text = '[{"' * 500 + "\\"
    body = chat(messages=[{"role": "user", "content": text}])
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        assert (await client.post(URL, json=body)).status_code == 200
    assert backend.requests[0].prompt[0].text == text  # type: ignore[union-attr]


@pytest.mark.parametrize("streamed", [False, True])
async def test_large_body_is_413(streamed: bool):
    config = Config(server=ServerConfig(max_body_bytes=1000))

    async def pieces():
        for _ in range(20):
            yield b" " * 100

    async with http_client(ScriptedBackend(), config=config) as client:
        content = pieces() if streamed else b" " * 2000
        response = await client.post(URL, content=content, headers=JSON)
        assert assert_openai_error(response, 413)["code"] == "request_too_large"


class Inner(Struct):
    a: int = 0
    free: dict[str, Any] | None = None


class Tagged(Struct, tag_field="type", tag="t"):
    b: int = 0


class Outer(Struct):
    one: Inner | None = None
    many: list[Inner | int] = []
    tagged: Tagged | None = None


@pytest.mark.parametrize(
    ("body", "unknown"),
    [
        ({"one": {"a": 1}}, []),
        ({"x": 1, "y": {"z": 2}}, ["x", "y"]),
        ({"one": {"x": 1}}, ["one.x"]),
        ({"many": [1, {"a": 1, "x": 2}, {"y": 3}]}, ["many[1].x", "many[2].y"]),
        ({"one": {"free": {"x": {"y": 1}}}}, []),
        ({"tagged": {"type": "t", "x": 1}}, ["tagged.x"]),
        ({"one": None}, []),
    ],
    ids=str,
)
def test_unknown_fields_at_every_depth(body: dict[str, Any], unknown: list[str]):
    decoded = decode(json.dumps(body).encode(), Outer)
    assert list(unknown_fields(body, decoded)) == unknown


CACHED = [{"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}]


async def test_unknown_fields_are_named_in_a_header():
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json=chat(foo=1, messages=CACHED))
    assert response.status_code == 200
    assert response.headers["x-tandem-ignored"] == "messages[0].cache_control, foo"


async def test_known_fields_are_not_named():
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json=chat(user="u", metadata={"a": "b"}))
    assert "x-tandem-ignored" not in response.headers


async def test_unknown_field_is_refused_when_strict():
    config = Config(server=ServerConfig(strict_fields=True))
    async with http_client(ScriptedBackend(), config=config) as client:
        error = assert_openai_error(await client.post(URL, json=chat(messages=CACHED)))
    assert error["param"] == "messages[0].cache_control"


async def test_names_in_the_header_cannot_break_it():
    names = {"a\r\nset-cookie: x": 1, "é": 1, "\u0000": 1, "x" * 5000: 1}
    many = {f"field{at}": 1 for at in range(500)}
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json=chat(**names, **many))
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    ignored = response.headers["x-tandem-ignored"]
    assert ignored.isascii()
    assert ignored.isprintable()
    assert len(ignored) < 2500
    assert ignored.endswith("(and 484 more)")


NOT = "response_format.json_schema.schema.properties.a.not"


@pytest.mark.parametrize(
    ("url", "fields", "ignored"),
    [
        (URL, {"foo": 1}, f"foo, {NOT}"),
        (URL, {"stream": True}, NOT),
        (URL, {"guided_json": {}}, "guided_json.properties.a.not"),
        ("/api/chat", {"format": {}}, "format.properties.a.not"),
    ],
)
async def test_parts_that_the_backend_does_without_are_named_as_the_client_sent_them(
    url: str, fields: dict[str, Any], ignored: str
):
    backend = ScriptedBackend([Started(ignored=(NOT,)), *HELLO[1:]])
    async with http_client(backend) as client:
        response = await client.post(url, json=chat(**fields))
    assert response.status_code == 200
    assert response.headers["x-tandem-ignored"] == ignored


async def test_parts_that_several_prompts_do_without_are_named_once():
    backend = ScriptedBackend([Started(ignored=("guided_json.not",)), *HELLO[1:]])
    body = {"model": "m", "prompt": ["a", "b"]}
    async with http_client(backend) as client:
        response = await client.post("/v1/completions", json=body)
    assert response.headers["x-tandem-ignored"] == "guided_json.not"
