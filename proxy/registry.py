"""Which models exist where: asked in the background, remembered, found by name."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct

from adapters import open_backend
from adapters.backend import Backend, Model
from adapters.config import BackendConfig
from adapters.errors import BackendError
from adapters.memory import Tenant
from proxy.config import ModelConfig

log = logging.getLogger("tandem")


class Place(Struct, frozen=True, kw_only=True):
    """A model on one backend."""

    kind: str
    name: str
    """The backend's own."""
    model: Model | None = None
    """What the backend tells of it; `None` if it is only known from the config."""


class Entry(Struct, frozen=True, kw_only=True):
    """A model as clients see it: one id, on one backend or on several."""

    id: str
    places: tuple[Place, ...]
    prefer: str = "auto"


class Shelf:
    """One backend and the models it had when it was last asked."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.models: dict[str, Model] = {}
        self.reached: bool | None = None
        """Whether the last question was answered; `None` before the first."""
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self, patience: float | None = None) -> None:
        """Ask, or join a question on its way; after `patience` seconds it goes on by itself."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.wait((self._asking,), timeout=patience)

    async def _ask(self) -> None:
        try:
            models = await self.backend.list_models()
        except BackendError:
            self.reached = False
        except Exception as exc:
            if self.reached is not False:
                log.error("Listing the models of %s: %s", self.backend.kind, type(exc).__name__)
            self.reached = False
        else:
            self.models = {model.name: model for model in models}
            self.reached = True

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))


class Registry:
    def __init__(self, aliases: Mapping[str, ModelConfig], period: float) -> None:
        self._aliases = aliases
        self._period = period
        self.shelves: dict[str, Shelf] = {}
        """By kind, in order of preference."""

    @asynccontextmanager
    async def open(
        self, configs: Mapping[str, BackendConfig], given: Mapping[str, Backend] | None = None
    ) -> AsyncGenerator[None]:
        """Open the backends (unless they are given) and keep asking them for their models."""
        async with AsyncExitStack() as stack:
            backends = given if given is not None else await _open_all(configs, stack)
            self.shelves = {kind: Shelf(backend) for kind, backend in backends.items()}
            await stack.enter_async_context(self._watching())
            yield

    @asynccontextmanager
    async def _watching(self) -> AsyncGenerator[None]:
        shelves = list(self.shelves.values())
        tasks = [asyncio.create_task(self._watch(shelf)) for shelf in shelves]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *(s.stop() for s in shelves), return_exceptions=True)

    async def _watch(self, shelf: Shelf) -> None:
        while True:
            await shelf.refresh()
            await asyncio.sleep(self._period)

    def tenants(self) -> dict[str, Tenant]:
        """The backends that take of this machine's memory, by kind."""
        backends = {kind: shelf.backend for kind, shelf in self.shelves.items()}
        return {k: backend.tenant for k, backend in backends.items() if backend.tenant is not None}

    async def refresh(self, patience: float, *, only_new: bool = False) -> None:
        """Ask all backends at once, or those that never answered yet; `patience` is in seconds."""
        asked = [s for s in self.shelves.values() if not only_new or s.reached is None]
        await asyncio.gather(*(shelf.refresh(patience) for shelf in asked))

    def entries(self) -> list[Entry]:
        """What can answer now: the models of the backends that are there, and the own names."""
        there = {kind for kind, shelf in self.shelves.items() if shelf.reached}
        own = (self.alias(name, there) for name in self._aliases)
        found = (self.exact(name, there) for name in self._names(there))
        return [entry for entry in (*own, *found) if entry.places]

    def _names(self, kinds: Iterable[str]) -> list[str]:
        """Every model's name once, a name of the user's own not among them."""
        names = dict.fromkeys(name for k in kinds for name in self.shelves[k].models)
        return sorted(name for name in names if name not in self._aliases)

    def names(self) -> list[str]:
        """All that can be asked for, for "did you mean"."""
        return [*self._aliases, *self._names(self.shelves)]

    def exact(self, name: str, kinds: Iterable[str]) -> Entry:
        """The backends among `kinds` that have a model of just that name."""
        return Entry(
            id=name,
            places=tuple(
                Place(kind=kind, name=name, model=shelf.models[name])
                for kind, shelf in self.shelves.items()
                if kind in kinds and name in shelf.models
            ),
        )

    def alias(self, name: str, kinds: Iterable[str]) -> Entry:
        """The user's own `name`, as far as `kinds` has it."""
        config = self._aliases.get(name)
        if config is None:
            return Entry(id=name, places=())
        places = tuple(
            Place(kind=kind, name=own, model=self.shelves[kind].models.get(own))
            for kind, own in config.names().items()
            if kind in self.shelves and kind in kinds
        )
        return Entry(id=name, places=places, prefer=config.prefer)

    def short(self, name: str, kinds: Iterable[str]) -> list[Place]:
        """The places whose name without its owner and `:latest` is `name`; best matches only."""
        places = [
            Place(kind=kind, name=full, model=model)
            for kind, shelf in self.shelves.items()
            if kind in kinds
            for full, model in shelf.models.items()
        ]
        exactly = [p for p in places if name in short_names(p.name)]
        return exactly or [p for p in places if name.lower() in short_names(p.name.lower())]


async def _open_all(
    configs: Mapping[str, BackendConfig], stack: AsyncExitStack
) -> dict[str, Backend]:
    return {
        kind: await stack.enter_async_context(open_backend(config))
        for kind, config in configs.items()
    }


def short_names(name: str) -> frozenset[str]:
    """`hf.co/org/tiny:latest` -> itself, `tiny:latest`, `tiny`, `hf.co/org/tiny`."""
    bare = name.removesuffix(":latest")
    return frozenset({name, bare, name.rpartition("/")[2], bare.rpartition("/")[2]})
