"""The three tables of `adapters/ollama/errors.py`, and the recorded error shapes."""

import json

import httpx
import msgspec
import ollama
import pytest
from fakes.recorded_ollama import recording

from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
    ContextLengthError,
    GenerationError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from adapters.ollama.errors import (
    EXCEPTIONS,
    RunnerFailedError,
    UnexplainedError,
    find_row,
    from_line,
    from_response,
    translate,
)

FOREIGN = (
    httpx.HTTPError,
    httpx.StreamError,
    httpx.InvalidURL,
    ollama.ResponseError,
    msgspec.MsgspecError,
    ConnectionError,
    TimeoutError,
    UnicodeDecodeError,
)


def leaves(kind: type[Exception]) -> list[type[Exception]]:
    below = [leaf for sub in kind.__subclasses__() for leaf in leaves(sub)]
    return below or [kind]


@pytest.mark.parametrize("kind", [kind for root in FOREIGN for kind in leaves(root)])
def test_every_foreign_exception_has_a_row(kind: type[Exception]):
    assert find_row(kind).message


def test_a_foreign_exception_without_a_row_is_found():
    with pytest.raises(KeyError):
        find_row(ZeroDivisionError)


def test_no_row_is_hidden_by_another():
    assert all(find_row(kind) is row for kind, row in EXCEPTIONS.items())


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (httpx.ConnectError(""), BackendUnavailableError, BadUpstreamError),
        (httpx.ConnectTimeout(""), BackendUnavailableError, BadUpstreamError),
        (httpx.RemoteProtocolError(""), BackendUnavailableError, BadUpstreamError),
        (httpx.ReadError(""), BackendUnavailableError, BadUpstreamError),
        (httpx.ReadTimeout(""), BackendTimeoutError, BackendTimeoutError),
        (TimeoutError(), BackendTimeoutError, BackendTimeoutError),
        (msgspec.DecodeError(""), BadUpstreamError, BadUpstreamError),
    ],
)
def test_foreign_exception_is_translated_by_the_progress_of_the_answer(
    error: Exception, before: type[BackendError], after: type[BackendError]
):
    assert type(translate(error, began=False)) is before
    assert type(translate(error, began=True)) is after


RECORDED = [
    ("chat-missing", ModelNotFoundError, "model"),
    ("show-missing", ModelNotFoundError, "model"),
    ("not-found", BadUpstreamError, None),
    ("method-not-allowed", BadUpstreamError, None),
    ("chat-embed-model", InvalidRequestError, "model"),
    ("chat-tools-unsupported", UnsupportedParameterError, "tools"),
    ("chat-think-unsupported", UnsupportedParameterError, "reasoning_effort"),
    ("chat-think-level-bad", UnsupportedParameterError, "reasoning_effort"),
    ("chat-image-unsupported", UnsupportedParameterError, "images"),
    ("generate-suffix-unsupported", UnsupportedParameterError, "suffix"),
    ("chat-image-bad", InvalidRequestError, "images"),
    ("chat-image-cut", InvalidRequestError, "images"),
    ("chat-webp-cut", InvalidRequestError, "images"),
    ("chat-images-overflow", ContextLengthError, "messages"),
    ("chat-schema-bad", InvalidRequestError, "response_format"),
    ("chat-format-string", InvalidRequestError, "response_format"),
    ("chat-option-wrong-type", InvalidRequestError, None),
    ("chat-logprobs-21", InvalidRequestError, "logprobs"),
    ("chat-overflow-truncate-false", ContextLengthError, "messages"),
    ("fault-queue-full", BackendBusyError, None),
    ("fault-runner-killed-nostream", BadUpstreamError, None),
]


@pytest.mark.parametrize(("name", "kind", "param"), RECORDED, ids=[row[0] for row in RECORDED])
def test_recorded_refusal(name: str, kind: type[BackendError], param: str | None):
    response = recording(name)["response"]
    error = from_response(response["status"], "".join(response["chunks"]).encode(), None)
    assert (type(error), error.param) == (kind, param)


def test_tools_that_ollama_cannot_read_are_to_blame():
    words = (
        "json: cannot unmarshal bool into Go struct field "
        "ToolFunctionParameters.tools.function.parameters.properties of type api.ToolProperty"
    )
    error = from_response(400, json.dumps({"error": words}).encode(), None)
    assert (type(error), error.param) == (InvalidRequestError, "tools")


