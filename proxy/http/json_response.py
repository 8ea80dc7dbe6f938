"""JSON responses, and error responses in the dialect of a route."""

from collections.abc import Callable, Mapping

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from proxy.errors import Failure, openai_body, to_failure
from proxy.record import Record

_encode = msgspec.json.Encoder().encode
_NO_HEADERS: Mapping[str, str] = {}

FailureBody = Callable[[Failure], Struct]
"""Renders the body of an error in a dialect."""


class ErrorDialect(Struct, frozen=True):
    """The form of a dialect's errors."""

    body: FailureBody = openai_body
    statuses: Mapping[str, int] = {}
    """Code of a failure, or its type where it has no code -> status, where it is another one."""
    id_header: str | None = None
    """A header with the request's id, beside `x-request-id`, of all answers."""

    def respond(self, exc: Exception, record: Record) -> "JSONResponse":
        """Answer a failed request; `record` notes the failure."""
        failure = note_failure(exc, record)
        return JSONResponse(self.body(failure), self.status_of(failure), failure.headers)

    def status_of(self, failure: Failure) -> int:
        return self.statuses.get(failure.code or failure.type, failure.status)


OPENAI_ERRORS = ErrorDialect()


def note_failure(exc: Exception, record: Record) -> Failure:
    """Map `exc` to a failure of the request of `record`, and note it there."""
    failure = to_failure(exc, record.request_id)
    record.fail(exc, failure.code or failure.type)
    return failure


class JSONResponse(ASGIResponse):
    """A JSON response: a Struct, which is encoded, or encoded bytes.

    Litestar's own class looks for cookies, encoders and headers of handlers; no route has any.
    """

    def __init__(
        self, content: Struct | bytes, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        self.status_code = status
        self.body = content if isinstance(content, bytes) else _encode(content)
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            *[(name.encode(), value.encode()) for name, value in self.headers.items()],
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
