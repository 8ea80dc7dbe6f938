"""Prompts that are being read, a chunk at a time, each into a cache of its own.

A cache of its own needs no padding, which not every recurrent model of mlx-lm 0.32 masks, can be
kept for later, and lets a short prompt overtake a long one.
"""

# pyright: basic
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache

from adapters.mlx.admission import Group
from adapters.mlx.decode import Cache

PATIENCE = 4
"""Every so many chunks it is the oldest prompt's turn, however long it is."""


class Prefill:
    def __init__(
        self, group: Group, cache: Cache, done: int = 0, stops: tuple[int, ...] = ()
    ) -> None:
        """`done` tokens of the prompt are in `cache` already; a chunk ends at each of `stops`."""
        self.group = group
        self.cache = cache
        self.done = done
        self._stops = tuple(stop for stop in stops if stop > done)
        self.started = False
        """Some choice has its row; the others take what is free."""

    @property
    def remaining(self) -> int:
        """The last token is left for the first step of the answer."""
        return len(self.group.prompt) - 1 - self.done

    def pieces(self, tokens: int) -> int:
        """In how many chunks of about so many tokens the rest is read: even ones, for a small one
        at the end would cost as much."""
        return 0 if self.remaining == 0 else max(1, (self.remaining + tokens // 2) // tokens)

    def read(self, model: Any, tokens: int, kv_bits: int | None) -> bool:
        """Read the next chunk. True where it has come to one of the stops."""
        size = -(-self.remaining // self.pieces(tokens))
        end = min([self.done + size, *self._stops])
        chunk = self.group.prompt[self.done : end]
        with mx.stream(generation_stream):
            model(mx.array([chunk]), cache=self.cache)
            if kv_bits is not None:
                maybe_quantize_kv_cache(self.cache, 0, 64, kv_bits)
            mx.eval([layer.state for layer in self.cache])
        mx.clear_cache()
        self.done = end
        is_stop = end in self._stops
        self._stops = tuple(stop for stop in self._stops if stop > end)
        return is_stop


class Prefills:
    """The shortest first, because it is done soonest; the oldest now and then."""

    def __init__(self) -> None:
        self._all: list[Prefill] = []
        self._chunks = 0

    def add(self, prefill: Prefill) -> None:
        self._all.append(prefill)

    def remove(self, prefill: Prefill) -> None:
        self._all.remove(prefill)

    def pick(self) -> Prefill:
        self._chunks += 1
        if self._chunks % PATIENCE == 0:
            return self._all[0]
        return min(self._all, key=lambda prefill: prefill.remaining)

    def clear(self) -> None:
        self._all.clear()

    def __iter__(self):
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)
