"""Drawing the next token of every row in one pass; a row's text never depends on its company."""

# pyright: basic
from collections.abc import Callable
from hashlib import blake2b

import mlx.core as mx

from adapters.request import Sampling

Report = tuple[mx.array, mx.array, mx.array]
"""Of R rows: (R,) the drawn tokens' logprobs, (R, K) the likeliest ids and (R, K) theirs."""


class RowNoise:
    """What one row draws with: its parameters, its key, and what was said so far.

    `entropy` (64 bits) is the seed of a row that asks for none.
    """

    def __init__(self, sampling: Sampling, entropy: int, prompt: list[int]) -> None:
        self.sampling = sampling
        self.prompt = prompt
        self.drawn = 0
        self.counts: mx.array | None = None
        seed = (entropy if sampling.seed is None else sampling.seed) % 2**64
        # Hashed, because seeds that follow each other would share keys: each draw adds 1.
        digest = blake2b(seed.to_bytes(8, "big"), digest_size=8).digest()
        self._key = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")

    def key(self) -> list[int]:
        high, low = self._key
        return [high, (low + self.drawn) % 2**32]

    @property
    def plain(self) -> bool:
        """Draws from the model's own distribution, temperature and truncation aside."""
        asked = self.sampling
        repeats = asked.repetition_penalty not in (None, 1)
        return not (
            repeats or asked.frequency_penalty or asked.presence_penalty or asked.logit_bias
        )


class Drawing:
    """The parameters of all rows as arrays: made anew when rows come or go, free of syncs between.

    The order is penalties, bias, top_k, min_p, top_p, and the temperature last, as in mlx-lm.
    """

    def __init__(self, dice: list[RowNoise], vocabulary: int) -> None:
        self._dice = dice
        self._temperature = _column(dice, lambda asked: asked.temperature or 0.0)
        self._noisy = any(each.sampling.temperature for each in dice)
        self._keys = mx.array([each.key() for each in dice], dtype=mx.uint32)
        self._noise = mx.vmap(lambda key: mx.random.gumbel((vocabulary,), key=key))
        self._cut = _create_cut(dice, vocabulary)
        self._shape = None if all(d.plain for d in dice) else _Shape(dice, vocabulary)

    def draw(self, logits: mx.array) -> mx.array:
        """(rows, vocabulary) logits -> (rows,) token ids, not evaluated yet."""
        logits = logits.astype(mx.float32)
        if self._shape is not None:
            logits = self._shape.apply(logits)
        tokens = mx.argmax(self._perturb(logits) if self._noisy else logits, axis=-1)
        if self._shape is not None:
            self._shape.count(tokens)
        for each in self._dice:
            each.drawn += 1
        return tokens

    def store(self) -> None:
        """Hand what was counted back to the rows, before others make a drawing of them."""
        if self._shape is not None:
            self._shape.store(self._dice)

    def _perturb(self, logits: mx.array) -> mx.array:
        """The likeliest of `logits / temperature + Gumbel noise` is a draw; scaled by the
        temperature, so that the rows with none are simply not disturbed."""
        if self._cut is not None:
            logits = mx.where(logits >= self._cut.thresholds(logits), logits, -mx.inf)
        noise = self._noise(self._keys)
        self._keys = self._keys + mx.array([0, 1], dtype=mx.uint32)
        return logits + self._temperature * noise


class _Shape:
    """Penalties and `logit_bias` for every row; neutral values where a row asks for none.

    The frequency and presence penalties count what the answer has said, all of it (OpenAI); the
    repetition penalty divides what the prompt or the answer has (Hugging Face).
    Source: https://platform.openai.com/docs/api-reference/chat/create
    """

    def __init__(self, dice: list[RowNoise], vocabulary: int) -> None:
        self._frequency = _column(dice, lambda asked: asked.frequency_penalty or 0.0)
        self._presence = _column(dice, lambda asked: asked.presence_penalty or 0.0)
        self._repeats = any(d.sampling.repetition_penalty not in (None, 1) for d in dice)
        self._repetition = _column(dice, lambda asked: asked.repetition_penalty or 1.0)
        self._bias = mx.stack([_bias(each, vocabulary) for each in dice])
        self._prompt = (
            mx.stack([_in_prompt(each, vocabulary) for each in dice]) if self._repeats else None
        )
        zeros = mx.zeros((vocabulary,))
        self._counts = mx.stack([zeros if d.counts is None else d.counts for d in dice])
        self._rows = mx.arange(len(dice))

    def apply(self, logits: mx.array) -> mx.array:
        said = self._counts > 0
        if self._prompt is not None:
            less = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
            logits = mx.where(said | self._prompt, less, logits)
        return logits - self._frequency * self._counts - self._presence * said + self._bias

    def count(self, tokens: mx.array) -> None:
        # Lazy, as all of mlx: the next step's graph hangs on these tokens, not on their values.
        self._counts = self._counts.at[self._rows, tokens].add(1.0)

    def store(self, dice: list[RowNoise]) -> None:
        for row, each in enumerate(dice):
            each.counts = None if each.plain else self._counts[row]


