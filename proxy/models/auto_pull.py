"""Models that nobody has, fetched because a request asks for them, where the config allows it."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Collection
from contextlib import aclosing

from adapters.errors import BackendTimeoutError
from proxy.models.registry import RegisteredModel, Registry

log = logging.getLogger("tandem")

Source = tuple[str, str]
"""A backend's kind, and the name by which it fetches a model."""

_PATIENCE = 5.0
"""Seconds until a backend lists what it has fetched."""
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
SHAPES: dict[str, re.Pattern[str]] = {
    "mlx": re.compile(rf"{_WORD}/{_WORD}"),
    "ollama": re.compile(rf"(?:{_WORD}(?::\d+)?/)?(?:{_WORD}/)?{_WORD}(?::{_WORD})?"),
}
"""What can be the name of a repository, and of a tag; `owner/name` is taken for a repository."""


def source_of(name: str, kinds: Collection[str]) -> Source | None:
    """Where `name` could come from, if it looks like a name of one of `kinds`.

    `mlx/NAME` and `ollama/NAME` say it themselves.
    """
    kind, slash, rest = name.partition("/")
    if slash and kind in kinds:
        shape = SHAPES.get(kind)
        return (kind, rest) if shape is not None and shape.fullmatch(rest) else None
    fitting = (kind for kind in SHAPES if kind in kinds and SHAPES[kind].fullmatch(name))
    return next(((kind, name) for kind in fitting), None)


class AutoPull:
    """The downloads on their way: one for each model, however many wait for it."""

    def __init__(self, registry: Registry, seconds: float) -> None:
        """`seconds` is what a download may take."""
        self._registry = registry
        self._seconds = seconds
        self._running: dict[Source, asyncio.Task[None]] = {}
        self._waiting: Counter[Source] = Counter()

    async def fetch(self, name: str, entry: RegisteredModel) -> None:
        """What `name`, which the registry takes for `entry`, lacks; at once if that is nothing.

        The download ends when the last who waits for it leaves; a later one goes on from there.

        Raises:
            BackendTimeoutError: it takes too long.
            BackendError: as `Backend.pull`.
        """
        source = self._missing(name, entry)
        if source is None:
            return
        self._waiting[source] += 1
        try:
            await asyncio.shield(self._joined(source))
        finally:
            self._waiting[source] -= 1
            if not self._waiting[source]:
                self._give_up(source)

    def _missing(self, name: str, entry: RegisteredModel) -> Source | None:
        """A model with one half there lacks nothing, nor does one whose backend is away."""
        backends = self._registry.backends
        if not entry.deployments:
            return source_of(name, backends.keys())
        if any(
            backends[deployment.backend].may_have(deployment.name)
            for deployment in entry.deployments
        ):
            return None
        ordered = sorted(
            entry.deployments, key=lambda deployment: deployment.backend != entry.prefer
        )
        sources = (
            source_of(f"{deployment.backend}/{deployment.name}", backends.keys())
            for deployment in ordered
        )
        return next((source for source in sources if source is not None), None)

    def _joined(self, source: Source) -> asyncio.Task[None]:
        if source not in self._running:
            task = self._running[source] = asyncio.create_task(self._pull(*source))
            task.add_done_callback(lambda task: self._ended(source, task))
        return self._running[source]

    def _give_up(self, source: Source) -> None:
        """Who comes from now on begins anew: one that is being cancelled must not be joined."""
        del self._waiting[source]
        if (task := self._running.pop(source, None)) is not None:
            task.cancel()

    def _ended(self, source: Source, task: asyncio.Task[None]) -> None:
        if self._running.get(source) is task:
            del self._running[source]
        if not task.cancelled():
            task.exception()  # Where every caller has left, nobody else looks at it.

    async def _pull(self, kind: str, name: str) -> None:
        listed = self._registry.backends[kind]
        log.warning("%s/%s is not there: it is fetched, for auto_pull is on.", kind, name)
        try:
            async with asyncio.timeout(self._seconds), aclosing(listed.backend.pull(name)) as steps:
                async for _ in steps:
                    pass
        except TimeoutError:
            raise BackendTimeoutError(
                f"{name!r} was not fetched within {self._seconds:g} s; the next request goes on "
                "from there.",
                param="model",
            ) from None
        await listed.refresh(_PATIENCE)
