"""A name from a request -> the model that is meant, or why there is none."""

import difflib

from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
)
from proxy.models.auto_pull import AutoPull
from proxy.models.registry import RegisteredModel, Registry

_PATIENCE = 1.0
"""Seconds a request waits for a list of models that might know its name."""
_LONGEST = 200


class ModelLookup:
    def __init__(self, registry: Registry, pulls: AutoPull | None) -> None:
        """`pulls` fetches what nobody has; `None`: there is no leave to."""
        self._registry = registry
        self._pulls = pulls

    async def fetch(self, name: str) -> None:
        """The model called `name` where nobody has it.

        Raises:
            BackendError: as `AutoPull.fetch`.
        """
        if self._pulls is not None:
            await self._registry.refresh(_PATIENCE, only_new=True)
            await self._pulls.fetch(name, await self._seen(name))

    async def find(self, name: str) -> RegisteredModel:
        """The model called `name`, with a second look if nobody knows it yet.

        Raises:
            InvalidRequestError: no model can have such a name.
            ModelNotFoundError: no model has it, or several do in its short form.
            BackendUnavailableError: the backend that the name points to is away.
        """
        entry = await self._seen(name)
        if not entry.deployments:
            raise self._not_found(name)
        return entry

    async def _seen(self, name: str) -> RegisteredModel:
        """Without places where nobody has it."""
        _check_name(name)
        entry = self._lookup(name)
        if not entry.deployments:
            await self._registry.refresh(_PATIENCE)
            entry = self._lookup(name)
        return entry

    def _not_found(self, name: str) -> BackendError:
        """404, unless the name points to a backend that does not tell: then nobody can know."""
        owner = self._owner(name)
        listed = self._registry.backends.get(owner) if owner is not None else None
        if listed is not None and not listed.reached:
            return BackendUnavailableError(
                f"The {owner} backend, which may have {name!r}, does not answer.", param="model"
            )
        return ModelNotFoundError(self._unknown(name), param="model")

    def _owner(self, name: str) -> str | None:
        """The only backend that can have a model of that name."""
        kind, slash, rest = name.partition("/")
        if slash and kind in self._registry.backends:
            return kind
        if ":" in rest or ":" in kind:  # Only Ollama's names have a tag.
            return "ollama"
        kinds = list(self._registry.backends)
        return kinds[0] if len(kinds) == 1 else None

    def _lookup(self, name: str) -> RegisteredModel:
        kind, slash, rest = name.partition("/")
        if slash and kind in self._registry.backends:
            return self._match(rest, {kind})
        return self._match(name, set(self._registry.backends))

    def _match(self, name: str, kinds: set[str]) -> RegisteredModel:
        """Exact id, then a name of the user's own, then a short name that is unique."""
        if (entry := self._registry.named(name, kinds)).deployments:
            return entry
        entries = self._registry.short(name, kinds)
        if len(entries) > 1:
            raise ModelNotFoundError(_ambiguous(name, entries), param="model")
        return entries[0] if entries else RegisteredModel(id=name, deployments=())

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._registry.names(), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(repr(each) for each in near)}?" if near else ""
        return f"There is no model {name!r}.{hint}"


def _check_name(name: str) -> None:
    """Names are only ever compared with known ones; these could not be anybody's.

    Raises:
        InvalidRequestError: it is empty, very long, or not printable.
    """
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise InvalidRequestError("This cannot be the name of a model.", param="model")


def _ambiguous(name: str, entries: list[RegisteredModel]) -> str:
    deployments = [deployment for entry in entries for deployment in entry.deployments]
    named = ", ".join(f"'{deployment.backend}/{deployment.name}'" for deployment in deployments[:5])
    return f"Several models are called {name!r} for short: {named}. Name one of them in full."