class _Cut:
    """The logit below which a token is not drawn, for the rows in `rows`."""

    def __init__(self, dice: list[RowNoise], rows: list[int], vocabulary: int) -> None:
        asked = [dice[row].sampling for row in rows]
        limits = [min(each.top_k or vocabulary, vocabulary) for each in asked]
        self._all = len(rows) == len(dice)
        self._count, self._rows = len(dice), mx.array(rows)
        self._top_k = mx.array(limits)[:, None]
        # Sorting a whole vocabulary is dear: only what top_k leaves is looked at, where it can be.
        whole = any(
            each.top_p is not None and limit == vocabulary
            for each, limit in zip(asked, limits, strict=True)
        )
        bounded = [limit for limit in limits if limit < vocabulary]
        self._width = vocabulary if whole else max(bounded, default=1)
        self._top_p = mx.array([[1.0 if each.top_p is None else each.top_p] for each in asked])
        self._min_p = mx.log(mx.array([[each.min_p or 0.0] for each in asked]))

    def thresholds(self, logits: mx.array) -> mx.array:
        """(rows, vocabulary) -> (rows, 1)"""
        mine = logits if self._all else logits[self._rows]
        head = mine if self._width == mine.shape[-1] else mx.topk(mine, self._width, axis=-1)
        head = -mx.sort(-head, axis=-1)
        place = mx.arange(self._width)
        by_min_p = head[:, :1] + self._min_p
        kept = mx.where((place < self._top_k) & (head >= by_min_p), head, -mx.inf)
        # min_p alone looks at the likeliest token only, wherever the others are.
        lowest = mx.where(self._top_k > self._width, by_min_p, self._lowest(kept, place))
        if self._all:
            return lowest
        everywhere = mx.full((self._count, 1), -mx.inf)
        everywhere[self._rows] = lowest
        return everywhere

    def _lowest(self, kept: mx.array, place: mx.array) -> mx.array:
        """The likeliest tokens that together reach `top_p`; always the first."""
        chances = mx.softmax(kept, axis=-1)
        before = mx.cumsum(chances, axis=-1) - chances
        inside = (((before < self._top_p) | (self._top_p >= 1)) | (place == 0)) & (kept > -mx.inf)
        return mx.min(mx.where(inside, kept, mx.inf), axis=-1, keepdims=True)


def _create_cut(dice: list[RowNoise], vocabulary: int) -> _Cut | None:
    rows = [row for row, each in enumerate(dice) if _cuts(each.sampling)]
    return _Cut(dice, rows, vocabulary) if rows else None


def _cuts(asked: Sampling) -> bool:
    narrow = asked.top_p is not None and asked.top_p < 1
    return bool(asked.temperature) and bool(narrow or asked.top_k or asked.min_p)


def report(logits: mx.array, tokens: mx.array, width: int) -> Report:
    """What the model itself thought of each row's token, and of the `width` likeliest."""
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    drawn = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    width = min(width, logits.shape[-1])
    if width == 0:
        rows = tokens.shape[0]
        return drawn, mx.zeros((rows, 0), dtype=mx.uint32), mx.zeros((rows, 0))
    ids = mx.argpartition(-logprobs, width - 1, axis=-1)[:, :width]
    top = mx.take_along_axis(logprobs, ids, axis=-1)
    order = mx.argsort(-top, axis=-1)
    return (
        drawn,
        mx.take_along_axis(ids, order, axis=-1),
        mx.take_along_axis(top, order, axis=-1),
    )


def _column(dice: list[RowNoise], read: Callable[[Sampling], float]) -> mx.array:
    return mx.array([[float(read(each.sampling))] for each in dice])


def _bias(dice: RowNoise, vocabulary: int) -> mx.array:
    asked = {t: v for t, v in (dice.sampling.logit_bias or {}).items() if 0 <= t < vocabulary}
    bias = mx.zeros((vocabulary,))
    if asked:
        bias[mx.array(list(asked))] = mx.array(list(asked.values()))
    return bias


def _in_prompt(dice: RowNoise, vocabulary: int) -> mx.array:
    seen = mx.zeros((vocabulary,), dtype=mx.bool_)
    # mlx does not check an index that is written to.
    if ids := sorted({token for token in dice.prompt if 0 <= token < vocabulary}):
        seen[mx.array(ids)] = True
    return seen
