"""Where an Ollama is that nobody named: by its own variable, else at its own port."""

from collections.abc import Mapping

VARIABLE = "OLLAMA_HOST"
_PORTS = {"http": "80", "https": "443"}
_PORT = "11434"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - not ours to bind.
"""What a server listens on -> where a client finds it."""


def usual_address(environ: Mapping[str, str]) -> str:
    """What Ollama's own variable says, as its client reads it."""
    return to_address(environ.get(VARIABLE, ""))


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
    scheme, place, _ = _parts(said)
    host, port = _split(place)
    return bool(place) and scheme in ("", *_PORTS) and (host == place or port != "")


def _parts(said: str) -> tuple[str, str, str]:
    """The scheme, if there is one, then the host with its port, then the path with its `/`."""
    before, separator, after = said.strip().strip("\"'").partition("://")
    scheme, rest = (before.lower(), after) if separator else ("", before)
    place, slash, path = rest.partition("/")
    return scheme, place, f"{slash}{path}"


def _split(place: str) -> tuple[str, str]:
    """`box:1234`, `[::1]:1234`, `box` -> host and port; a port that is none is left out."""
    head, colon, tail = place.rpartition(":")
    if not colon or tail.endswith("]"):
        return place, ""
    return head, tail if tail.isdecimal() and int(tail) <= 65535 else ""
