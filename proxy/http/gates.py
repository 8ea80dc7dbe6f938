"""Checks of a request before its body is read: host, origin, content type, encoding."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address

from litestar.exceptions import HTTPException

from proxy.config import ServerConfig
from proxy.errors import ExplainedHTTPError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104
_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[^\s\[\]:/?#@]+))(?::(?P<port>\d{0,5}))?"
)
"""Host and port, of which no part may be left over."""
_LAST_PORT = 65535
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SHOWN = 200
"""Characters of a header that an error repeats."""


Fields = Mapping[str, str]
"""A request's headers, names in lower case."""
ContentTypes = frozenset[str]
JSON_TYPES: ContentTypes = frozenset({"application/json", "+json"})
"""Content types of bodies that a route takes by default; `+json` is any such suffix.
A page can send other types without asking the browser for permission."""
_FROM_PROGRAMS = "*/*"
API_TYPES: ContentTypes = JSON_TYPES | {_FROM_PROGRAMS}
"""Takes JSON under any name, as Ollama does, except from pages: browsers send one of two headers of
their own with every such request. `curl -d` names a form, aiohttp `application/octet-stream`, and
`fetch` of Node `text/plain`."""
ANY_TYPES: ContentTypes = frozenset({"*"})
"""For paths that are refused in any case."""
_BY_BROWSERS = frozenset({"origin", "sec-fetch-site"})


def to_fields(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Read headers; a repeated name gets one joined value, which passes no gate."""
    fields: dict[str, str] = {}
    for raw_name, value in headers:
        name, text = raw_name.decode("latin-1"), value.decode("latin-1")
        fields[name] = f"{fields[name]}, {text}" if name in fields else text
    return fields


def refuse_source(headers: Fields, config: ServerConfig) -> HTTPException | None:
    """Check the host and the origin of a request, or of the upgrade of a connection.

    Returns the error to answer, if it is refused.
    """
    if not _host_allowed(headers, config):
        return ExplainedHTTPError(
            status_code=403,
            detail=f"The host '{headers.get('host', '')[:_SHOWN]}' is not allowed. Add its name "
            "to `server.allowed_hosts` in config.yaml.",
        )
    if not _origin_allowed(headers, config):
        return ExplainedHTTPError(
            status_code=403,
            detail=f"The origin '{headers.get('origin', 'unknown')[:_SHOWN]}' is not allowed. Add "
            "it to `server.allowed_origins` in config.yaml.",
        )
    return None


def refuse_body(
    headers: Fields, method: str, content_types: ContentTypes = JSON_TYPES
) -> HTTPException | None:
    """Check the type and the encoding of a body; returns as `refuse_source`."""
    if method in _WITH_BODY and not _type_allowed(headers, content_types):
        if content_types.isdisjoint(JSON_TYPES):
            wanted = " or ".join(sorted(content_types))
            return ExplainedHTTPError(status_code=415, detail=f"Send the body as {wanted}.")
        return HTTPException(status_code=415)
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return HTTPException(status_code=415)
    return None


def _host_allowed(headers: Fields, config: ServerConfig) -> bool:
    """Guard against DNS rebinding, which brings a foreign name to this address."""
    name = _host_name(headers.get("host", ""))
    if name is None or name in _ANYWHERE:
        return False
    if name in _LOOPBACK or name in {host.lower() for host in (*config.allowed_hosts, config.host)}:
        return True
    # A server on all addresses is reached by address, and addresses cannot be rebound.
    return config.host in _ANYWHERE and _is_address(name)


@lru_cache(256)
def _host_name(host: str) -> str | None:
    """Strip port, brackets and the root's dot from `host`, in lower case; `None` if malformed."""
    parts = _HOST.fullmatch(host)
    if parts is None or int(parts["port"] or 0) > _LAST_PORT:
        return None
    return (parts["v6"] or parts["name"].removesuffix(".")).lower() or None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _origin_allowed(headers: Fields, config: ServerConfig) -> bool:
    """Allow origins of this machine; Open WebUI's server sends such an origin, too."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") != "cross-site"
    if _is_own_origin(origin, headers):
        return True  # The host was checked.
    return is_allowed_origin(origin, config.page_origins)


@lru_cache(256)
def is_allowed_origin(origin: str, patterns: tuple[str, ...]) -> bool:
    """Allow pages of this machine, and origins that match a pattern, in which `*` is any text.

    Open WebUI's server sends an origin of this machine, too.
    """
    scheme, _, host = origin.partition("://")
    if scheme in ("http", "https") and _host_name(host) in _LOOPBACK | _ANYWHERE:
        return True
    return any(_matches(origin, pattern) for pattern in patterns)


def is_page_refused(headers: Fields, config: ServerConfig) -> bool:
    """Return true if a web page sent the request that may not administer.

    Pages of the server's own origin may, and those of `allowed_admin_origins`. Other programs of
    this machine serve pages, too, and pages of any site may be open in the user's browser.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if any(_matches(origin, pattern) for pattern in config.allowed_admin_origins):
        return False
    return not _is_own_origin(origin, headers)


def _is_own_origin(origin: str, headers: Fields) -> bool:
    """Return true for a page of the address that the server was called by."""
    scheme, _, place = origin.lower().partition("://")
    host = headers.get("host", "")
    return scheme in _DEFAULT_PORTS and _with_port(place, scheme) == _with_port(host, scheme)


def _with_port(place: str, scheme: str) -> tuple[str | None, str]:
    """Split `place` into host and port; browsers leave out the default port of `scheme`."""
    parts = _HOST.fullmatch(place)
    port = parts["port"] if parts is not None else None
    return _host_name(place), port or _DEFAULT_PORTS[scheme]


def _matches(origin: str, pattern: str) -> bool:
    """Match a part of an origin by `*`; `*` alone is every origin."""
    if pattern == "*":
        return True
    parts = map(re.escape, pattern.split("*"))
    return re.fullmatch(r"[^/?#@,\s]*".join(parts), origin, re.IGNORECASE) is not None


def _type_allowed(headers: Fields, content_types: ContentTypes) -> bool:
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_types is ANY_TYPES:
        return True
    if _FROM_PROGRAMS in content_types and _BY_BROWSERS.isdisjoint(headers):
        return True
    if media_type in content_types:
        return True
    suffix = "+" + media_type.rpartition("+")[2]
    return media_type.startswith("application/") and suffix in content_types


_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
