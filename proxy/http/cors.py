"""CORS: headers that let pages of allowed origins read answers, and answers to preflights.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Sequence

from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from proxy.http.gates import Fields, is_allowed_origin
from proxy.http.headers import Headers

_EXPOSED = (
    b"x-request-id, request-id, x-tandem-backend, x-tandem-fallback-from, x-tandem-context, "
    b"x-tandem-ignored, retry-after, x-should-retry, allow, x-ratelimit-limit-requests, "
    b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_MAX_AGE = 7200
"""Seconds that a browser may remember a preflight: the most that Chrome takes."""


def to_cors_headers(fields: Fields, allowed_origins: tuple[str, ...]) -> Headers:
    """Headers of every answer to a request with an allowed origin, errors included."""
    origin = fields.get("origin")
    if origin is None or not is_allowed_origin(origin, allowed_origins):
        return ()
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    )


def is_preflight(fields: Fields, method: str) -> bool:
    """Return true if a browser asks what a page may send."""
    return method == "OPTIONS" and "origin" in fields and "access-control-request-method" in fields


class AllowedMethods(ASGIResponse):
    """Names the methods of a route.

    Litestar names only those of the handler that was registered first.
    """

    def __init__(self, methods: Sequence[str]) -> None:
        self._headers = [(b"allow", ", ".join(methods).encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": self._headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Preflight(AllowedMethods):
    """Allows the methods of a route, and all headers that the page wants to send.

    Cookies are not allowed: no endpoint reads any.
    """

    def __init__(self, fields: Fields, methods: Sequence[str]) -> None:
        self._headers = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-max-age", b"%d" % _MAX_AGE),
            (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        if wanted := fields.get("access-control-request-headers"):
            self._headers.append((b"access-control-allow-headers", wanted.encode("latin-1")))
        if fields.get("access-control-request-private-network") == "true":
            self._headers.append((b"access-control-allow-private-network", b"true"))
