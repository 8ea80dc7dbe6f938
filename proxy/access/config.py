"""The settings of a key: an entry of `server.keys` in `config.yaml`."""

import hashlib
import logging
import re
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
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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
        if not is_reference(self.key) and not _DIGEST.fullmatch(self.key):
            try:
                secret = read_secret(self.key, {})
            except ValueError as exc:
                raise ValueError(f"`key` of '{self.name}': {exc}") from exc
            force_setattr(self, "key", to_digest(secret, self.name))


def to_digest(key: str, name: str | None = None) -> str:
    """Digest a key, so that memory and configuration hold no key that could be sent.

    `name` is that of a configured key: a warning is logged if the key is short.
    """
    if name is not None and len(key) < _SHORTEST:
        log.warning("server.keys: the key of '%s' is short enough to be guessed.", name)
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
