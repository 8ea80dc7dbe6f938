"""The settings of a key: an entry of `server.keys` in `config.yaml`."""

import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from adapters.secret import is_reference, read_secret

log = logging.getLogger("tandem")

Role = Literal["use", "admin"]
Count = Annotated[int, Meta(ge=1)]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")
_SHORTEST = 16
"""Characters of a key that is not guessed."""
_SHA256 = "sha256:"
_DIGEST = re.compile(rf"{_SHA256}[0-9a-f]{{64}}")


class KeyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    """Stands for the key in logs, and owns stored answers."""
    key: str
    """`env:NAME`, `file:PATH`, the key itself, or `sha256:` and its digest in hexadecimal. A key
    that is written out is replaced by its digest."""
    role: Role = "use"
    """`admin` may also load, unload, pull and delete models."""
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Tokens of prompts and answers."""
    concurrent: Count | None = None
    """Answers in progress."""
    models: tuple[str, ...] = ("*",)
    """The names of models that may be used, in which `*` is any text."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"`name`: {self.name[:80]!r} is not 1 to 64 letters, digits, spaces or . _ @ + -"
            )
        if not is_reference(self.key):
            try:
                digest = read_digest(self.key, {}, self.name)
            except ValueError as exc:
                raise ValueError(f"`key` of '{self.name}': {exc}") from exc
            force_setattr(self, "key", digest)


def read_digest(text: str, environ: Mapping[str, str], name: str) -> str:
    """Return the digest of the key `name`, of which `text` is the setting.

    Raises:
        ValueError: as `read_secret`, or it begins as a digest and is none.
    """
    secret = read_secret(text, environ)
    if secret.lower().startswith(_SHA256):
        if not _DIGEST.fullmatch(secret.lower()):
            raise ValueError("`sha256:` is not followed by the 64 hexadecimal digits of a digest")
        return secret.lower()
    if len(secret) < _SHORTEST:
        log.warning("server.keys: the key of '%s' is short enough to be guessed.", name)
    return to_digest(secret)


def to_digest(key: str) -> str:
    """Digest a key, so that memory and configuration hold no key that could be sent."""
    return f"{_SHA256}{hashlib.sha256(key.encode()).hexdigest()}"
