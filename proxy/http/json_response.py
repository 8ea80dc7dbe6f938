"""An answer in one piece."""

from collections.abc import Mapping

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from proxy.errors import to_failure

_encode = msgspec.json.Encoder().encode
_NONE: Mapping[str, str] = {}


class JSONResponse(ASGIResponse):
    """JSON: a Struct to be encoded, or bytes as they are.

    Litestar's own would look for cookies, encoders and headers of handlers, which none of ours has.
    """

    def __init__(
        self, content: Struct | bytes, status: int = 200, more: Mapping[str, str] = _NONE
    ) -> None:
        self.status_code = status
        self.body = content if isinstance(content, bytes) else _encode(content)
        self._more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            *[(name.encode(), value.encode()) for name, value in self._more.items()],
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def error_response(exc: Exception) -> JSONResponse:
    """The answer to a request that failed."""
    failure = to_failure(exc)
    return JSONResponse(failure.body, failure.status, failure.headers)
