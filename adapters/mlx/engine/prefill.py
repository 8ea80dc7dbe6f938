"""Prefill: prompts are read a chunk at a time, each into a cache of its own.

A separate cache can be kept for later, and lets a short prompt overtake a long one. Short prompts
of similar length are read in one pass, which costs a quarter less, if their caches are keys and
values only: not every recurrent model of mlx-lm 0.32 masks the padding.
"""

# pyright: basic
from collections.abc import Sequence as Ordered
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache

from adapters.mlx.engine.admission import Group
from adapters.mlx.engine.decode import Cache, merge
from adapters.mlx.engine.sampling import report
from adapters.mlx.sequence import Sampled
from adapters.mlx.vision.positions import RowPositions
from adapters.mlx.vision.protocol import Embedded

OLDEST_EVERY = 4
"""Every fourth chunk is the oldest prompt's, however long it is."""

PADDING = 0.25
"""The most padding of prompts that are read together, as a fraction of their tokens."""

_REPORTED = 128
"""Tokens of a reported prompt per chunk: each has logits for all of the vocabulary."""


class Prefill:
    def __init__(
        self, group: Group, cache: Cache, done: int = 0, stops: tuple[int, ...] = ()
    ) -> None:
        """`done`: tokens of the prompt in `cache` already. A chunk ends at each of `stops`."""
        self.group = group
        self.cache = cache
        self.done = done
        self._all_stops = stops
        self._stops = tuple(stop for stop in stops if stop > done)
        self.noted: list[Sampled] | None = [] if group.reports_prompt else None
        """Logprobs of the prompt so far, for a request that reports them."""
        self._embedded: Embedded | None = None
        self.started = False
        """True once a choice has its row; the others take free ones."""

    @property
    def remaining(self) -> int:
        """Tokens to read; the last one is left for the first step of the answer."""
        return len(self.group.prompt) - 1 - self.done

    def restart(self, cache: Cache) -> None:
        """Read the prompt from its beginning, into an empty cache."""
        self.cache, self.done, self._stops = cache, 0, self._all_stops
        for sequence in self.group.waiting:
            sequence.cached_tokens = 0

    def see(self, embedded: Embedded) -> None:
        """Continue with a prompt with images that are encoded now."""
        self._embedded = embedded
        if embedded.whole:
            # A snapshot would divide the pass.
            self._stops = tuple(stop for stop in self._stops if stop == self.done + self.remaining)
        for layer in self.cache:
            if isinstance(layer, RowPositions):
                layer.shifts = mx.array([embedded.shift], dtype=mx.int32)

    def inputs(self, count: int) -> dict[str, Any]:
        """Return the keywords of the model for the next tokens, beside the tokens."""
        return {} if self._embedded is None else self._embedded.inputs(self.done, self.done + count)

    @property
    def is_alone(self) -> bool:
        """True if no other prompt may be read in the same pass."""
        return self.noted is not None or self._embedded is not None

    def pieces(self, tokens: int) -> int:
        """Return in how many chunks of about so many tokens the rest is read: equal ones, because a
        small one at the end would cost as much."""
        if self.noted is not None:
            tokens = min(tokens, _REPORTED)
        if self._embedded is not None and self._embedded.whole:
            tokens = self.remaining
        return 0 if self.remaining == 0 else max(1, (self.remaining + tokens // 2) // tokens)

    def chunk(self, tokens: int) -> list[int]:
        """Return the tokens to read next, about so many."""
        size = -(-self.remaining // self.pieces(tokens))
        return self.group.prompt[self.done : min([self.done + size, *self._stops])]

    def note(self, logits: mx.array) -> None:
        """Add the logprobs of the tokens after each token of this chunk; (tokens, vocabulary)."""
        if self.noted is None:
            return
        begin = self.done + 1
        following = self.group.prompt[begin : begin + logits.shape[0]]
        reported = report(logits, mx.array(following), self.group.top_logprobs)
        lists: list[Any] = [array.tolist() for array in reported]
        for token, logprob, ids, tops in zip(following, *lists, strict=True):
            self.noted.append(Sampled(token, None, logprob, tuple(zip(ids, tops, strict=True))))

    def advance(self, count: int) -> bool:
        """Count tokens that were read; true at one of the stops."""
        self.done += count
        if self.remaining == 0:
            self._embedded = None
        is_stop = self.done in self._stops
        self._stops = tuple(stop for stop in self._stops if stop > self.done)
        return is_stop


def read(model: Any, prefills: Ordered[Prefill], tokens: int, kv_bits: int | None) -> list[Prefill]:
    """Read the next chunk of each, in one pass; return those that are at one of their stops."""
    chunks = [prefill.chunk(tokens) for prefill in prefills]
    with mx.stream(generation_stream):
        if len(prefills) == 1:
            prefill = prefills[0]
            inputs = prefill.inputs(len(chunks[0]))
            logits = model(mx.array([chunks[0]]), cache=prefill.cache, **inputs)
            prefill.note(logits[0])
            if kv_bits is not None:
                maybe_quantize_kv_cache(prefill.cache, 0, 64, kv_bits)
        else:
            _read_together(model, prefills, chunks)
        mx.eval([layer.state for prefill in prefills for layer in prefill.cache])
    mx.clear_cache()
    return [
        prefill
        for prefill, chunk in zip(prefills, chunks, strict=True)
        if prefill.advance(len(chunk))
    ]


def _read_together(model: Any, prefills: Ordered[Prefill], chunks: list[list[int]]) -> None:
    """Read chunks padded at their end, where no token attends to, and trim the padding."""
    longest = max(map(len, chunks))
    paddings = [longest - len(chunk) for chunk in chunks]
    padded = [chunk + [0] * padding for chunk, padding in zip(chunks, paddings, strict=True)]
    merged = merge([prefill.cache for prefill in prefills])
    model(mx.array(padded), cache=merged)
    for place, (prefill, padding) in enumerate(zip(prefills, paddings, strict=True)):
        prefill.cache = [layer.extract(place) for layer in merged]
        for layer in prefill.cache:
            layer.trim(padding)


class Prefills:
    """Prompts being read: the shortest first, because it ends soonest; at times the oldest."""

    def __init__(self) -> None:
        self._all: list[Prefill] = []
        self._chunks = 0

    def add(self, prefill: Prefill) -> None:
        self._all.append(prefill)

    def remove(self, prefill: Prefill) -> None:
        self._all.remove(prefill)

    def pick(self, tokens: int, together: int) -> list[Prefill]:
        """Return the prompts to read next in a chunk of `tokens`: one, or several that end with it
        and have no more than `together` tokens, padding included."""
        self._chunks += 1
        first = self._first()
        party = [first]
        for other in sorted(self._all, key=lambda p: abs(p.remaining - first.remaining)):
            if other is not first and is_party([*party, other], tokens, together):
                party.append(other)
        return party

    def _first(self) -> Prefill:
        if self._chunks % OLDEST_EVERY == 0:
            return self._all[0]
        return min(self._all, key=lambda prefill: prefill.remaining)

    def clear(self) -> None:
        self._all.clear()

    def __iter__(self):
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)


def is_party(prefills: Ordered[Prefill], tokens: int, together: int) -> bool:
    """Return whether the prompts may share a pass: a chunk of `tokens` ends each, and the padded
    rectangles of what is read, and of what was read before, are small and full enough."""
    sizes = [prefill.remaining for prefill in prefills]
    return (
        all(prefill.pieces(tokens) == 1 and not prefill.is_alone for prefill in prefills)
        and len(sizes) * max(sizes) <= together
        and _is_full(max(sizes), sizes)
        and _is_full(width(prefills), [len(prefill.group.prompt) - 1 for prefill in prefills])
    )


def width(prefills: Ordered[Prefill]) -> int:
    """Return the width of the rectangle that the prompts fill once they are read."""
    return max(p.done for p in prefills) + max(p.remaining for p in prefills)


def _is_full(width: int, lengths: list[int]) -> bool:
    return len(lengths) * width <= (1 + PADDING) * sum(lengths)
