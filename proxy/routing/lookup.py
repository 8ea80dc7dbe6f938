"""Resolve the model name of a request, or explain why there is no such model."""

import difflib
from collections.abc import Iterable
from typing import Protocol

from adapters.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
)
from adapters.naming import LONGEST, can_be_named
from proxy.models.auto_pull import AutoPull
from proxy.models.registry import RegisteredModel, Registry

_LISTING_SECONDS = 1.0
"""Time that a request with an unknown name waits for the backends to list their models again."""
_EXTRA = "tandem-proxy["
"""In the reasons of models that need a package: the extra that installs it."""


class Permission(Protocol):
    """Permissions of a request for models."""

    def allows(self, names: Iterable[str], places: Iterable[tuple[str, str]] = ()) -> bool:
        """Return true if it may use the model with these names, and those on its backends."""
        ...

    def require_admin(self, action: str) -> None:
        """Raise an error if it may not administer; `action` is a noun phrase for the message."""
        ...


class ModelLookup:
    def __init__(
        self, registry: Registry, pulls: AutoPull | None, permission: Permission | None = None
    ) -> None:
        """`pulls` downloads missing models; `None`: auto_pull is off. Without `permission`, all
        models may be used."""
        self._registry = registry
        self._pulls = pulls
        self._permission = permission

    async def fetch(self, name: str) -> None:
        """Download the model called `name` if it is missing and auto_pull is on.

        Raises:
            BackendError: as `AutoPull.fetch`, or the model may not be used.
            HTTPException: 403: it is missing, and the request may not download it.
        """
        if self._pulls is None:
            return
        await self._registry.refresh(_LISTING_SECONDS, only_new=True)
        entry = await self._refreshed(name)
        if self._permission is not None and self._pulls.is_missing(name, entry):
            self._require_allowed(name, entry)
            self._permission.require_admin(f"The download of the missing model {name!r}")
        await self._pulls.fetch(name, entry)

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
        self._require_allowed(name, entry)
        return entry

    def _require_allowed(self, name: str, entry: RegisteredModel) -> None:
        if self._permission is not None and not self._permission.allows(*entry.all_names):
            raise ModelNotFoundError(
                f"The model {name!r} does not exist or this key may not use it.", param="model"
            )

    async def _refreshed(self, name: str) -> RegisteredModel:
        """Resolve `name` as `find` does; without deployments if there is no such model."""
        if not can_be_named(name):
            raise InvalidRequestError(
                f"'model' must have 1 to {LONGEST} printable characters.", param="model"
            )
        entry = self._lookup(name)
        if not entry.deployments:
            await self._registry.refresh_until(
                lambda: bool(self._lookup(name).deployments), _LISTING_SECONDS
            )
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
        places = [(backend, rest) for backend in possible]
        if self._permission is not None and not self._permission.allows((rest,), places):
            return ModelNotFoundError(
                f"The model {name!r} does not exist or this key may not use it.", param="model"
            )
        for backend in possible:
            reason = listed[backend].unusable().get(rest) or listed[backend].withheld(rest)
            if reason is not None:
                # With the extra it is here: a request that can be made to work is no 404.
                kind = InvalidRequestError if _EXTRA in reason else ModelNotFoundError
                return kind(
                    f"The model {rest!r} cannot be used on {backend}: {reason}.", param="model"
                )
        near = difflib.get_close_matches(name, self._allowed(), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        return ModelNotFoundError(f"Model {name!r} not found.{hint}", param="model")

    def _allowed(self) -> list[str]:
        """List all names that the request may use."""
        names, permission = self._registry.names(), self._permission
        return names if permission is None else [n for n in names if permission.allows((n,))]

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
        if self._permission is not None:
            entries = [e for e in entries if self._permission.allows(*e.all_names)]
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
