"""Backends that are this server itself: `$OLLAMA_HOST` names it for Ollama's programs, and would
make it its own Ollama, which lists its own models and passes requests on to itself."""

import logging
import socket
from urllib.parse import urlsplit

from msgspec.structs import replace

from adapters.config import OllamaConfig
from adapters.upstream.address import VARIABLE, to_address
from proxy.config import Config, ServerConfig
from proxy.config_problems import ConfigError

log = logging.getLogger("tandem")

_ALL_ADDRESSES = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on.


def without_itself(config: Config) -> Config:
    """Return the settings without a backend that is this server.

    An Ollama without an address of its own is looked for at the usual one instead, or switched off,
    with a warning, where that is this server's, too.

    Raises:
        ConfigError: a backend's own address is this server's.
        ValueError: `$OLLAMA_HOST` is used and is not an address.
    """
    own = {
        name: _apart(name, backend, config.server)
        for name, backend in config.enabled().items()
        if isinstance(backend, OllamaConfig) and _is_any_own(backend, config.server)
    }
    return replace(config, backends={**config.backends, **own}) if own else config


def _is_any_own(backend: OllamaConfig, server: ServerConfig) -> bool:
    return any(_is_own(address, server) for address in backend.addresses)


def _apart(name: str, backend: OllamaConfig, server: ServerConfig) -> OllamaConfig | None:
    if backend.host is not None or backend.hosts:
        field = "hosts" if backend.hosts else "host"
        raise ConfigError(f"$.backends.{name}.{field}: this is the address of Tandem itself")
    usual = to_address("")
    if _is_own(usual, server):
        log.warning(
            "`%s` is switched off: Tandem itself has Ollama's usual address, %s. Add the one of "
            "Ollama to config.yaml as `backends.%s.host`.",
            *(name, usual, name),
        )
        return None
    log.info("$%s names Tandem itself, so Ollama is expected at %s.", VARIABLE, usual)
    return replace(backend, host=usual)


def _is_own(address: str, server: ServerConfig) -> bool:
    """Return true if `address`, a URL with its port, is where `server` listens."""
    parts = urlsplit(address)
    if parts.port != server.port or parts.hostname is None:
        return False
    reached = _resolve(parts.hostname)
    if server.host in _ALL_ADDRESSES:
        return any(map(_is_here, reached))
    return not reached.isdisjoint(_resolve(server.host))


def _resolve(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # A name that is not known here is another machine's.
        return set()
    return {str(info[4][0]) for info in found}


def _is_here(address: str) -> bool:
    """Return true if `address` is one of this machine's: only these can be listened on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
