"""Errors in HTTP: status, type, code, headers, and OpenAI's body `{"error": {...}}`."""

import logging
import math
import traceback
from typing import Literal

from litestar.exceptions import HTTPException
from msgspec import Struct
from msgspec.structs import replace

from adapters.descriptors import OUT_OF_DESCRIPTORS, TOO_MANY_OPEN
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
    NoDescriptorsError,
    UnsupportedParameterError,
)

log = logging.getLogger("tandem")


class ServerShutdownError(Exception):
    """The server is shutting down and the answer took longer than its grace."""


class ClientDisconnectedError(Exception):
    """The client has closed its connection."""


class StorageError(Exception):
    """Stored answers cannot be read or written; the text has SQLite's or the system's reason."""


class NotStoredError(Exception):
    """Nothing is stored under an id of a request, for its caller."""

    def __init__(self, kind: str, key: str, param: str | None = None) -> None:
        """`kind` is what was looked for, such as `response`; `param` the field of the body."""
        super().__init__(kind, key)
        self.key, self.param = key, param
        name = _STORED_NAMES.get(kind, kind.capitalize())
        self.message = f"{name} with id '{key[:100]}' not found."


_STORED_NAMES = {"chat.completion": "Chat completion"}


class UnauthorizedError(Exception):
    """The server has keys, and the request has none of them."""

    def __init__(self, missing: bool) -> None:
        """`missing`: the request has no key at all."""
        super().__init__()
        self.missing = missing


class RateLimitError(Exception):
    """A limit of the request's key is reached."""

    def __init__(
        self, limited: Literal["requests", "tokens"], message: str, retry_after: float
    ) -> None:
        """`retry_after` is in seconds."""
        super().__init__(message)
        self.limited = limited
        self.message = message
        self.retry_after = retry_after


class ExplainedHTTPError(HTTPException):
    """An HTTP error with a `detail` for the client; the detail of others may hold paths."""


class PreviousResponseNotFoundError(InvalidRequestError):
    """No answer is kept under the id that a request continues."""


class InvalidEncryptedContentError(InvalidRequestError):
    """Encrypted content of an earlier answer cannot be decrypted."""


class Row(Struct, frozen=True):
    status: int
    type: str
    code: str | None = None


BACKEND_ERRORS: dict[type[BackendError], Row] = {
    InvalidRequestError: Row(400, "invalid_request_error"),
    UnsupportedParameterError: Row(400, "invalid_request_error", "unsupported_parameter"),
    ContextLengthError: Row(400, "invalid_request_error", "context_length_exceeded"),
    PreviousResponseNotFoundError: Row(400, "invalid_request_error", "previous_response_not_found"),
    InvalidEncryptedContentError: Row(400, "invalid_request_error", "invalid_encrypted_content"),
    ModelNotFoundError: Row(404, "invalid_request_error", "model_not_found"),
    BackendBusyError: Row(429, "rate_limit_error", "backend_busy"),
    InsufficientMemoryError: Row(503, "server_error", "insufficient_memory"),
    NoDescriptorsError: Row(503, "server_error", "server_is_overloaded"),
    BackendUnavailableError: Row(503, "server_error", "backend_unavailable"),
    BackendTimeoutError: Row(504, "server_error", "backend_timeout"),
    BadUpstreamError: Row(502, "server_error", "bad_upstream"),
    GenerationError: Row(500, "server_error", "generation_failed"),
}

HTTP_ERRORS: dict[int, tuple[Row, str]] = {
    400: (Row(400, "invalid_request_error"), "The request is malformed."),
    403: (Row(403, "permission_error", "forbidden"), "This host or origin is not allowed."),
    404: (
        Row(404, "invalid_request_error", "unknown_url"),
        "There is no such URL. GET /openapi.json lists all.",
    ),
    405: (
        Row(405, "invalid_request_error", "method_not_allowed"),
        "This URL does not support that method.",
    ),
    408: (Row(408, "invalid_request_error", "request_timeout"), "The request took too long."),
    413: (
        Row(413, "invalid_request_error", "request_too_large"),
        "The body is too large. The limit is `server.max_body_bytes` in config.yaml.",
    ),
    415: (
        Row(415, "invalid_request_error", "unsupported_media_type"),
        "Send the body as application/json, without a content encoding.",
    ),
    431: (Row(431, "invalid_request_error", "headers_too_large"), "The headers are too large."),
    503: (
        Row(503, "server_error", "server_is_overloaded"),
        TOO_MANY_OPEN,
    ),
    505: (Row(505, "invalid_request_error", "http_version"), "Only HTTP/1.1 is supported."),
}
"""Errors of Litestar, the gates and the connection. Their own messages may contain paths, so these
are sent instead."""

INTERNAL = Row(500, "server_error", "internal_error")
SHUTDOWN = Row(503, "server_error", "server_shutdown")
NOT_STORED = Row(404, "invalid_request_error")
STORAGE = Row(500, "server_error", "storage_failed")
UNAUTHORIZED = Row(401, "invalid_request_error", "invalid_api_key")
RATE_LIMITED = {
    "requests": Row(429, "requests", "rate_limit_exceeded"),
    "tokens": Row(429, "tokens", "rate_limit_exceeded"),
}
"""Limited quantity, as OpenAI names it -> row."""
GONE = Row(499, "client_error", "client_disconnected")


