"""The settings of one client: parts of files, and text for what has no file."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

Form = Literal["json", "toml", "yaml"]
MASK = "•••"
"""Printed in place of a key."""


_USUAL_CONTEXT = 32_768
"""Tokens that are assumed where the context of a model is not known."""


class Server(Struct, frozen=True, kw_only=True):
    """The server that a client is connected to, and the model it begins with."""

    url: str
    """The address, without `/v1`."""
    model: str
    context: int = _USUAL_CONTEXT
    """Tokens that prompt and answer may have together."""
    sees: bool = False
    """True if the model accepts images."""
    calls: bool = True
    """True if the model calls tools."""
    thinks: bool = False
    key: str | None = None
    """`None` where the server needs none."""

    @classmethod
    def with_model(
        cls,
        model: str,
        context: int | None,
        capabilities: Collection[str],
        *,
        url: str,
        key: str | None,
    ) -> "Server":
        return cls(
            url=url,
            model=model,
            context=context or _USUAL_CONTEXT,
            sees="vision" in capabilities,
            calls="tools" in capabilities,
            thinks="reasoning" in capabilities,
            key=key,
        )

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def key_or_any(self) -> str:
        """Clients require a key, also where the server does not; as a plain text, for files."""
        return str(self.key or "tandem")

    @property
    def answer_tokens(self) -> int:
        """The longest answer that leaves most of the context for the prompt."""
        return max(min(self.context // 4, 32_000), 256)


class User(Struct, frozen=True):
    """The home and the variables of a user, by which clients find their files."""

    home: Path
    environ: Mapping[str, str] = {}

    @property
    def config_home(self) -> Path:
        return Path(self.environ.get("XDG_CONFIG_HOME") or self.home / ".config")


class Part(Struct, frozen=True, kw_only=True):
    """Settings that a file of the client has to contain, besides its own."""

    path: Path
    form: Form
    content: dict[str, Any]
    initial: dict[str, Any] = {}
    """Settings that the client requires; the user's own values of them stay."""
    is_own: bool = False
    """True for a file that is Tandem's alone, and replaced as a whole."""


class Settings(Struct, frozen=True, kw_only=True):
    parts: tuple[Part, ...] = ()
    text: str = ""
    """Steps by hand, or a program."""
    language: str = ""
    """The language of `text`, as in a fence of markdown."""
    next_step: str = ""
