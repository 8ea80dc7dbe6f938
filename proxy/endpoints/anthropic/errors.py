"""Errors as Anthropic's API sends them: `{"type": "error", "error": {...}, "request_id": ...}`.

Source: https://platform.claude.com/docs/en/api/errors
"""

from msgspec import UNSET, Struct, UnsetType

from proxy.errors import Failure
from proxy.http.json_response import ErrorDialect

HEADER = "anthropic-version"
"""A header of every request of Anthropic's clients, which other clients do not send."""

_STATUSES = {
    "backend_busy": 529,
    "insufficient_memory": 529,
    "server_is_overloaded": 529,
    "server_shutdown": 529,
}
"""Code of a failure -> its status, where Anthropic has another: the server is overloaded."""
_TYPES_BY_CODE = {
    "model_not_found": "not_found_error",
    "unknown_url": "not_found_error",
    "request_too_large": "request_too_large",
    "backend_timeout": "timeout_error",
    "backend_busy": "overloaded_error",
    "insufficient_memory": "overloaded_error",
    "server_is_overloaded": "overloaded_error",
    "server_shutdown": "overloaded_error",
}
_TYPES_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_CODES = {"thread": "thread_unsupported_request"}
"""A field that is refused -> the code by which Anthropic's SDK goes on without it: its tool runner
wants the server to keep the conversation, and else sends all of it."""


class Details(Struct, frozen=True):
    error_code: str


class ErrorDetail(Struct, frozen=True):
    type: str
    message: str
    details: Details | UnsetType = UNSET


class AnthropicError(Struct, frozen=True, tag_field="type", tag="error"):
    error: ErrorDetail
    request_id: str | None = None


def to_error(failure: Failure) -> AnthropicError:
    details = Details(_CODES[failure.param]) if failure.param in _CODES else UNSET
    error = ErrorDetail(_type(failure), _message(failure), details)
    return AnthropicError(error, failure.request_id)


def _type(failure: Failure) -> str:
    if failure.code in _TYPES_BY_CODE:
        return _TYPES_BY_CODE[failure.code]
    fallback = "api_error" if failure.status >= 500 else "invalid_request_error"
    return _TYPES_BY_STATUS.get(failure.status, fallback)


def _message(failure: Failure) -> str:
    """Name the field in the message, as there is no `param`.

    Claude Code compresses a chat that is too long by Anthropic's words for it, not by a code.
    """
    if failure.code == "context_length_exceeded":
        counts = ""
        if failure.prompt_tokens is not None and failure.token_limit is not None:
            counts = f": {failure.prompt_tokens} tokens > {failure.token_limit} maximum"
        return f"prompt is too long{counts}. {failure.message}"
    if failure.param is None or f"'{failure.param}" in failure.message:
        return failure.message
    return f"{failure.param}: {failure.message}"


ERRORS = ErrorDialect(to_error, _STATUSES, "request-id")
