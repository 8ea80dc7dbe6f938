"""What all models take of the memory at one moment: arithmetic, nothing that happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from adapters.memory import Footprint, Resident

Key = tuple[str, str]
"""A backend's kind, and its own name of a model."""
Fit = Literal["loaded", "fits", "evicts", "full"]
"""How a model would come into memory: it is there, beside all others, in place of idle ones, or
not at all."""


class ModelMemory(Struct, frozen=True, kw_only=True):
    """All in bytes; `None` is "not known"."""

    backend: str
    model: str
    weights: int | None
    context: int | None
    cache: int
    busy: bool
    pinned: bool


class Newcomer(Struct, frozen=True):
    """A model that asks for room; it may be loaded already, and want more."""

    key: Key
    footprint: Footprint


@dataclass(frozen=True)
class Ledger:
    """A model takes what its backend tells or what was set aside for it, whichever is more."""

    residents: Mapping[Key, Resident] = field(default_factory=dict[Key, Resident])
    held: Mapping[Key, tuple[Footprint, ...]] = field(
        default_factory=dict[Key, tuple[Footprint, ...]]
    )
    pinned: frozenset[Key] = frozenset()

    def used(self, newcomer: Newcomer | None = None) -> int:
        """By all models, `newcomer` included; without caches."""
        return sum(self.taken(key, newcomer) for key in self._keys(newcomer))

    def taken(self, key: Key, newcomer: Newcomer | None = None) -> int:
        footprints = self._footprints(key, newcomer)
        weights = max([each.weights or 0 for each in footprints], default=0)
        return weights + max([each.context or 0 for each in footprints], default=0)

    def found(self, key: Key) -> Key:
        """`key`, or the resident that answers for it."""
        if key in self.residents:
            return key
        kind, name = key
        of = (k for k, each in self.residents.items() if k[0] == kind and name in each.also)
        return next(of, key)

    def firm(self, kind: str, newcomer: Newcomer | None = None) -> int:
        """What is not for the contexts and caches of `kind`; `newcomer`'s context is not yet."""
        own = (key for key in self._keys() if key[0] == kind)
        contexts = (self._footprints(key) for key in own)
        free = sum(max((f.context or 0 for f in each), default=0) for each in contexts)
        return self.used(newcomer) - free

    def fit(self, newcomer: Newcomer, budget: int) -> Fit:
        if self.found(newcomer.key) in self.residents or self.held.get(newcomer.key):
            return "loaded"
        used = self.used(newcomer)
        if used <= budget:
            return "fits"
        return "evicts" if used - self.idle(newcomer.key) <= budget else "full"

    def idle(self, but: Key) -> int:
        """What would be free if all who may leave did."""
        return sum(self.taken(k) for k in self.residents if k != but and self._may_leave(k))

    def oldest_idle(self, but: set[Key]) -> Key | None:
        """Who leaves next: the one that was not used for longest."""
        idle = [key for key in self.residents if key not in but and self._may_leave(key)]
        return min(idle, key=lambda key: self.residents[key].used_at, default=None)

    def models(self) -> tuple[ModelMemory, ...]:
        return tuple(self._tell(key) for key in sorted(self._keys()))

    def _keys(self, newcomer: Newcomer | None = None) -> set[Key]:
        active = (key for key, footprints in self.held.items() if footprints)
        return {*self.residents, *active, *([newcomer.key] if newcomer is not None else [])}

    def _footprints(self, key: Key, newcomer: Newcomer | None = None) -> list[Footprint]:
        resident = self.residents.get(key)
        told = [resident.footprint] if resident is not None else []
        wanted = [newcomer.footprint] if newcomer is not None and newcomer.key == key else []
        return [*told, *self.held.get(key, ()), *wanted]

    def _may_leave(self, key: Key) -> bool:
        return not (self.residents[key].busy or self._is_pinned(key) or self.held.get(key))

    def _is_pinned(self, key: Key) -> bool:
        kind, name = key
        resident = self.residents.get(key)
        names = {name} if resident is None else {name, *resident.also}
        bare = {each.removesuffix(":latest") for each in names}
        return not self.pinned.isdisjoint((kind, each) for each in names | bare)

    def _tell(self, key: Key) -> ModelMemory:
        resident, footprints = self.residents.get(key), self._footprints(key)
        return ModelMemory(
            backend=key[0],
            model=key[1],
            weights=max((f.weights for f in footprints if f.weights is not None), default=None),
            context=max((f.context for f in footprints if f.context is not None), default=None),
            cache=resident.cache if resident is not None else 0,
            busy=resident is None or resident.busy or bool(self.held.get(key)),
            pinned=self._is_pinned(key),
        )
