"""One budget for what all models take of this machine's memory, whichever engine has them.

Before a model is loaded its backend asks for room. Prefix caches give way first, then idle models,
those longest unused before others; what is pinned, or answers somebody, stays.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from adapters.errors import BackendError, InsufficientMemoryError
from adapters.memory import Footprint, MemoryUser, Resident
from proxy.memory.ledger import Fit, Key, Ledger, ModelMemory, Newcomer

log = logging.getLogger("tandem")

_SHARE = 0.75
"""Of the system's memory, where no device recommends anything: the rest is everybody else's."""
_LEAVING_SECONDS = 10.0
"""How long an unloaded model may take to be gone."""
_LOOK_SECONDS = 0.05


class Snapshot(Struct, frozen=True, kw_only=True):
    budget: int
    """Bytes."""
    used: int
    """Of all models, those that are being loaded and all caches included."""
    models: tuple[ModelMemory, ...]


class SharedBudget:
    def __init__(self, budget: int | None, pinned: frozenset[Key], period: float) -> None:
        """`budget` is the configuration's own; `period` the seconds between two looks."""
        self._asked = budget
        self._pinned = pinned
        self._period = period
        self.budget = budget or 0
        self._tenants: dict[str, MemoryUser] = {}
        self._held: dict[Key, tuple[Footprint, ...]] = {}
        self._evictions = 0
        """How many models had to make way."""
        self._deciding = asyncio.Lock()
        self._seen = Ledger()
        self._needed: dict[Key, Footprint] = {}
        """What each model asked for when it was last loaded here, or will by its files."""

    @asynccontextmanager
    async def open(self, memory_users: Mapping[str, MemoryUser]) -> AsyncGenerator[None]:
        """Share the memory out among `tenants`, by kind, until the end."""
        self._tenants = dict(memory_users)
        self.budget = self._asked or await self._recommended()
        for kind, memory_user in memory_users.items():
            memory_user.share_budget(BackendBudget(self, kind))
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait((watching,))

    @asynccontextmanager
    async def hold(self, key: Key, footprint: Footprint) -> AsyncGenerator[None]:
        """As `adapters.memory.Room.hold`, for the model `key`."""
        async with self._deciding:
            if key not in self._seen.residents:  # A loaded one asks for a longer answer only.
                self._needed[key] = footprint
            ledger = await self._make_room(Newcomer(key, footprint))
            self._held[key] = (*self._held.get(key, ()), footprint)
            try:
                await self._confine(ledger)
            except BaseException:
                self._release(key, footprint)
                raise
        try:
            yield
        finally:
            self._release(key, footprint)

    async def footprint(self, kind: str, model: str) -> int | None:
        """Bytes that `model` takes, or will; `None` where it takes none here, or nobody knows."""
        if (memory_user := self._tenants.get(kind)) is None:
            return None
        for each in await memory_user.resident():
            if model == each.name or model in each.also:
                return each.footprint.known
        foreseen = await memory_user.footprint(model)
        if foreseen is None or not foreseen.known:
            return None
        self._needed[kind, model] = foreseen
        return foreseen.known

    def seen(self, kind: str, model: str) -> int | None:
        """Bytes that `model` took when that was last looked at, `period` ago at most; `None` where
        it took none here, or nobody knows."""
        return self._seen.taken(self._seen.found((kind, model))) or None

    def fit(self, key: Key, size: int | None) -> Fit:
        """Whether the model `key`, of a file of `size` bytes, has room, as things were when they
        were last looked at. What takes nothing here, or nobody knows how much, fits."""
        if key[0] not in self._tenants:
            return "fits"
        footprint = self._needed.get(key) or Footprint(weights=size)
        return self._seen.fit(Newcomer(key, footprint), self.budget)

    async def snapshot(self) -> Snapshot:
        ledger = await self._look(fresh=False)
        models = ledger.models()
        caches = sum(model.cache for model in models)
        return Snapshot(budget=self.budget, used=ledger.used() + caches, models=models)

    async def _recommended(self) -> int:
        said = [await memory_user.recommended() for memory_user in self._tenants.values()]
        known = [each for each in said if each is not None]
        return min(known, default=int(_system_memory() * _SHARE))

    async def _watch(self) -> None:
        """Ollama's models come and go by themselves: what is left for the others changes."""
        while True:
            await asyncio.sleep(self._period)
            async with self._deciding:
                try:
                    await self._confine(await self._look(fresh=True))
                except BackendError as error:
                    log.info("The memory was not looked at: %s", error.message)

    async def _make_room(self, newcomer: Newcomer) -> Ledger:
        """How things are once `newcomer` fits in.

        Raises:
            InsufficientMemoryError: it does not; nothing was unloaded where that was foreseeable.
        """
        ledger = await self._look(fresh=True)
        if ledger.used(newcomer) - ledger.idle(newcomer.key) > self.budget:
            raise self._refusal(ledger, newcomer)
        tried: set[Key] = {newcomer.key}
        while not await self._fits(ledger, newcomer):
            if (victim := ledger.oldest_idle(tried)) is None:
                await self._confine(ledger)
                raise self._refusal(ledger, newcomer)
            tried.add(victim)
            ledger = await self._evict(victim)
        return ledger

    async def _fits(self, ledger: Ledger, newcomer: Newcomer) -> bool:
        """Whether it does now, after caches have been trimmed for it."""
        return ledger.used(newcomer) <= self.budget and await self._confine(ledger, newcomer)

    async def _confine(self, ledger: Ledger, newcomer: Newcomer | None = None) -> bool:
        """Tell the elastic backends what is left for their contexts and caches; whether they have
        not taken more meanwhile."""
        well = True
        for kind, memory_user in self._tenants.items():
            if memory_user.elastic:
                limit = max(self.budget - ledger.firm(kind, newcomer), 0)
                well &= await memory_user.confine(limit) <= limit
        return well

    async def _evict(self, key: Key) -> Ledger:
        """Unload it, and see it gone; one that somebody has begun to use stays."""
        kind, name = key
        try:
            await self._tenants[kind].unload_for_memory(name)
        except BackendError as error:
            log.info("%s/%s stays: %s", kind, name, error.message)
            return await self._look(fresh=True)
        self._evictions += 1
        log.info("%s/%s was unloaded to make room.", kind, name)
        until = time.monotonic() + _LEAVING_SECONDS
        while key in (ledger := await self._look(fresh=True)).residents:
            if time.monotonic() > until:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        return ledger

    async def _look(self, *, fresh: bool) -> Ledger:
        """All at one moment: where somebody has come or gone meanwhile, it is looked at again."""
        while True:
            held, evictions = self._held.copy(), self._evictions
            residents = await self._residents(fresh=fresh)
            # Whose load has ended since may be loaded by now, and was not told of.
            ended = held.keys() - self._held.keys() - residents.keys()
            if not ended and evictions == self._evictions:
                # What is held changes: the ledger has it as it is when it is read.
                self._seen = Ledger(residents, self._held, self._pinned)
                return self._seen

    async def _residents(self, *, fresh: bool) -> dict[Key, Resident]:
        kinds = list(self._tenants)
        told = await asyncio.gather(*(self._tenants[k].resident(fresh=fresh) for k in kinds))
        return {
            (kind, each.name): each
            for kind, found in zip(kinds, told, strict=True)
            for each in found
        }

    def _release(self, key: Key, footprint: Footprint) -> None:
        held = list(self._held[key])
        held.remove(footprint)
        self._held[key] = tuple(held)
        if not held:
            del self._held[key]

    def _refusal(self, ledger: Ledger, newcomer: Newcomer) -> InsufficientMemoryError:
        key = newcomer.key
        others = ledger.used() - ledger.taken(key) - ledger.idle(key)
        return InsufficientMemoryError(
            f"'{key[1]}' needs {ledger.taken(key, newcomer)} bytes of memory; "
            f"{max(self.budget - others, 0)} of {self.budget} are free, or held by models that "
            "nobody uses.",
            param="model",
        )


class BackendBudget:
    """The memory, as one backend sees it."""

    def __init__(self, memory: SharedBudget, kind: str) -> None:
        self._memory = memory
        self._kind = kind

    @property
    def budget(self) -> int | None:
        return self._memory.budget

    @asynccontextmanager
    async def hold(self, model: str, footprint: Footprint) -> AsyncGenerator[None]:
        async with self._memory.hold((self._kind, model), footprint):
            yield


def _system_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
