"""Shared memory budget: one limit for the models of all backends on this machine.

A backend reserves memory before it loads a model. To make room, prefix caches are trimmed first,
then idle models are unloaded, the least recently used first; pinned and busy models stay.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from msgspec import Struct

from adapters.errors import BackendError, InsufficientMemoryError
from adapters.memory import Footprint, MemoryUser
from proxy.memory.ledger import Fit, Key, Ledger, ModelMemory, Newcomer

log = logging.getLogger("tandem")

_SHARE = 0.75
"""The default share of the system's memory, if no device recommends a limit: other programs need
the rest."""
_UNLOAD_SECONDS = 10.0
"""Time that an unloaded model may still be reported."""
_POLL_SECONDS = 0.05
_RETRY_SECONDS = 5.0
"""Time in which models that are in use may have answered."""


class Snapshot(Struct, frozen=True, kw_only=True):
    budget: int
    """Bytes."""
    used: int
    """Bytes of all models, including those being loaded and all caches."""
    models: tuple[ModelMemory, ...]


def default_budget(recommended: Iterable[int | None]) -> int:
    """The bytes of a budget that the config does not set, by what the devices recommend."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for limit in recommended if limit is not None]
    return min(limits, default=int(total * _SHARE))


class SharedBudget:
    def __init__(self, budget: int | None, pinned: frozenset[Key], period: float) -> None:
        """`budget`: bytes by the config, if it sets a limit; `pinned`: every spelling of the pinned
        models' names; `period`: seconds between two looks at the backends."""
        self._configured = budget
        self._pinned = pinned
        self._chosen: dict[Key, bool] = {}
        """Keys that were pinned, or not, since the start."""
        self._period = period
        self.budget = budget or 0
        self._users: dict[str, MemoryUser] = {}
        self._reserved: dict[Key, tuple[Footprint, ...]] = {}
        self._evictions = 0
        """Models unloaded to make room, since the start."""
        self._deciding = asyncio.Lock()
        self._latest = Ledger()
        self._needed: dict[Key, Footprint] = {}
        """The memory each model needed for its last load, or needs according to its files."""

    def pin(self, pinned: frozenset[Key]) -> None:
        """Take these pins of the config from now on; those that were changed since stay changed."""
        self._pinned = pinned
        self._latest = replace(self._latest, pinned=self._pinned_now)

    def set_pinned(self, keys: Iterable[Key], *, pinned: bool) -> None:
        """Pin the model with these spellings of its name, or not, until `forget_pin`."""
        self._chosen |= dict.fromkeys(keys, pinned)
        self._latest = replace(self._latest, pinned=self._pinned_now)

    def is_pinned_since_start(self, keys: Iterable[Key]) -> bool:
        """Return whether a request has pinned the model with these spellings of its name."""
        return any(self._chosen.get(key, False) for key in keys)

    def forget_pin(self, keys: Iterable[Key]) -> None:
        """Let the config alone pin the model with these spellings of its name, or not."""
        for key in keys:
            self._chosen.pop(key, None)
        self._latest = replace(self._latest, pinned=self._pinned_now)

    @property
    def _pinned_now(self) -> frozenset[Key]:
        """The pins of the config, as changed since."""
        added = {key for key, pinned in self._chosen.items() if pinned}
        return (self._pinned - self._chosen.keys()) | added

    @asynccontextmanager
    async def open(self, memory_users: Mapping[str, MemoryUser]) -> AsyncGenerator[None]:
        """Share the budget among `memory_users`, by backend, until the end."""
        self._users = dict(memory_users)
        self.budget = self._configured or default_budget(
            [await memory_user.recommended() for memory_user in memory_users.values()]
        )
        for backend, memory_user in memory_users.items():
            memory_user.share_budget(BackendBudget(self, backend))
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait((watching,))

    @asynccontextmanager
    async def hold(self, key: Key, footprint: Footprint) -> AsyncGenerator[None]:
        """Reserve memory for the model `key`; see `adapters.memory.MemoryBudget.hold`."""
        async with self._deciding:
            if key not in self._latest.residents:  # A loaded one only needs more context.
                self._needed[key] = footprint
            ledger = await self._make_room(Newcomer(key, footprint))
            self._reserved[key] = (*self._reserved.get(key, ()), footprint)
            try:
                await self._confine(ledger)
            except BaseException:
                self._release(key, footprint)
                raise
        try:
            yield
        finally:
            self._release(key, footprint)

    async def footprint(self, backend: str, model: str) -> int | None:
        """Bytes that `model` uses, or will use once loaded; `None`: none here, or not known."""
        if (memory_user := self._users.get(backend)) is None:
            return None
        for resident in await memory_user.resident():
            if model == resident.name or model in resident.also:
                return resident.footprint.known
        needed = await memory_user.footprint(model)
        if needed is None or not needed.known:
            return None
        self._needed[backend, model] = needed
        return needed.known

    def last_footprint(self, backend: str, model: str) -> int | None:
        """Bytes that `model` used by the last look, at most `period` ago; `None`: none here, or not
        known. No I/O."""
        return self._latest.taken(self._latest.resident_for((backend, model))) or None

    def fit(self, key: Key, size: int | None) -> Fit:
        """Check if the model `key`, with a file of `size` bytes, fits, by the last look. A model
        that uses no memory here, or an unknown amount, fits. No I/O."""
        if key[0] not in self._users:
            return "fits"
        footprint = self._needed.get(key) or Footprint(weights=size)
        return self._latest.fit(Newcomer(key, footprint), self.budget)

    async def snapshot(self) -> Snapshot:
        return self._to_snapshot(await self._look(fresh=False))

    def last_snapshot(self) -> Snapshot:
        """Return what the last look has seen. No I/O."""
        return self._to_snapshot(self._latest)

    def _to_snapshot(self, ledger: Ledger) -> Snapshot:
        models = ledger.models()
        caches = sum(model.cache for model in models)
        return Snapshot(budget=self.budget, used=ledger.used() + caches, models=models)

    async def _watch(self) -> None:
        """Update the limits periodically: Ollama loads and unloads models by itself."""
        while True:
            await asyncio.sleep(self._period)
            async with self._deciding:
                try:
                    await self._confine(await self._look(fresh=True))
                except BackendError as error:
                    log.info("Cannot read the memory in use: %s", error.message)

    async def _make_room(self, newcomer: Newcomer) -> Ledger:
        """Unload idle models until `newcomer` fits; returns the ledger after that.

        Raises:
            InsufficientMemoryError: it does not fit. Nothing is unloaded if that is foreseeable.
        """
        ledger = await self._look(fresh=True)
        if ledger.used(newcomer) - ledger.idle(newcomer.key) > self.budget:
            raise self._refusal(ledger, newcomer)
        tried: set[Key] = {newcomer.key}
        while ledger.used(newcomer) > self.budget or not await self._confine(ledger, newcomer):
            if (victim := ledger.oldest_idle(tried)) is None:
                await self._confine(ledger)
                raise self._refusal(ledger, newcomer)
            tried.add(victim)
            ledger = await self._evict(victim)
        return ledger

    async def _confine(self, ledger: Ledger, newcomer: Newcomer | None = None) -> bool:
        """Limit the contexts and caches of elastic backends to what is left; False if one of them
        uses more than that."""
        within = True
        for backend, memory_user in self._users.items():
            if memory_user.elastic:
                limit = max(self.budget - ledger.firm(backend, newcomer), 0)
                within &= await memory_user.confine(limit) <= limit
        return within

    async def _evict(self, key: Key) -> Ledger:
        """Unload a model and wait until it is gone. A model that has become busy stays."""
        backend, name = key
        try:
            await self._users[backend].unload_for_memory(name)
        except BackendError as error:
            log.info("%s/%s is not unloaded: %s", backend, name, error.message)
            return await self._look(fresh=True)
        self._evictions += 1
        log.info("%s/%s was unloaded to make room.", backend, name)
        until = time.monotonic() + _UNLOAD_SECONDS
        while key in (ledger := await self._look(fresh=True)).residents:
            if time.monotonic() > until:
                break
            await asyncio.sleep(_POLL_SECONDS)
        return ledger

    async def _look(self, *, fresh: bool) -> Ledger:
        """A consistent ledger of all backends: read again if models came or went meanwhile."""
        while True:
            reserved, evictions = self._reserved.copy(), self._evictions
            looks = (user.resident(fresh=fresh) for user in self._users.values())
            reports = await asyncio.gather(*looks)
            residents = {
                (backend, resident.name): resident
                for backend, residents in zip(self._users, reports, strict=True)
                for resident in residents
            }
            # A model may have finished loading since, without being among `residents`.
            ended = reserved.keys() - self._reserved.keys() - residents.keys()
            if not ended and evictions == self._evictions:
                # Not a copy: the ledger shows the reservations as they are when it is read.
                self._latest = Ledger(residents, self._reserved, self._pinned_now)
                return self._latest

    def _release(self, key: Key, footprint: Footprint) -> None:
        rest = list(self._reserved[key])
        rest.remove(footprint)
        self._reserved[key] = tuple(rest)
        if not rest:
            del self._reserved[key]

    def _refusal(self, ledger: Ledger, newcomer: Newcomer) -> InsufficientMemoryError:
        key = newcomer.key
        others = ledger.used() - ledger.taken(key) - ledger.idle(key)
        passes = ledger.used(newcomer) - ledger.movable(key) <= self.budget
        return InsufficientMemoryError(
            f"'{key[1]}' needs {ledger.taken(key, newcomer)} bytes of memory; "
            f"{max(self.budget - others, 0)} of {self.budget} are free or used by idle models."
            + (" It fits when the models that are in use now have answered." if passes else ""),
            param="model",
            retry_after=_RETRY_SECONDS if passes else None,
            lasting=not passes,
        )


class BackendBudget:
    """The shared budget as one backend uses it."""

    def __init__(self, memory: SharedBudget, backend: str) -> None:
        self._memory = memory
        self._backend = backend

    @property
    def budget(self) -> int | None:
        return self._memory.budget

    @asynccontextmanager
    async def hold(self, model: str, footprint: Footprint) -> AsyncGenerator[None]:
        async with self._memory.hold((self._backend, model), footprint):
            yield
