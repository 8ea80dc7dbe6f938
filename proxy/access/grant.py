"""Permissions of one request: by its key, and by the page that sent it."""

import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from proxy.access.limits import UNLIMITED, Limits
from proxy.errors import ExplainedHTTPError

_ALL = ("*",)


class Grant(Struct, frozen=True, kw_only=True):
    """Permissions of a request. Without a key, as on loopback, that is everything."""

    key: str | None = None
    """The name of its key."""
    limits: Limits = UNLIMITED
    models: tuple[str, ...] = _ALL
    """Names of models that may be used, in which `*` is any text."""
    obstacle: str | None = None
    """The reason why it may not administer, as a sentence."""

    @property
    def is_limited(self) -> bool:
        """True unless it may use every model and administer."""
        return self.obstacle is not None or self.models != _ALL

    def allows(self, names: Iterable[str], places: Iterable[tuple[str, str]] = ()) -> bool:
        """Return true if it may use the model with these names.

        `places`: backends that have it, and its name there. Only what begins with `BACKEND/` is
        compared with them: `*llama*` is not every model of a backend called ollama.
        """
        return (
            self.models == _ALL
            or any(_matches(name, self.models) for name in names)
            or any(_matches(name, _on(backend, self.models)) for backend, name in places)
        )

    def require_admin(self, action: str) -> None:
        """Check that the request may administer; `action` is a noun phrase for the message.

        Raises:
            ExplainedHTTPError: 403: it may not.
        """
        if self.obstacle is not None:
            raise ExplainedHTTPError(
                status_code=403, detail=f"{action} requires the role 'admin'. {self.obstacle}"
            )

    def require_all_models(self, action: str) -> None:
        """Check that the request may use every model, for what shows them together.

        Raises:
            ExplainedHTTPError: 403: it may not.
        """
        if self.models != _ALL:
            raise ExplainedHTTPError(
                status_code=403, detail=f"{action} requires a key that may use all models."
            )


EVERYTHING = Grant()
NOTHING = Grant(models=(), obstacle="The request was not admitted.")


def _on(backend: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return what `patterns` of `BACKEND/NAME` have after this `backend`."""
    start = f"{backend}/"
    return tuple(pattern.removeprefix(start) for pattern in patterns if pattern.startswith(start))


@lru_cache(1024)
def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL):
            return True
    return False
