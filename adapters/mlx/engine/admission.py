"""Admission of requests to a batch: fair turns between clients, and memory for their rows."""

# pyright: basic
from collections import OrderedDict, deque
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, make_prompt_cache
from msgspec import Struct

from adapters.errors import InsufficientMemoryError
from adapters.mlx.device import recommended_memory, system_memory
from adapters.mlx.engine.kv_pool import Pool
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.sequence import Sequence, usual_length

_PROBE = 64
"""Tokens that a cache of an unknown class is measured with."""


class Group:
    """The choices of one request: one prompt, read once."""

    def __init__(self, sequences: tuple[Sequence, ...], since: float = 0.0) -> None:
        """`since`: seconds of the scheduler's clock."""
        self.waiting = list(sequences)
        """The choices that have no row yet."""
        self.client = sequences[0].client
        self.prompt = sequences[0].prompt
        self.images = sequences[0].images
        self.keys = sequences[0].keys
        self.image_bytes = sequences[0].image_bytes
        self.turns = sequences[0].turns
        self.expected = sequences[0].expected
        self.reports_prompt = sequences[0].reports_prompt
        self.top_logprobs = sequences[0].top_logprobs or 0
        self.is_answered = sequences[0].max_tokens > 0
        self.since = since


class Queue:
    """Requests in line: first come, first served for each client; the clients take turns."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[Group]] = OrderedDict()

    def add(self, group: Group) -> None:
        self._by_client.setdefault(group.client, deque()).append(group)

    def first(self) -> Group | None:
        return next((line[0] for line in self._by_client.values()), None)

    def take(self) -> Group:
        """Remove and return `first`; its client goes to the end of the round."""
        client, line = next(iter(self._by_client.items()))
        group = line.popleft()
        self._by_client.move_to_end(client)
        if not line:
            del self._by_client[client]
        return group

    def remove(self, sequence: Sequence) -> None:
        for group in self.groups():
            if sequence in group.waiting:
                group.waiting.remove(sequence)
                if not group.waiting:
                    self._drop(group)

    def expire(self, limit: float) -> list[Group]:
        """Remove and return the groups that have waited since before `limit`."""
        late = [group for group in self.groups() if group.since < limit]
        for group in late:
            self._drop(group)
        return late

    def groups(self) -> list[Group]:
        return [group for line in self._by_client.values() for group in line]

    def clear(self) -> None:
        self._by_client.clear()

    def __len__(self) -> int:
        """Count sequences, not groups."""
        return sum(len(group.waiting) for group in self.groups())

    def _drop(self, group: Group) -> None:
        line = self._by_client[group.client]
        line.remove(group)
        if not line:
            del self._by_client[group.client]


class Footprint(Struct, frozen=True):
    """Bytes of the cache of one row."""

    fixed: int
    layers: tuple[tuple[int, int | None], ...]
    """For each layer: bytes per token, and the most tokens it keeps."""

    def row(self, tokens: int) -> int:
        return self.fixed + sum(
            size * (tokens if window is None else min(tokens, window))
            for size, window in self.layers
        )


def measure_footprint(model: Any) -> Footprint:
    """Measure the cache of one row by feeding one token: shapes differ between architectures.

    It is the model's warm-up too.
    """
    caches = make_prompt_cache(model)
    mx.eval(model(mx.array([[0]]), cache=caches))
    layers = leaves(caches)
    fixed = sum(layer.nbytes for layer in layers if isinstance(layer, ArraysCache))
    sizes = [_per_token(layer) for layer in layers if hasattr(layer, "keys")]
    if others := [x for x in layers if not (isinstance(x, ArraysCache) or hasattr(x, "keys"))]:
        before = sum(layer.nbytes for layer in others)
        mx.eval(model(mx.array([[0] * _PROBE]), cache=caches))
        grown = sum(layer.nbytes for layer in others) - before
        fixed += before
        sizes.append((-(-grown // _PROBE), None))
    return Footprint(fixed, tuple(sizes))


def leaves(caches: list[Any]) -> list[Any]:
    """Return the caches of all layers, those that a layer has several of one by one."""
    return [part for cache in caches for part in getattr(cache, "caches", (cache,))]


def is_bounded(layer: Any) -> bool:
    """Return whether a cache drops its oldest tokens: it has a window or chunks."""
    return _window(layer) is not None


def _window(layer: Any) -> int | None:
    return getattr(layer, "max_size", None) or getattr(layer, "chunk_size", None)


def _per_token(layer: Any) -> tuple[int, int | None]:
    # Buffers grow in steps (256 tokens, for example); their third axis is the capacity.
    room = layer.keys.shape[2] if layer.keys is not None else 1
    return layer.nbytes // max(room, 1), _window(layer)


def default_budget() -> int:
    """Return a quarter of the memory that the device recommends to use, or of the system's."""
    return (recommended_memory() or system_memory()) // 4


class Budget:
    """Bytes for the caches of one model's rows. A batch is a rectangle: each row as long as the
    longest, so that the cost is rows x the longest, prompt and answer together."""

    def __init__(self, footprint: Footprint, limit: int, loaded: LoadedModel, pool: Pool) -> None:
        """`pool`: the limit of all models' rows together."""
        self._footprint = footprint
        self._limit = limit
        self._model = loaded.name
        self._usual = usual_length(loaded.context_length)
        self._pool = pool

    def fits(self, lengths: list[int], more: int = 0) -> bool:
        """`more`: bytes beside the caches."""
        cost = self.cost(lengths) + more
        return cost <= self._limit and self._pool.fits(self._model, cost)

    @property
    def least(self) -> int:
        """Bytes of one answer of the usual length."""
        return min(self.cost([self._usual]), self._limit)

    def cost(self, lengths: list[int]) -> int:
        return len(lengths) * self._footprint.row(max(lengths, default=0))

    def require(self, tokens: int, more: int = 0) -> None:
        """
        Raises:
            InsufficientMemoryError: a row of so many tokens does not fit even alone.
        """
        needed, limit = self.cost([tokens]) + more, self._limit
        if (most := self._pool.most(self._model)) is not None:
            limit = min(limit, most)
        if needed > limit:
            raise InsufficientMemoryError(
                f"A prompt and an answer of {tokens} tokens need {needed} bytes of cache"
                f"{' and images' if more else ''}; {limit} are reserved. "
                f"Request fewer tokens with max_tokens{' or send smaller images' if more else ''}."
            )