def test_overflow_tells_both_numbers():
    response = recording("chat-overflow-truncate-false")["response"]
    error = from_response(400, response["chunks"][0].encode(), None)
    assert error.message == "The context holds 2048 tokens; the prompt alone has 9925."
    assert isinstance(error, ContextLengthError)
    assert error.prompt_tokens == 9925


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, BadUpstreamError),
        (302, BadUpstreamError),
        (400, InvalidRequestError),
        (401, BadUpstreamError),
        (403, BadUpstreamError),
        (404, ModelNotFoundError),
        (413, InvalidRequestError),
        (429, BackendBusyError),
        (500, UnexplainedError),
        (502, BadUpstreamError),
        (503, BackendBusyError),
    ],
)
def test_status_decides_where_the_words_are_new(status: int, kind: type[BackendError]):
    assert type(from_response(status, b'{"error":"never heard of"}', None)) is kind


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_body_that_is_not_ollamas_is_never_repeated(status: int):
    error = from_response(status, b"<html>secret</html>", None)
    assert error.message == f"Ollama answered with HTTP status {status}."
    assert not isinstance(error, InvalidRequestError | ModelNotFoundError)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), (None, 1.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0)]
)
def test_retry_after_is_passed_on(header: str | None, seconds: float):
    assert from_response(429, b"", header).retry_after == seconds


def test_503_without_a_message_comes_from_a_proxy_in_front_of_ollama():
    error = from_response(503, b"<html>Service Unavailable</html>", "9")
    assert (type(error), error.retry_after) == (BackendUnavailableError, 9)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("model requires more system memory (9 GiB) than is available", InsufficientMemoryError),
        ("cudaMalloc failed: out of memory", InsufficientMemoryError),
        ("unable to load model: bad magic", RunnerFailedError),
        ("llama runner process has terminated: exit status 2", RunnerFailedError),
        ("model runner has unexpectedly stopped, this may be due to …", RunnerFailedError),
        ("image input is not supported - hint: provide the mmproj", UnsupportedParameterError),
        # From a LLaVA, for one of two images that were side by side in the prompt before.
        (
            '{"error":{"code":500,"message":"got exception: Chunk not found"}}',
            GenerationError,
        ),
        ('think value "low" is not supported for this model', UnsupportedParameterError),
        ("an error was encountered while running the model: unexpected EOF", BadUpstreamError),
    ],
)
def test_error_line_is_translated_by_its_message(words: str, kind: type[BackendError]):
    assert type(from_line(words)) is kind


SECRET = "sk-canary in /home/.ollama/models: you wrote 'my prompt'"
KNOWN = (
    "{}: model requires more system memory (9 GiB) than is available (1 GiB) {}",
    "llama runner process has terminated: {}",
    "got exception: {}",
    'model "{}" not found',
    'option "top_k" must be of type integer {}',
    "pull model manifest: 401: {}",
    "dial tcp {}",
    "server busy {}",
    "no space left on device {}",
    "prompt too long {}",
    "{} does not support embeddings",
    "failed to decode image {}",
    "{}: supplied file was not in GGUF format",
    "invalid format: {}",
    "json: cannot unmarshal {} into .tools.function",
    "error was encountered while running the model: unexpected EOF {}",
    "{}",
)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("words", KNOWN)
def test_what_no_row_knows_is_not_repeated(words: str, status: int):
    text = words.format(*[SECRET] * words.count("{}"))
    nested = json.dumps({"error": {"code": 400, "message": text, "type": "t"}})
    for said in (text, nested):
        body = json.dumps({"error": said}).encode()
        for error in (from_line(said), from_response(status, body, None)):
            assert error.message
            for part in ("canary", "/home", "my prompt"):
                assert part not in error.message


def test_what_a_row_knows_is_repeated():
    words = "model requires more system memory (9 GiB) than is available (1 GiB)"
    assert "(9 GiB) than is available (1 GiB)" in from_line(words).message
    refused = "llama-server chat error: Jinja Exception: Roles must\n alternate in /x/y.jinja"
    assert from_line(refused).message == (
        "The model's chat template rejects these messages: Roles must"
    )


def test_reason_why_no_model_can_be_made_is_repeated():
    body = json.dumps({"error": "neither 'from' or 'files' was specified"}).encode()
    error = from_response(400, body, None)
    assert type(error) is InvalidRequestError
    assert error.message == (
        "Ollama cannot make this model: neither 'from' or 'files' was specified."
    )
