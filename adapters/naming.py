"""The names that models have on each kind of backend, described without importing the engine."""

import re

from msgspec import Struct

LONGEST = 200
"""Characters in the name of a model."""
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"


def can_be_named(name: str) -> bool:
    """Return whether requests may have this name: 1 to 200 characters, all of them printable."""
    return 0 < len(name) <= LONGEST and name.isprintable()


class Naming(Struct, frozen=True, kw_only=True):
    """Rules for the names of models on one kind of backend."""

    has_tags: bool = False
    """Names may contain `:`, as `llama3.2:3b` does."""
    default_tag: str = ""
    """The ending that may be left out of a name: `:latest`."""
    default_parts: tuple[str, ...] = ()
    """The beginnings that may be left out, in their order: a registry, then an owner."""
    pulled: re.Pattern[str] | None = None
    """Names that `Backend.pull` could fetch; `None`: it fetches no model."""

    def bare(self, name: str) -> str:
        """`name` without its default parts and tag."""
        for part in self.default_parts:
            name = name.removeprefix(part)
        return name.removesuffix(self.default_tag)

    def spellings(self, name: str) -> frozenset[str]:
        """`name` with and without the default tag."""
        bare = self.bare(name)
        return frozenset({name, bare, bare if ":" in bare else bare + self.default_tag})

    def is_possible(self, name: str) -> bool:
        """False if no model of this kind of backend is called `name`."""
        return self.has_tags or ":" not in name

    def can_pull(self, name: str) -> bool:
        return self.pulled is not None and self.pulled.fullmatch(name) is not None


MLX = Naming(
    default_tag=":latest",  # Models imported from Ollama keep their names.
    pulled=re.compile(rf"{_WORD}/{_WORD}"),
)
"""Repositories of the Hugging Face hub, and folders."""
OLLAMA = Naming(
    has_tags=True,
    default_tag=":latest",
    # https://github.com/ollama/ollama/blob/main/types/model/name.go
    default_parts=("registry.ollama.ai/", "library/"),
    pulled=re.compile(rf"(?:{_WORD}(?::\d+)?/)?(?:{_WORD}/)?{_WORD}(?::{_WORD})?"),
)