class ErrorDetail(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """OpenAI's body of an error, and Tandem's own."""

    error: ErrorDetail


class Failure(Struct, frozen=True, kw_only=True):
    """An error with its HTTP status, before a dialect renders its body."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = {}
    request_id: str | None = None
    prompt_tokens: int | None = None
    """Tokens of a prompt that is too long."""
    token_limit: int | None = None
    """Tokens that it may have at most, with its answer."""

    @property
    def body(self) -> ErrorBody:
        """The body in OpenAI's shape."""
        return ErrorBody(ErrorDetail(self.message, self.type, self.param, self.code))


def openai_body(failure: Failure) -> Struct:
    """Render `failure` as OpenAI does: the body of every route without a dialect of its own."""
    return failure.body


def to_failure(exc: Exception, request_id: str | None = None) -> Failure:
    """Map any exception to a failure. Unexpected ones are logged, and answered without text."""
    return replace(_to_failure(exc), request_id=request_id)


def _to_failure(exc: Exception) -> Failure:
    match exc:
        case BackendError():
            return _from_backend(exc)
        case ExplainedHTTPError(status_code=status):
            return _failure(HTTP_ERRORS[status][0], exc.detail)
        case HTTPException(status_code=status) if status in HTTP_ERRORS:
            row, message = HTTP_ERRORS[status]
            busy = {"retry-after": "1"} if status == 503 else {}
            return _failure(row, message, headers=dict(exc.headers or busy))
        case OSError(errno=number) if number in OUT_OF_DESCRIPTORS:
            return _to_failure(HTTPException(status_code=503))
        case UnicodeDecodeError() | RecursionError():
            return _failure(*HTTP_ERRORS[400])
        case UnauthorizedError():
            message = _NO_KEY if exc.missing else _WRONG_KEY
            return _failure(UNAUTHORIZED, message, headers={"www-authenticate": "Bearer"})
        case RateLimitError():
            headers = {"retry-after": str(max(1, math.ceil(exc.retry_after)))}
            return _failure(RATE_LIMITED[exc.limited], exc.message, headers=headers)
        case NotStoredError():
            return _failure(NOT_STORED, exc.message, param=exc.param)
        case StorageError():
            log.error("Stored answers: %s", exc)
            return _failure(
                STORAGE,
                "Stored answers are not available. The server's log says why.",
                headers={
                    "x-should-retry": "false"
                },  # A full disk is full at the third try as well.
            )
        case ServerShutdownError():
            return _failure(SHUTDOWN, "The server is shutting down.", headers={"retry-after": "5"})
        case ClientDisconnectedError():
            return _failure(GONE, "The client has disconnected.")
        case _:
            # Without its text: exception texts may contain parts of prompts.
            stack = "".join(traceback.format_tb(exc.__traceback__))
            log.error("Unexpected %s:\n%s", type(exc).__name__, stack)
            return internal_failure()


_NO_KEY = (
    "You didn't provide an API key. Send one in an Authorization header, 'Authorization: Bearer "
    "YOUR_KEY', or in 'x-api-key' or 'api-key'."
)
_WRONG_KEY = "Incorrect API key provided. The keys of this server are in its config.yaml."


def internal_failure() -> Failure:
    return _failure(INTERNAL, "Internal server error. The server's log has the details.")


def to_code(exc: BackendError) -> str:
    """Return the code of the error, for headers, counters and logs."""
    row = _row_of(exc)
    return row.code or row.type


def _row_of(exc: BackendError) -> Row:
    return next(BACKEND_ERRORS[kind] for kind in type(exc).__mro__ if kind in BACKEND_ERRORS)


def _from_backend(exc: BackendError) -> Failure:
    headers: dict[str, str] = {}
    if exc.retry_after is not None:
        headers["retry-after"] = str(max(1, round(exc.retry_after)))
    if exc.lasting:
        headers["x-should-retry"] = "false"
    failure = _failure(_row_of(exc), exc.message, exc.param, headers)
    if not isinstance(exc, ContextLengthError):
        return failure
    return replace(
        failure,
        message=_with_limit(exc),
        prompt_tokens=exc.prompt_tokens,
        token_limit=exc.limit,
    )


def _with_limit(exc: ContextLengthError) -> str:
    """Tell limit and prompt in OpenAI's words as well: clients compress a chat by these words.

    LiteLLM, aider, Cline and Continue look for them, not for the code.
    """
    if exc.limit is None:
        return exc.message
    prompt = ""
    if exc.prompt_tokens is not None:
        prompt = f" However, your messages resulted in {exc.prompt_tokens} tokens."
    return f"This model's maximum context length is {exc.limit} tokens.{prompt} {exc.message}"


def _failure(
    row: Row, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> Failure:
    return Failure(
        status=row.status,
        message=message,
        type=row.type,
        param=param,
        code=row.code,
        headers=headers or {},
    )
