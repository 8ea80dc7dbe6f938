"""What a request must pass before it is read: host, origin, type, encoding, depth."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from adapters.errors import InvalidRequestError
from proxy.config import ServerConfig
from proxy.http.headers import notes_of, signed
from proxy.http.json_response import error_response

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104

# Possessive, so that a quote that is never closed costs one pass and not one per quote.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[]{}", b"()()")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


Fields = Mapping[str, str]
"""A request's headers, names in lower case."""


class Gates:
    """ASGI, around the whole application: Litestar's middleware misses paths without a route.

    What comes back is signed, whoever it is from.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http: HTTPScope = scope  # type: ignore[assignment] - no WebSocket is served
        fields = http["state"]["fields"] = to_fields(http["headers"])
        send = signed(send, notes_of(scope))
        refusal = refuse(fields, http["method"], self._config)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(refusal)(scope, receive, send)


def to_fields(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """What is there twice is one long value, which no gate knows."""
    fields: dict[str, str] = {}
    for raw_name, value in headers:
        name, text = raw_name.decode("latin-1"), value.decode("latin-1")
        fields[name] = f"{fields[name]}, {text}" if name in fields else text
    return fields


def refuse(headers: Fields, method: str, config: ServerConfig) -> HTTPException | None:
    """The first gate that stays shut, as what to answer."""
    for status, is_open in _GATES:
        if not is_open(headers, method, config):
            return HTTPException(status_code=status)
    return None


def _host_allowed(headers: Fields, _method: str, config: ServerConfig) -> bool:
    """DNS rebinding brings a foreign name to this address: only our own names pass."""
    name = _host_name(headers.get("host", ""))
    if name is None or name in _ANYWHERE:
        return False
    if name in _LOOPBACK or name in {host.lower() for host in (*config.allowed_hosts, config.host)}:
        return True
    # A server that listens everywhere is called by addresses; those cannot be rebound.
    return config.host in _ANYWHERE and _is_address(name)


@lru_cache(256)
def _host_name(host: str) -> str | None:
    """`host` without port, brackets and the root's dot, in lower case."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where the port is none
    except ValueError:
        return None
    if not host or parts.path or parts.query or parts.fragment or "@" in host:
        return None
    return (parts.hostname or "").removesuffix(".") or None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _origin_allowed(headers: Fields, _method: str, config: ServerConfig) -> bool:
    """Pages of this machine may call; Open WebUI's server sends such an origin, too."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") != "cross-site"
    if origin in config.allowed_origins:
        return True
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and _host_name(host) in _LOOPBACK


def _type_allowed(headers: Fields, method: str, _config: ServerConfig) -> bool:
    """JSON only: a page can send other types without asking the browser's leave."""
    if method not in _WITH_BODY:
        return True
    given = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return given == "application/json" or (
        given.startswith("application/") and given[-5:] == "+json"
    )


def _encoding_allowed(headers: Fields, _method: str, _config: ServerConfig) -> bool:
    return headers.get("content-encoding", "identity").strip().lower() in ("", "identity")


_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_GATES: tuple[tuple[int, Callable[[Fields, str, ServerConfig], bool]], ...] = (
    (403, _host_allowed),
    (403, _origin_allowed),
    (415, _type_allowed),
    (415, _encoding_allowed),
)


def check_depth(body: bytes, limit: int) -> None:
    """Refuse brackets nested deeper than `limit`, which would exhaust a decoder's stack.

    The innermost pairs are peeled off, a level a pass: every pass runs at the speed of C.

    Raises:
        InvalidRequestError: the body nests too deep.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    left = _STRING.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    levels = 0
    while levels < limit and b"()" in left:
        left = left.replace(b"()", b"")
        levels += 1
    # What was never closed counts as well: a decoder walks down it before it notices.
    if levels + left.count(b"(") > limit:
        raise InvalidRequestError(f"The body nests deeper than {limit} levels.")
