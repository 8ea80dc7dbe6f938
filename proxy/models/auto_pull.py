"""auto_pull: download a missing model on its first request, where the config allows it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import aclosing

from adapters.errors import BackendError, BackendTimeoutError, ModelNotFoundError
from adapters.naming import Naming
from proxy.models.registry import RegisteredModel, Registry

log = logging.getLogger("tandem")

Source = tuple[str, str]
"""A backend's name, and the name by which it downloads a model."""

_LISTING_SECONDS = 5.0
"""Time that a backend has to list a model after its download."""


def to_source(name: str, backends: Mapping[str, Naming]) -> Source | None:
    """The first of `backends` that could download `name`, by the form of the name.

    `BACKEND/MODEL` selects the backend explicitly.
    """
    prefix, slash, rest = name.partition("/")
    if slash and prefix in backends:
        return (prefix, rest) if backends[prefix].can_pull(rest) else None
    able = (backend for backend, naming in backends.items() if naming.can_pull(name))
    return next(((backend, name) for backend in able), None)


def to_host(name: str) -> str | None:
    """Return the host that Ollama would call for `name`, with its port; `None`: the usual one."""
    first, *others = name.split("/")
    return first if len(others) > 1 or (others and ":" in first) else None


class AutoPull:
    """The downloads in progress: one per model, shared by all requests that wait for it."""

    def __init__(
        self, registry: Registry, timeout: float, hosts: Collection[str] = frozenset()
    ) -> None:
        """`timeout`: seconds that one download may take; `hosts`: those that a request may name."""
        self._registry = registry
        self._hosts = frozenset(host.lower() for host in hosts)
        self._timeout = timeout
        self._running: dict[Source, asyncio.Task[None]] = {}
        self._waiting: Counter[Source] = Counter()

    async def fetch(self, name: str, entry: RegisteredModel) -> None:
        """Download `name`, which the registry resolves to `entry`; return at once if it is there.

        The download is cancelled when the last request that waits for it leaves; a later request
        resumes it.

        Raises:
            ModelNotFoundError: it does not exist, or `name` has a host that is not allowed.
            BackendTimeoutError: the download took longer than the timeout.
            BackendError: of the same class as that of `Backend.pull`, without its words.
        """
        source = self._missing(name, entry)
        if source is None:
            return
        if not entry.deployments:  # Names of the configuration may have any host.
            self._require_allowed_host(source[1])
        self._waiting[source] += 1
        try:
            await asyncio.shield(self._download(source))
        finally:
            self._waiting[source] -= 1
            if not self._waiting[source]:
                # A later request starts a new task: one that is being cancelled cannot be joined.
                del self._waiting[source]
                if (task := self._running.pop(source, None)) is not None:
                    task.cancel()

    def is_missing(self, name: str, entry: RegisteredModel) -> bool:
        """Return true if `fetch` would download the model."""
        return self._missing(name, entry) is not None

    def _missing(self, name: str, entry: RegisteredModel) -> Source | None:
        """The source to download from; `None` if a deployment exists or may exist."""
        backends = self._registry.backends
        namings = {backend: listed.backend.naming for backend, listed in backends.items()}
        if not entry.deployments:
            return to_source(name, namings)
        if any(
            backends[deployment.backend].may_have(deployment.name)
            for deployment in entry.deployments
        ):
            return None
        ordered = sorted(
            entry.deployments, key=lambda deployment: deployment.backend != entry.prefer
        )
        sources = (
            to_source(f"{deployment.backend}/{deployment.name}", namings) for deployment in ordered
        )
        return next((source for source in sources if source is not None), None)

    def _require_allowed_host(self, name: str) -> None:
        """Keep clients from making a backend call hosts of their choice."""
        host = to_host(name)
        if host is not None and host.lower() not in self._hosts:
            raise ModelNotFoundError(
                f"Model {name!r} not found here, and requests download none from '{host}'. Add "
                "the host to `server.auto_pull_hosts` in config.yaml.",
                param="model",
            )

    def _download(self, source: Source) -> asyncio.Task[None]:
        """The task that downloads `source`, started if there is none."""
        if source not in self._running:
            task = self._running[source] = asyncio.create_task(self._pull(*source))
            task.add_done_callback(lambda task: self._ended(source, task))
        return self._running[source]

    def _ended(self, source: Source, task: asyncio.Task[None]) -> None:
        if self._running.get(source) is task:
            del self._running[source]
        if not task.cancelled():
            task.exception()  # Marks it as retrieved: all requests may have left by now.

    async def _pull(self, backend: str, name: str) -> None:
        listed = self._registry.backends[backend]
        log.warning("auto_pull: downloading %s/%s.", backend, name)
        try:
            async with asyncio.timeout(self._timeout), aclosing(listed.backend.pull(name)) as steps:
                async for _ in steps:
                    pass
        except BackendError as exc:
            log.warning("auto_pull: %s/%s: %s", backend, name, exc.message)
            raise _in_own_words(exc, name) from exc
        except TimeoutError:
            raise BackendTimeoutError(
                f"The download of {name!r} did not finish within {self._timeout:g} s; the next "
                "request resumes it.",
                param="model",
            ) from None
        await listed.refresh(_LISTING_SECONDS)


def _in_own_words(error: BackendError, name: str) -> BackendError:
    """Replace the words of `error`: they may be those of a host, or say what it listens on."""
    message = f"The model {name!r} could not be downloaded. The server's log has the reason."
    if isinstance(error, ModelNotFoundError):
        message = f"Model {name!r} not found, nor one to download."
    return type(error)(message, param="model", retry_after=error.retry_after, lasting=error.lasting)
