"""Keys of clients: admission of a request by `Authorization: Bearer`, `x-api-key` or `api-key`."""

import hmac
import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct

from adapters.secret import read_secret
from proxy.access.config import KeyConfig, Role, read_digest, to_digest
from proxy.access.grant import EVERYTHING, Grant
from proxy.access.limits import Limits
from proxy.config import ConfigError, ServerConfig
from proxy.errors import UnauthorizedError

Fields = Mapping[str, str]
"""A request's headers, names in lower case."""
KEY_VARIABLE = "TANDEM_API_KEY"
KEY_FILE = "api_key"
"""In the state folder."""
_PAGE = (
    "The web page at this origin may not administer. Add its origin to "
    "`server.allowed_admin_origins` in config.yaml."
)


class Key(Struct, frozen=True, kw_only=True):
    name: str
    digest: bytes
    role: Role
    limits: Limits
    models: tuple[str, ...]


class Access:
    """Admits requests; without keys, all of them."""

    def __init__(self, keys: Sequence[KeyConfig], environ: Mapping[str, str]) -> None:
        """
        Raises:
            ConfigError: a key cannot be read, or two are equal; the text begins with the setting.
        """
        self._keys = tuple(_to_key(at, config, environ) for at, config in enumerate(keys))
        digests: dict[bytes, str] = {}
        for at, key in enumerate(self._keys):
            first = digests.setdefault(key.digest, key.name)
            if first != key.name:
                raise ConfigError(
                    f"$.server.keys[{at}].key: '{first}' and '{key.name}' have the same key"
                )

    def resume(self, earlier: "Access") -> None:
        """Go on with what was used of the limits of `earlier`, the keys before a reload."""
        before = {key.digest: key.limits for key in earlier._keys}
        for key in self._keys:
            if (limits := before.get(key.digest)) is not None:
                key.limits.resume(limits)

    @property
    def needs_key(self) -> bool:
        return bool(self._keys)

    def admit(self, fields: Fields, *, is_page_refused: bool = False) -> Grant:
        """Return what a request, or the upgrade of a connection, may do by its headers.

        `is_page_refused`: a web page sent it that may not administer.

        Raises:
            UnauthorizedError: there are keys, and it has none of them.
        """
        if not self._keys:
            return Grant(obstacle=_PAGE) if is_page_refused else EVERYTHING
        sent = to_keys(fields)
        key = next((found for each in sent if (found := self._find(each)) is not None), None)
        if key is None:
            raise UnauthorizedError(missing=not sent)
        obstacle = None if key.role == "admin" else f"The key '{key.name}' has the role 'use'."
        if obstacle is None and is_page_refused:
            obstacle = _PAGE
        return Grant(key=key.name, limits=key.limits, models=key.models, obstacle=obstacle)

    def _find(self, text: str) -> Key | None:
        """Compare with every key, each in constant time."""
        digest = to_digest(text).encode()
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def to_keys(fields: Fields) -> list[str]:
    """Return the keys in the headers of a request, each once: none, one, or several."""
    scheme, _, token = fields.get("authorization", "").strip().partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    sent = [bearer, *[fields.get(name, "").strip() for name in KEY_HEADERS]]
    return [*dict.fromkeys(key for key in sent if key)]


KEY_HEADERS = ("x-api-key", "api-key")
"""Headers with a key beside `Authorization`: Anthropic's, and the one of OpenAI on Azure."""


def _to_key(at: int, config: KeyConfig, environ: Mapping[str, str]) -> Key:
    try:
        digest = read_digest(config.key, environ, config.name)
    except ValueError as exc:
        raise ConfigError(f"$.server.keys[{at}].key: '{config.name}': {exc}") from exc
    return Key(
        name=config.name,
        digest=digest.encode(),
        role=config.role,
        limits=Limits(
            config.name, config.requests_per_minute, config.tokens_per_minute, config.concurrent
        ),
        models=config.models,
    )


def require_keys(server: ServerConfig, *, had_keys: bool = False) -> None:
    """Check that a server that other machines reach has keys, and one that had keys still has some.

    Raises:
        ConfigError: it has none, and `insecure` is not set.
    """
    if server.keys or server.insecure:
        return
    if had_keys:  # A file that is being written is empty for a moment.
        raise ConfigError(
            "$.server.keys: a reload does not take away the last key. Restart the server, or set "
            "`server.insecure: true` to serve every client"
        )
    if not _is_loopback(server.host):
        raise ConfigError(
            f"$.server.host: other machines can reach this server at {server.host!r}, and it has "
            "no keys. Add one to `server.keys`, as in `{name: laptop, key: env:TANDEM_KEY}`, or "
            "set `server.insecure: true` to serve every client"
        )


def check_server(server: ServerConfig, environ: Mapping[str, str]) -> None:
    """Check what a server needs beyond valid settings, before its address is taken.

    Raises:
        ConfigError: as `require_keys` and `Access`.
    """
    require_keys(server)
    Access(server.keys, environ)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def find_own_key(environ: Mapping[str, str], state_folder: Path) -> str | None:
    """Return the key of this machine's commands: `$TANDEM_API_KEY`, else `api_key` in the state
    folder; `None` if there is neither.

    Raises:
        ValueError: it is no key; the message does not contain it.
    """
    if environ.get(KEY_VARIABLE):
        return read_secret(f"env:{KEY_VARIABLE}", environ)
    path = state_folder / KEY_FILE
    return read_secret(f"file:{path}", environ) if os.path.exists(path) else None
