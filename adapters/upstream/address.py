"""Where an Ollama is that nobody named: by its own variable, else at its own port."""

import ipaddress
import re
from collections.abc import Mapping

VARIABLE = "OLLAMA_HOST"
_PORTS = {"http": "80", "https": "443"}
_PORT = "11434"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - not ours to bind.
"""What a server listens on -> where a client finds it."""
_NAME = re.compile(r"[\w.-]*")
_PATH = re.compile(r"(/[^\s/?#]+)*/?")


def usual_address(environ: Mapping[str, str]) -> str:
    """What Ollama's own variable says, as its client reads it.

    Raises:
        ValueError: it says what leads nowhere.
    """
    said = environ.get(VARIABLE, "")
    if not _leads_somewhere(said):
        raise ValueError(f"${VARIABLE} is {said!r}, which is no address of an Ollama")
    return to_address(said)


def to_address(said: str) -> str:
    """`box`, `:1234`, `0.0.0.0:1234`, `https://box` -> a URL with its port.

    Source: https://github.com/ollama/ollama/blob/main/envconfig/config.go (Host, ConnectableHost)
    """
    scheme, place, path = _parts(said)
    port = _PORTS.get(scheme, _PORT) if scheme else _PORT
    host, named = _split(place)
    address = f"{scheme or 'http'}://{_EVERYWHERE.get(host, host)}:{named or port}"
    return f"{address}{path}".rstrip("/")


def is_address(said: str) -> bool:
    """Whether `to_address` takes all of it as it is meant."""
    _, place, _ = _parts(said)
    named = _is_v6(place) or ":" not in place.rpartition("]")[2]
    return bool(place) and _leads_somewhere(said) and (named or _split(place)[1] != "")


def _leads_somewhere(said: str) -> bool:
    """Its port may be none, and left out then."""
    scheme, place, path = _parts(said)
    host, _ = _split(place)
    is_host = _is_v6(host[1:-1]) if host.startswith("[") else _NAME.fullmatch(host)
    is_path = _PATH.fullmatch(path) and "@" not in place
    return bool(is_host and is_path) and scheme in ("", *_PORTS)


def _parts(said: str) -> tuple[str, str, str]:
    """The scheme, if there is one, then the host with its port, then the path with its `/`."""
    before, separator, after = said.strip().strip("\"'").partition("://")
    scheme, rest = (before.lower(), after) if separator else ("", before)
    place, slash, path = rest.partition("/")
    return scheme, place, f"{slash}{path}"


def _split(place: str) -> tuple[str, str]:
    """`box:1234`, `[::1]:1234`, `::1`, `box` -> host and port; a port that is none is left out."""
    if _is_v6(place):  # To the last colon, as Go reads it.
        return f"[{place}]", ""
    head, colon, tail = place.rpartition(":")
    if not colon or tail.endswith("]"):
        return place, ""
    return head, tail if tail.isdecimal() and int(tail) <= 65535 else ""


def _is_v6(host: str) -> bool:
    """It may name the interface, as in `fe80::1%eth0`."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
