"""Where an Ollama is that nobody named: by its own variable, else at its own port."""

from collections.abc import Mapping

VARIABLE = "OLLAMA_HOST"
_PORTS = {"http": "80", "https": "443"}
_PORT = "11434"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - not ours to bind.
"""What a server listens on -> where a client finds it."""


def usual_address(environ: Mapping[str, str]) -> str:
    """As Ollama's own client reads its variable: `box`, `:1234`, `0.0.0.0:1234`, `https://box`.

    Source: https://github.com/ollama/ollama/blob/main/envconfig/config.go (Host, ConnectableHost)
    """
    said = environ.get(VARIABLE, "").strip().strip("\"'")
    scheme, separator, rest = said.partition("://")
    if not separator:
        scheme, rest = "http", said
    port = _PORTS.get(scheme, _PORT) if separator else _PORT
    place, slash, path = rest.partition("/")
    host, named = _split(place)
    return f"{scheme}://{_EVERYWHERE.get(host, host)}:{named or port}{slash}{path}".rstrip("/")


def _split(place: str) -> tuple[str, str]:
    """`box:1234`, `[::1]:1234`, `box` -> host and port; a port that is none is left out."""
    head, colon, tail = place.rpartition(":")
    if not colon or tail.endswith("]"):
        return place, ""
    return head, tail if tail.isdecimal() and int(tail) <= 65535 else ""
