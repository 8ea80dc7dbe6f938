"""An answer in one piece."""

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import Struct

_encode = msgspec.json.Encoder().encode


class Whole(ASGIResponse):
    """JSON: a Struct to be encoded, or bytes as they are.

    Litestar's own would look for cookies, encoders and headers of handlers, which none of ours has.
    """

    def __init__(self, content: Struct | bytes, status: int = 200) -> None:
        self.status_code = status
        self.body = content if isinstance(content, bytes) else _encode(content)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
