"""Memory ledger: what all models use at one moment. Pure arithmetic, without effects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from adapters.memory import Footprint, Resident

Key = tuple[str, str]
"""A backend's name, and its own name of a model."""
Fit = Literal["loaded", "fits", "evicts", "full"]
"""A model is in memory, fits beside all others, needs idle ones unloaded, or does not fit."""


class ModelMemory(Struct, frozen=True, kw_only=True):
    """The memory of one model, in bytes; `None` is "not known"."""

    backend: str
    model: str
    weights: int | None
    context: int | None
    cache: int
    busy: bool
    pinned: bool


class Newcomer(Struct, frozen=True):
    """A model that needs memory: to be loaded, or for more context than it was loaded with."""

    key: Key
    footprint: Footprint


@dataclass(frozen=True)
class Ledger:
    """A model uses what its backend reports or what is reserved for it, whichever is more."""

    residents: Mapping[Key, Resident] = field(default_factory=dict[Key, Resident])
    reserved: Mapping[Key, tuple[Footprint, ...]] = field(
        default_factory=dict[Key, tuple[Footprint, ...]]
    )
    pinned: frozenset[Key] = frozenset()
    """Every spelling of the pinned models' names."""

    def used(self, newcomer: Newcomer | None = None) -> int:
        """Bytes of all models, including `newcomer`; without caches."""
        return sum(self.taken(key, newcomer) for key in self._keys(newcomer))

    def taken(self, key: Key, newcomer: Newcomer | None = None) -> int:
        """Bytes of the model `key`; without its cache."""
        footprints = self._footprints(key, newcomer)
        weights = max([footprint.weights or 0 for footprint in footprints], default=0)
        return weights + max([footprint.context or 0 for footprint in footprints], default=0)

    def resident_for(self, key: Key) -> Key:
        """`key`, or the resident that answers for it as well."""
        if key in self.residents:
            return key
        backend, name = key
        hosts = (
            k for k, resident in self.residents.items() if k[0] == backend and name in resident.also
        )
        return next(hosts, key)

    def firm(self, backend: str, newcomer: Newcomer | None = None) -> int:
        """Bytes not available to the contexts and caches of `backend`. The context of `newcomer`
        is not available yet."""
        own = (key for key in self._keys() if key[0] == backend)
        contexts = (self._footprints(key) for key in own)
        elastic = sum(max((f.context or 0 for f in group), default=0) for group in contexts)
        return self.used(newcomer) - elastic

    def fit(self, newcomer: Newcomer, budget: int) -> Fit:
        key = self.resident_for(newcomer.key)
        if key in self.residents or self.reserved.get(newcomer.key):
            return "loaded"
        used = self.used(newcomer)
        if used <= budget:
            return "fits"
        return "evicts" if used - self.idle(newcomer.key) <= budget else "full"

    def idle(self, but: Key) -> int:
        """Bytes of all models except `but` that can be unloaded."""
        return sum(self.taken(k) for k in self.residents if k != but and self._can_evict(k))

    def movable(self, but: Key) -> int:
        """Bytes of all models except `but` that can be unloaded once they do not answer."""
        return sum(self.taken(k) for k in self._keys() if k != but and not self._is_pinned(k))

    def oldest_idle(self, but: set[Key]) -> Key | None:
        """The model to unload next: the least recently used one that is not in `but`."""
        idle = [key for key in self.residents if key not in but and self._can_evict(key)]
        return min(idle, key=lambda key: self.residents[key].used_at, default=None)

    def models(self) -> tuple[ModelMemory, ...]:
        return tuple(self._model(key) for key in sorted(self._keys()))

    def _keys(self, newcomer: Newcomer | None = None) -> set[Key]:
        active = (key for key, footprints in self.reserved.items() if footprints)
        return {*self.residents, *active, *([newcomer.key] if newcomer is not None else [])}

    def _footprints(self, key: Key, newcomer: Newcomer | None = None) -> list[Footprint]:
        resident = self.residents.get(key)
        reported = [resident.footprint] if resident is not None else []
        needed = [newcomer.footprint] if newcomer is not None and newcomer.key == key else []
        return [*reported, *self.reserved.get(key, ()), *needed]

    def _can_evict(self, key: Key) -> bool:
        return not (self.residents[key].busy or self._is_pinned(key) or self.reserved.get(key))

    def _is_pinned(self, key: Key) -> bool:
        backend, name = key
        resident = self.residents.get(key)
        names = {name} if resident is None else {name, *resident.also}
        return not self.pinned.isdisjoint((backend, spelling) for spelling in names)

    def _model(self, key: Key) -> ModelMemory:
        resident, footprints = self.residents.get(key), self._footprints(key)
        return ModelMemory(
            backend=key[0],
            model=key[1],
            weights=max((f.weights for f in footprints if f.weights is not None), default=None),
            context=max((f.context for f in footprints if f.context is not None), default=None),
            cache=resident.cache if resident is not None else 0,
            busy=resident is None or resident.busy or bool(self.reserved.get(key)),
            pinned=self._is_pinned(key),
        )
