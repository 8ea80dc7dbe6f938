"""Addresses of servers: what users write, as a URL with a port."""

import ipaddress
import re
from collections.abc import Mapping

VARIABLE = "OLLAMA_HOST"
"""Names the address of Ollama where the configuration does not."""
_PORTS = {"http": "80", "https": "443"}
_DEFAULT_PORT = "11434"
"""The port of Ollama, for an address without scheme and port."""
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - not ours to bind.
"""Address that a server listens on -> address for its clients."""
_NAME = re.compile(r"[\w.-]*")
_PATH = re.compile(r"(/[^\s/?#]+)*/?")


def usual_address(environ: Mapping[str, str]) -> str:
    """Return the address in Ollama's own variable, as its client reads it.

    Raises:
        ValueError: it is not an address.
    """
    text = environ.get(VARIABLE, "")
    if not _is_valid(text):
        raise ValueError(f"${VARIABLE}: {text!r} is no address of an Ollama")
    return to_address(text)


def to_address(text: str, default_port: str = _DEFAULT_PORT) -> str:
    """Return `box`, `:1234`, `0.0.0.0:1234` or `https://box` as a URL with its port.

    `default_port` is for an address without scheme and port.

    Source: https://github.com/ollama/ollama/blob/main/envconfig/config.go (Host, ConnectableHost)
    """
    scheme, place, path = _parts(text)
    port = _PORTS.get(scheme, default_port) if scheme else default_port
    host, named = _split(place)
    address = f"{scheme or 'http'}://{_EVERYWHERE.get(host, host)}:{named or port}"
    return f"{address}{path}".rstrip("/")


def is_address(text: str) -> bool:
    """True where `to_address` ignores no part of `text`."""
    _, place, _ = _parts(text)
    named = _is_v6(place) or ":" not in place.rpartition("]")[2]
    return bool(place) and _is_valid(text) and (named or _split(place)[1] != "")


def _is_valid(text: str) -> bool:
    """True for an address; a port that is not a number is ignored."""
    scheme, place, path = _parts(text)
    host, _ = _split(place)
    is_host = _is_v6(host[1:-1]) if host.startswith("[") else _is_name(host)
    is_path = _PATH.fullmatch(path) and "@" not in place
    return bool(is_host and is_path) and scheme in ("", *_PORTS)


def _is_name(host: str) -> bool:
    """True for a name that can be looked up, or none: its labels have 1 to 63 characters, and
    punycode is sound."""
    try:
        host.encode("idna").decode("idna")
    except UnicodeError:
        return False
    return _NAME.fullmatch(host) is not None


def _parts(text: str) -> tuple[str, str, str]:
    """Split into the scheme, which may be empty, the host with its port, and the path."""
    before, separator, after = text.strip().strip("\"'").partition("://")
    scheme, rest = (before.lower(), after) if separator else ("", before)
    place, slash, path = rest.partition("/")
    return scheme, place, f"{slash}{path}"


def _split(place: str) -> tuple[str, str]:
    """`box:1234`, `[::1]:1234`, `::1`, `box` -> host and port; a bad port is left out."""
    if _is_v6(place):  # To the last colon, as Go reads it.
        return f"[{place}]", ""
    head, colon, tail = place.rpartition(":")
    if not colon or tail.endswith("]"):
        return place, ""
    return head, tail if tail.isdecimal() and int(tail) <= 65535 else ""


def _is_v6(host: str) -> bool:
    """True for an IPv6 address, which may name an interface, as `fe80::1%eth0` does."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
