"""Resolve the model name of a request, or explain why there is no such model."""

import difflib

from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
)
from proxy.models.auto_pull import AutoPull
from proxy.models.registry import RegisteredModel, Registry

_LISTING_SECONDS = 1.0
"""Time that a request with an unknown name waits for the backends to list their models again."""
_EXTRA = "tandem-proxy["
"""In the reasons of models that need a package: the extra that installs it."""
_LONGEST = 200
"""Characters in the name of a model."""


class ModelLookup:
    def __init__(self, registry: Registry, pulls: AutoPull | None) -> None:
        """`pulls` downloads missing models; `None`: auto_pull is off."""
        self._registry = registry
        self._pulls = pulls

    async def fetch(self, name: str) -> None:
        """Download the model called `name` if it is missing and auto_pull is on.

        Raises:
            BackendError: as `AutoPull.fetch`.
        """
        if self._pulls is not None:
            await self._registry.refresh(_LISTING_SECONDS, only_new=True)
            await self._pulls.fetch(name, await self._refreshed(name))

    async def find(self, name: str) -> RegisteredModel:
        """The model called `name`; the backends are listed again if it is unknown.

        Raises:
            InvalidRequestError: no model can have such a name.
            ModelNotFoundError: there is no such model, or several share this short name.
            BackendUnavailableError: the backends that may have the model are unreachable.
        """
        entry = await self._refreshed(name)
        if not entry.deployments:
            raise self._not_found(name)
        return entry

    async def _refreshed(self, name: str) -> RegisteredModel:
        """Resolve `name` as `find` does; without deployments if there is no such model."""
        if not name or len(name) > _LONGEST or not name.isprintable():
            raise InvalidRequestError(
                f"'model' must have 1 to {_LONGEST} printable characters.", param="model"
            )
        entry = self._lookup(name)
        if not entry.deployments:
            await self._registry.refresh(_LISTING_SECONDS)
            entry = self._lookup(name)
        return entry

    def _not_found(self, name: str) -> BackendError:
        """503 if every backend that may have the model is unreachable, else 404, with the reason
        where a backend has the model and cannot use it: 400 if it is an extra that is missing."""
        listed = self._registry.backends
        prefix, slash, rest = name.partition("/")
        if slash and prefix in listed:
            possible = [prefix]
        else:
            rest = name
            possible = [b for b, entry in listed.items() if entry.backend.naming.is_possible(name)]
        if possible and not any(listed[backend].reached for backend in possible):
            which, verb = (
                (f"backend {possible[0]}", "does")
                if len(possible) == 1
                else (f"backends {' and '.join(possible)}", "do")
            )
            return BackendUnavailableError(
                f"The {which}, which may have {name!r}, {verb} not respond.", param="model"
            )
        for backend in possible:
            if (reason := listed[backend].unusable().get(rest)) is not None:
                # With the extra it is here: a request that can be made to work is no 404.
                kind = InvalidRequestError if _EXTRA in reason else ModelNotFoundError
                return kind(
                    f"The model {rest!r} cannot be used on {backend}: {reason}.", param="model"
                )
        near = difflib.get_close_matches(name, self._registry.names(), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        return ModelNotFoundError(f"There is no model {name!r}.{hint}", param="model")

    def _lookup(self, name: str) -> RegisteredModel:
        """Resolve by exact name, then by alias, then by a short name that is unique."""
        backends = set(self._registry.backends)
        prefix, slash, rest = name.partition("/")
        if slash and prefix in backends:
            name, backends = rest, {prefix}
        entry = self._registry.named(name, backends)
        if entry.deployments:
            return entry
        entries = self._registry.short(name, backends)
        if len(entries) > 1:
            deployments = [deployment for entry in entries for deployment in entry.deployments]
            names = ", ".join(
                f"'{deployment.backend}/{deployment.name}'" for deployment in deployments[:5]
            )
            raise ModelNotFoundError(
                f"The short name {name!r} is ambiguous: {names}. Use one of the full names.",
                param="model",
            )
        return entries[0] if entries else entry
