"""Every error -> its status, its body, its headers; before the first event and after it."""

import json
from typing import Any

import openai
import pytest
from fakes.scripted_backend import ScriptedBackend, chat, every_error, http_client, openai_client
from litestar.exceptions import HTTPException

from adapters.errors import (
    BackendBusyError,
    BackendError,
    GenerationError,
    InsufficientMemoryError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.events import Started, TextDelta
from proxy.errors import BACKEND_ERRORS, HTTP_ERRORS, to_failure

URL = "/v1/chat/completions"
SECRET = "the prompt of a user"

TABLE = {
    "InvalidRequestError": (400, "invalid_request_error", None),
    "UnsupportedParameterError": (400, "invalid_request_error", "unsupported_parameter"),
    "ContextLengthError": (400, "invalid_request_error", "context_length_exceeded"),
    "ModelNotFoundError": (404, "invalid_request_error", "model_not_found"),
    "BackendBusyError": (429, "rate_limit_error", "backend_busy"),
    "NoDescriptorsError": (503, "server_error", "server_is_overloaded"),
    "InsufficientMemoryError": (503, "server_error", "insufficient_memory"),
    "BackendUnavailableError": (503, "server_error", "backend_unavailable"),
    "BackendTimeoutError": (504, "server_error", "backend_timeout"),
    "BadUpstreamError": (502, "server_error", "bad_upstream"),
    "GenerationError": (500, "server_error", "generation_failed"),
}


def test_every_backend_error_has_a_row():
    assert [kind.__name__ for kind in every_error() if kind not in BACKEND_ERRORS] == []


@pytest.mark.parametrize("kind", every_error())
async def test_backend_error_before_the_first_event(kind: type[BackendError]):
    async with http_client(ScriptedBackend([kind("Why.", param="seed")])) as client:
        for streamed in (False, True):
            response = await client.post(URL, json=chat(stream=streamed))
            status, type_, code = TABLE[kind.__name__]
            assert response.status_code == status
            assert response.json() == {
                "error": {"message": "Why.", "type": type_, "param": "seed", "code": code}
            }
            assert response.headers["x-tandem-backend"] == "scripted"


@pytest.mark.parametrize("kind", every_error())
async def test_backend_error_after_the_first_event(kind: type[BackendError]):
    backend = ScriptedBackend([Started(), TextDelta("Hel"), kind("Why.")])
    async with http_client(backend) as client:
        whole = await client.post(URL, json=chat())
        streamed = await client.post(URL, json=chat(stream=True))
    assert whole.status_code == TABLE[kind.__name__][0]
    assert streamed.status_code == 200
    *_, text, error = [line for line in streamed.text.split("\n\n") if line]
    assert '"content":"Hel"' in text
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == TABLE[kind.__name__][2]
    assert "[DONE]" not in streamed.text
    assert '"finish_reason":"' not in streamed.text


async def test_the_sdk_raises_the_error_of_a_stream():
    backend = ScriptedBackend([Started(), TextDelta("Hel"), GenerationError("Why.")])
    async with openai_client(backend) as client:
        answer = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            async for _ in answer:
                pass
    assert caught.value.code == "generation_failed"


@pytest.mark.parametrize("script", [[], [Started()], [Started(), Started()], [TextDelta("x")]])
async def test_backend_that_breaks_the_contract_is_a_bad_upstream(script: list[Any]):
    async with http_client(ScriptedBackend(script)) as client:
        whole = await client.post(URL, json=chat())
        streamed = await client.post(URL, json=chat(stream=True))
    assert whole.json()["error"]["code"] == "bad_upstream"
    assert "bad_upstream" in streamed.text
    assert "[DONE]" not in streamed.text


@pytest.mark.parametrize("started", [False, True])
async def test_unforeseen_error_tells_nothing(started: bool, caplog: pytest.LogCaptureFixture):
    script = [*([Started()] if started else []), KeyError(SECRET)]
    async with http_client(ScriptedBackend(script)) as client:
        for streamed in (False, True):
            response = await client.post(URL, json=chat(stream=streamed))
            assert response.status_code == (200 if started and streamed else 500)
            assert '"code":"internal_error"' in response.text
            assert "KeyError" not in response.text
            assert SECRET not in response.text
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("exc", "headers"),
    [
        (BackendBusyError("x"), {"retry-after": "1"}),
        (BackendBusyError("x", retry_after=7.6), {"retry-after": "8"}),
        (BackendBusyError("x", retry_after=0.1), {"retry-after": "1"}),
        (InsufficientMemoryError("x"), {"x-should-retry": "false"}),
        (GenerationError("x", lasting=True), {"x-should-retry": "false"}),
        (GenerationError("x"), {}),
        (ModelNotFoundError("x"), {}),
    ],
    ids=repr,
)
def test_headers_say_whether_to_retry(exc: BackendError, headers: dict[str, str]):
    assert to_failure(exc).headers == headers


@pytest.mark.parametrize("status", HTTP_ERRORS)
def test_litestars_own_words_are_not_passed_on(status: int):
    failure = to_failure(HTTPException(detail=f"/home/{SECRET}", status_code=status))
    assert failure.status == status
    assert SECRET not in failure.body.error.message


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("HEAD", "/nope", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("POST", "/v1/completions/x", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, None),
        ("GET", "/%00", 404, "unknown_url"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PATCH", "/health", 405, "method_not_allowed"),
        ("HEAD", "/v1/completions", 405, "method_not_allowed"),
    ],
)
async def test_address_that_is_none(method: str, path: str, status: int, code: str | None):
    async with http_client(ScriptedBackend()) as client:
        response = await client.request(method, path)
    if path == "/v1/models/":  # Litestar drops the slash: the list
        assert response.status_code == 200
        return
    assert response.status_code == status
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["x-tandem-backend"] == "none"
    assert ("allow" in response.headers) == (status == 405)
    if method != "HEAD":
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(logprobs=True, top_logprobs=1), "top_logprobs"),
        (chat(logprobs=True), "logprobs"),
        (chat(max_tokens=3), "max_tokens"),
        (chat(max_completion_tokens=3), "max_completion_tokens"),
        (chat(temperature=1), "temperature"),
    ],
    ids=str,
)
async def test_unsupported_feature_is_named_as_the_client_calls_it(
    body: dict[str, Any], param: str
):
    async with http_client(ScriptedBackend(honours=frozenset())) as client:
        error = (await client.post(URL, json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", param)


async def test_feature_that_the_backend_itself_refuses_is_named_so_too():
    script = [UnsupportedParameterError("No pictures.", param="images")]
    async with http_client(ScriptedBackend(script)) as client:
        error = (await client.post(URL, json=chat())).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "messages")
