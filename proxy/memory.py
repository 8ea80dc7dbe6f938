"""One budget for what all models take of this machine's memory, whichever engine has them.

Before a model is loaded its backend asks for room. Prefix caches give way first, then idle models,
those longest unused before others; what is pinned, or answers somebody, stays. What a model takes
is the greater of what its backend says and what was set aside for it here.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from adapters.errors import BackendError, InsufficientMemoryError
from adapters.memory import Footprint, Resident, Tenant

log = logging.getLogger("tandem")

_SHARE = 0.75
"""Of the system's memory, where no device recommends anything: the rest is everybody else's."""
_LEAVING_SECONDS = 10.0
"""How long an unloaded model may take to be gone."""
_LOOK_SECONDS = 0.05

Key = tuple[str, str]
"""A backend's kind, and its own name of a model."""


class ModelMemory(Struct, frozen=True, kw_only=True):
    """All in bytes; `None` is "not known"."""

    backend: str
    model: str
    weights: int | None
    context: int | None
    cache: int
    busy: bool
    pinned: bool


class Snapshot(Struct, frozen=True, kw_only=True):
    budget: int
    used: int
    """Of all models, those that are being loaded included."""
    models: tuple[ModelMemory, ...]


class Memory:
    def __init__(self, budget: int | None, pinned: frozenset[Key], period: float) -> None:
        """`budget` is the configuration's own; `period` the seconds between two looks."""
        self._asked = budget
        self._pinned = pinned
        self._period = period
        self.budget = budget or 0
        self._tenants: dict[str, Tenant] = {}
        self._residents: dict[Key, Resident] = {}
        self._held: dict[Key, list[Footprint]] = {}
        self._deciding = asyncio.Lock()

    @asynccontextmanager
    async def open(self, tenants: Mapping[str, Tenant]) -> AsyncGenerator[None]:
        """Share the memory out among `tenants`, by kind, until the end."""
        self._tenants = dict(tenants)
        self.budget = self._asked or await self._recommended()
        for kind, tenant in tenants.items():
            tenant.move_into(TenantRoom(self, kind))
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
            await self._make_room(key, footprint)
            held = self._held.setdefault(key, [])
            held.append(footprint)
        try:
            await self._confine()
            yield
        finally:
            held.remove(footprint)

    async def footprint(self, kind: str, model: str) -> int | None:
        """Bytes that `model` takes, or will; `None` where it takes none here, or nobody knows."""
        if (tenant := self._tenants.get(kind)) is None:
            return None
        for each in await tenant.resident():
            if each.name == model:
                return each.footprint.known
        foreseen = await tenant.footprint(model)
        return foreseen.known or None if foreseen is not None else None

    async def snapshot(self) -> Snapshot:
        await self._look(fresh=False)
        models = tuple(self._tell(key) for key in sorted({*self._residents, *self._active()}))
        caches = sum(model.cache for model in models)
        return Snapshot(budget=self.budget, used=self._used() + caches, models=models)

    async def _recommended(self) -> int:
        said = [await tenant.recommended() for tenant in self._tenants.values()]
        known = [each for each in said if each is not None]
        return min(known, default=int(_system_memory() * _SHARE))

    async def _watch(self) -> None:
        """Ollama's models come and go by themselves: what is left for the others changes."""
        while True:
            await asyncio.sleep(self._period)
            async with self._deciding:
                try:
                    await self._look(fresh=True)
                    await self._confine()
                except BackendError as error:
                    log.info("The memory was not looked at: %s", error.message)

    async def _make_room(self, key: Key, footprint: Footprint) -> None:
        """
        Raises:
            InsufficientMemoryError: nothing was trimmed or unloaded.
        """
        await self._look(fresh=True)
        if self._used(key, footprint) > self.budget:
            self._require_possible(key, footprint)
        tried: set[Key] = {key}
        while not await self._fits(key, footprint):
            if (victim := self._oldest_idle(tried)) is None:
                await self._confine()
                raise self._refusal(key, footprint)
            tried.add(victim)
            await self._evict(victim)

    async def _fits(self, key: Key, footprint: Footprint) -> bool:
        """Whether it does now, after caches have been trimmed for it."""
        if self._used(key, footprint) > self.budget:
            return False
        return await self._confine(key, footprint)

    async def _confine(self, key: Key | None = None, footprint: Footprint | None = None) -> bool:
        """Tell the elastic backends what is left for their contexts and caches; whether they have
        not taken more meanwhile. The context of a newcomer is not theirs yet."""
        well = True
        for kind, tenant in self._tenants.items():
            if tenant.elastic:
                limit = self.budget - self._firm(kind, key, footprint)
                well &= await tenant.confine(max(limit, 0)) <= max(limit, 0)
        return well

    def _require_possible(self, key: Key, footprint: Footprint) -> None:
        """Unload nothing for a model that will not fit even then."""
        if self._used(key, footprint) - self._idle({key}) > self.budget:
            raise self._refusal(key, footprint)

    def _oldest_idle(self, but: set[Key]) -> Key | None:
        idle = [key for key in self._residents if key not in but and self._may_leave(key)]
        return min(idle, key=lambda key: self._residents[key].used_at, default=None)

    def _idle(self, but: set[Key]) -> int:
        return sum(self._taken(k) for k in self._residents if k not in but and self._may_leave(k))

    def _may_leave(self, key: Key) -> bool:
        is_kept = self._residents[key].busy or self._is_pinned(key)
        return not is_kept and not self._held.get(key)

    def _is_pinned(self, key: Key) -> bool:
        kind, name = key
        return not self._pinned.isdisjoint({key, (kind, name.removesuffix(":latest"))})

    async def _evict(self, key: Key) -> None:
        """Unload it, and see it gone; one that somebody has begun to use stays."""
        kind, name = key
        try:
            await self._tenants[kind].evict(name)
            log.info("%s/%s was unloaded to make room.", kind, name)
            await self._see_gone(key)
        except BackendError as error:
            log.info("%s/%s stays: %s", kind, name, error.message)
            await self._look(fresh=True)

    async def _see_gone(self, key: Key) -> None:
        until = time.monotonic() + _LEAVING_SECONDS
        await self._look(fresh=True)
        while key in self._residents and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look(fresh=True)

    async def _look(self, *, fresh: bool) -> None:
        kinds = list(self._tenants)
        told = await asyncio.gather(*(self._tenants[k].resident(fresh=fresh) for k in kinds))
        self._residents = {
            (kind, each.name): each
            for kind, residents in zip(kinds, told, strict=True)
            for each in residents
        }

    def _active(self) -> list[Key]:
        return [key for key, held in self._held.items() if held]

    def _used(self, newcomer: Key | None = None, footprint: Footprint | None = None) -> int:
        """By all models, with `footprint` for `newcomer`; without caches."""
        keys = {*self._residents, *self._active(), *([newcomer] if newcomer else [])}
        return sum(self._taken(key, footprint if key == newcomer else None) for key in keys)

    def _taken(self, key: Key, more: Footprint | None = None) -> int:
        each = self._footprints(key, more)
        weights = max((footprint.weights or 0 for footprint in each), default=0)
        return weights + max((footprint.context or 0 for footprint in each), default=0)

    def _firm(self, kind: str, newcomer: Key | None, footprint: Footprint | None) -> int:
        """What is not for the contexts and caches of `kind`."""
        keys = {*self._residents, *self._active(), *([newcomer] if newcomer else [])}
        firm = 0
        for key in keys:
            more = footprint if key == newcomer else None
            context = max((each.context or 0 for each in self._footprints(key, None)), default=0)
            own = context if key[0] == kind else 0
            firm += self._taken(key, more) - own
        return firm

    def _footprints(self, key: Key, more: Footprint | None) -> list[Footprint]:
        resident = self._residents.get(key)
        known = [resident.footprint] if resident is not None else []
        return [*known, *self._held.get(key, ()), *([more] if more is not None else [])]

    def _refusal(self, key: Key, footprint: Footprint) -> InsufficientMemoryError:
        others = self._used() - self._taken(key) - self._idle({key})
        free = max(self.budget - others, 0)
        return InsufficientMemoryError(
            f"'{key[1]}' needs {self._taken(key, footprint)} bytes of memory; {free} of "
            f"{self.budget} are free, or held by models that nobody uses.",
            param="model",
        )

    def _tell(self, key: Key) -> ModelMemory:
        resident = self._residents.get(key)
        footprints = self._footprints(key, None)
        return ModelMemory(
            backend=key[0],
            model=key[1],
            weights=max((f.weights for f in footprints if f.weights is not None), default=None),
            context=max((f.context for f in footprints if f.context is not None), default=None),
            cache=resident.cache if resident is not None else 0,
            busy=resident is None or resident.busy,
            pinned=self._is_pinned(key),
        )


class TenantRoom:
    """The memory, as one backend sees it."""

    def __init__(self, memory: Memory, kind: str) -> None:
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
