"""Prompts that are being read, a chunk at a time, each into a cache of its own.

A cache of its own can be kept for later, and lets a short prompt overtake a long one. Short prompts
of about one length are read in one pass, which costs a quarter less, where their caches are keys
and values alone: not every recurrent model of mlx-lm 0.32 masks the padding.
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

PATIENCE = 4
"""Every so many chunks it is the oldest prompt's turn, however long it is."""

PADDING = 0.25
"""Of what is read together so much may be padding, measured by what is not."""

_NOTED = 128
"""Tokens of which the logits, for the whole vocabulary each, are there at once."""


class Prefill:
    def __init__(
        self, group: Group, cache: Cache, done: int = 0, stops: tuple[int, ...] = ()
    ) -> None:
        """`done` tokens of the prompt are in `cache` already; a chunk ends at each of `stops`."""
        self.group = group
        self.cache = cache
        self.done = done
        self._stops = tuple(stop for stop in stops if stop > done)
        self.noted: list[Sampled] | None = [] if group.reports_prompt else None
        """What the model thought of the prompt so far, where that is to be reported."""
        self.started = False
        """Some choice has its row; the others take what is free."""

    @property
    def remaining(self) -> int:
        """The last token is left for the first step of the answer."""
        return len(self.group.prompt) - 1 - self.done

    def pieces(self, tokens: int) -> int:
        """In how many chunks of about so many tokens the rest is read: even ones, for a small one
        at the end would cost as much."""
        if self.noted is not None:
            tokens = min(tokens, _NOTED)
        return 0 if self.remaining == 0 else max(1, (self.remaining + tokens // 2) // tokens)

    def chunk(self, tokens: int) -> list[int]:
        """What is read next, of about so many tokens."""
        size = -(-self.remaining // self.pieces(tokens))
        return self.group.prompt[self.done : min([self.done + size, *self._stops])]

    def note(self, logits: mx.array) -> None:
        """(tokens, vocabulary): what the model expected after each token of this chunk."""
        if self.noted is None:
            return
        begin = self.done + 1
        following = self.group.prompt[begin : begin + logits.shape[0]]
        found = report(logits, mx.array(following), self.group.top_logprobs)
        lists: list[Any] = [array.tolist() for array in found]
        for token, logprob, ids, tops in zip(following, *lists, strict=True):
            self.noted.append(Sampled(token, None, logprob, tuple(zip(ids, tops, strict=True))))

    def advance(self, count: int) -> bool:
        """So many tokens more were read. True where it has come to one of the stops."""
        self.done += count
        is_stop = self.done in self._stops
        self._stops = tuple(stop for stop in self._stops if stop > self.done)
        return is_stop


def read(model: Any, prefills: Ordered[Prefill], tokens: int, kv_bits: int | None) -> list[Prefill]:
    """Read the next chunk of each, in one pass. Says which have come to one of their stops."""
    chunks = [prefill.chunk(tokens) for prefill in prefills]
    with mx.stream(generation_stream):
        if len(prefills) == 1:
            _read_alone(model, prefills[0], chunks[0], kv_bits)
        else:
            _read_together(model, prefills, chunks)
        mx.eval([layer.state for prefill in prefills for layer in prefill.cache])
    mx.clear_cache()
    return [
        prefill
        for prefill, chunk in zip(prefills, chunks, strict=True)
        if prefill.advance(len(chunk))
    ]


def _read_alone(model: Any, prefill: Prefill, chunk: list[int], kv_bits: int | None) -> None:
    logits = model(mx.array([chunk]), cache=prefill.cache)
    prefill.note(logits[0])
    if kv_bits is not None:
        maybe_quantize_kv_cache(prefill.cache, 0, 64, kv_bits)


def _read_together(model: Any, prefills: Ordered[Prefill], chunks: list[list[int]]) -> None:
    """Padding stands behind what is read, where no token looks, and is cut off afterwards."""
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
    """The shortest first, because it is done soonest; the oldest now and then."""

    def __init__(self) -> None:
        self._all: list[Prefill] = []
        self._chunks = 0

    def add(self, prefill: Prefill) -> None:
        self._all.append(prefill)

    def remove(self, prefill: Prefill) -> None:
        self._all.remove(prefill)

    def pick(self, tokens: int, together: int) -> list[Prefill]:
        """Whose chunk of `tokens` is next: one, or several that finish with it and come to no
        more than `together`, padding included."""
        self._chunks += 1
        first = self._first()
        party = [first]
        for each in sorted(self._all, key=lambda each: abs(each.remaining - first.remaining)):
            if each is not first and is_party([*party, each], tokens, together):
                party.append(each)
        return party

    def _first(self) -> Prefill:
        if self._chunks % PATIENCE == 0:
            return self._all[0]
        return min(self._all, key=lambda prefill: prefill.remaining)

    def clear(self) -> None:
        self._all.clear()

    def __iter__(self):
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)


def is_party(prefills: Ordered[Prefill], tokens: int, together: int) -> bool:
    """Whether a chunk of `tokens` ends each of them, and neither what is read nor what was read
    before, made a rectangle by padding, is too large or too empty."""
    sizes = [prefill.remaining for prefill in prefills]
    return (
        all(prefill.pieces(tokens) == 1 and prefill.noted is None for prefill in prefills)
        and len(sizes) * max(sizes) <= together
        and _is_full(max(sizes), sizes)
        and _is_full(width(prefills), [len(prefill.group.prompt) - 1 for prefill in prefills])
    )


def width(prefills: Ordered[Prefill]) -> int:
    """Tokens of each row of the rectangle that they make when they are read to their ends."""
    return max(each.done for each in prefills) + max(each.remaining for each in prefills)


def _is_full(width: int, lengths: list[int]) -> bool:
    return len(lengths) * width <= (1 + PADDING) * sum(lengths)
