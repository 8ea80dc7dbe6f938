"""Draw the next token of every row in one pass; no row depends on the others of its batch."""

# pyright: basic
from collections.abc import Callable
from hashlib import blake2b

import mlx.core as mx

from adapters.request import Sampling

Report = tuple[mx.array, mx.array, mx.array]
"""For R rows: (R,) the drawn tokens' logprobs, (R, K) the likeliest ids and (R, K) theirs."""


class RowNoise:
    """The random state of one row: its parameters, its key, and its tokens so far.

    `entropy` (64 bits) is the seed of a row without one; `max_tokens` is the longest answer.
    """

    def __init__(
        self, sampling: Sampling, entropy: int, prompt: list[int], max_tokens: int
    ) -> None:
        self.sampling = sampling
        self.prompt = prompt
        self.drawn = 0
        self.counts: mx.array | None = None
        self.window = _window(sampling, len(prompt) + max_tokens)
        """Tokens that the repetition penalty looks back; `None`: all of prompt and answer."""
        self.recent: mx.array | None = None
        """(window,) the latest tokens, once the row has been in a drawing."""
        seed = (entropy if sampling.seed is None else sampling.seed) % 2**64
        # Hashed, because consecutive seeds would share keys: each draw adds 1.
        digest = blake2b(seed.to_bytes(8, "big"), digest_size=8).digest()
        self._key = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")

    def key(self) -> list[int]:
        high, low = self._key
        return [high, (low + self.drawn) % 2**32]

    @property
    def plain(self) -> bool:
        """True if it draws from the model's own distribution, temperature and truncation aside."""
        own = self.sampling
        repeats = _repeats(own)
        return not (repeats or own.frequency_penalty or own.presence_penalty or own.logit_bias)


class Drawing:
    """The parameters of all rows as arrays: rebuilt when rows come or go, without syncs between.

    The order is penalties, bias, top_k, min_p, top_p, and the temperature last, as in mlx-lm.
    """

    def __init__(self, dice: list[RowNoise], vocabulary: int) -> None:
        self._dice = dice
        self._temperature = _column(dice, lambda sampling: sampling.temperature or 0.0)
        self._noisy = any(d.sampling.temperature for d in dice)
        self._keys = mx.array([d.key() for d in dice], dtype=mx.uint32)
        self._noise = mx.vmap(lambda key: mx.random.gumbel((vocabulary,), key=key))
        rows = [row for row, d in enumerate(dice) if _cuts(d.sampling)]
        self._cut = _Cut(dice, rows, vocabulary) if rows else None
        self._shape = None if all(d.plain for d in dice) else _Shape(dice, vocabulary)

    def draw(self, logits: mx.array) -> mx.array:
        """Map (rows, vocabulary) logits to (rows,) token ids, not evaluated yet."""
        logits = logits.astype(mx.float32)
        if self._shape is not None:
            logits = self._shape.apply(logits)
        tokens = mx.argmax(self._perturb(logits) if self._noisy else logits, axis=-1)
        if self._shape is not None:
            self._shape.count(tokens)
        for dice in self._dice:
            dice.drawn += 1
        return tokens

    def store(self) -> None:
        """Return the counts to the rows, before another drawing is made of them."""
        if self._shape is not None:
            self._shape.store(self._dice)

    def _perturb(self, logits: mx.array) -> mx.array:
        """Add Gumbel noise: the maximum of `logits / temperature + noise` is a draw. Scaled by the
        temperature, so that rows with temperature 0 are unchanged."""
        if self._cut is not None:
            logits = mx.where(logits >= self._cut.thresholds(logits), logits, -mx.inf)
        noise = self._noise(self._keys)
        self._keys = self._keys + mx.array([0, 1], dtype=mx.uint32)
        return logits + self._temperature * noise


class _Shape:
    """Penalties and `logit_bias` for every row; neutral values for rows without them.

    The frequency and presence penalties count the tokens of the answer (OpenAI); the repetition
    penalty divides the logits of tokens of the prompt or the answer (Hugging Face), or of the
    latest of them (`repeat_last_n`).
    Source: https://platform.openai.com/docs/api-reference/chat/create
    """

    def __init__(self, dice: list[RowNoise], vocabulary: int) -> None:
        self._frequency = _column(dice, lambda sampling: sampling.frequency_penalty or 0.0)
        self._presence = _column(dice, lambda sampling: sampling.presence_penalty or 0.0)
        repeats = any(_repeats(d.sampling) for d in dice)
        self._repetition = _column(dice, lambda sampling: sampling.repetition_penalty or 1.0)
        self._bias = mx.stack([_bias(d, vocabulary) for d in dice])
        self._prompt = mx.stack([_in_prompt(d, vocabulary) for d in dice]) if repeats else None
        bounded = repeats and any(d.window is not None for d in dice)
        self._recent = _Recent(dice, vocabulary) if bounded else None
        zeros = mx.zeros((vocabulary,))
        self._counts = mx.stack([zeros if d.counts is None else d.counts for d in dice])
        self._rows = mx.arange(len(dice))

    def apply(self, logits: mx.array) -> mx.array:
        written = self._counts > 0
        if self._prompt is not None:
            less = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
            repeated = written | self._prompt
            if self._recent is not None:
                repeated = self._recent.of(repeated)
            logits = mx.where(repeated, less, logits)
        return logits - self._frequency * self._counts - self._presence * written + self._bias

    def count(self, tokens: mx.array) -> None:
        # Lazy, as all of mlx: the next step's graph depends on these arrays, not on their values.
        self._counts = self._counts.at[self._rows, tokens].add(1.0)
        if self._recent is not None:
            self._recent.add(tokens)

    def store(self, dice: list[RowNoise]) -> None:
        for row, d in enumerate(dice):
            d.counts = None if d.plain else self._counts[row]
        if self._recent is not None:
            self._recent.store(dice)


class _Recent:
    """The latest tokens of rows with `repeat_last_n`; other rows have all of theirs."""

    def __init__(self, dice: list[RowNoise], vocabulary: int) -> None:
        windows = [d.window or 0 for d in dice]
        width = max(1, *windows)
        self._unbounded = mx.array([[d.window is None] for d in dice])
        # Rows end with their latest token; what is before a row's window is no token.
        self._inside = mx.arange(width) >= width - mx.array(windows)[:, None]
        self._none = vocabulary
        self._tokens = mx.stack([_latest(d, width, vocabulary) for d in dice])
        self._rows = mx.arange(len(dice))[:, None]

    def of(self, repeated: mx.array) -> mx.array:
        """Map (rows, vocabulary), true for all tokens of a row, to those within its window."""
        shape = (repeated.shape[0], self._none + 1)
        seen = mx.zeros(shape, dtype=mx.bool_)
        seen[self._rows, mx.where(self._inside, self._tokens, self._none)] = True
        return mx.where(self._unbounded, repeated, seen[:, : self._none])

    def add(self, tokens: mx.array) -> None:
        self._tokens = mx.concatenate([self._tokens[:, 1:], tokens[:, None]], axis=-1)

    def store(self, dice: list[RowNoise]) -> None:
        for row, d in enumerate(dice):
            d.recent = self._tokens[row, -d.window :] if d.window else None


class _Cut:
    """The logit below which a token is not drawn, for the rows in `rows`."""

    def __init__(self, dice: list[RowNoise], rows: list[int], vocabulary: int) -> None:
        samplings = [dice[row].sampling for row in rows]
        limits = [min(s.top_k or vocabulary, vocabulary) for s in samplings]
        self._all = len(rows) == len(dice)
        self._count, self._rows = len(dice), mx.array(rows)
        self._top_k = mx.array(limits)[:, None]
        # Sorting the vocabulary is expensive: where possible, only the tokens of top_k are sorted.
        needs_all = any(
            s.top_p is not None and limit == vocabulary
            for s, limit in zip(samplings, limits, strict=True)
        )
        bounded = [limit for limit in limits if limit < vocabulary]
        self._width = vocabulary if needs_all else max(bounded, default=1)
        self._top_p = mx.array([[1.0 if s.top_p is None else s.top_p] for s in samplings])
        self._min_p = mx.log(mx.array([[s.min_p or 0.0] for s in samplings]))

    def thresholds(self, logits: mx.array) -> mx.array:
        """Map (rows, vocabulary) logits to (rows, 1) thresholds."""
        own = logits if self._all else logits[self._rows]
        head = own if self._width == own.shape[-1] else mx.topk(own, self._width, axis=-1)
        head = -mx.sort(-head, axis=-1)
        place = mx.arange(self._width)
        by_min_p = head[:, :1] + self._min_p
        kept = mx.where((place < self._top_k) & (head >= by_min_p), head, -mx.inf)
        chances = mx.softmax(kept, axis=-1)
        before = mx.cumsum(chances, axis=-1) - chances
        inside = (((before < self._top_p) | (self._top_p >= 1)) | (place == 0)) & (kept > -mx.inf)
        by_top_p = mx.min(mx.where(inside, kept, mx.inf), axis=-1, keepdims=True)
        # min_p alone depends on the likeliest token only.
        lowest = mx.where(self._top_k > self._width, by_min_p, by_top_p)
        if self._all:
            return lowest
        all_rows = mx.full((self._count, 1), -mx.inf)
        all_rows[self._rows] = lowest
        return all_rows


def _cuts(sampling: Sampling) -> bool:
    """True if unlikely tokens are never drawn."""
    narrow = sampling.top_p is not None and sampling.top_p < 1
    return bool(sampling.temperature) and bool(narrow or sampling.top_k or sampling.min_p)


def report(logits: mx.array, tokens: mx.array, width: int) -> Report:
    """Return the model's own logprobs of each row's token and of the `width` likeliest."""
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
    return mx.array([[float(read(d.sampling))] for d in dice])


def _repeats(sampling: Sampling) -> bool:
    return sampling.repetition_penalty not in (None, 1)


def _window(sampling: Sampling, longest: int) -> int | None:
    """Return `repeat_last_n` where it is fewer than the `longest` that prompt and answer are."""
    window = sampling.repeat_last_n
    return window if window is not None and 0 <= window < longest else None


def _latest(dice: RowNoise, width: int, vocabulary: int) -> mx.array:
    """Return (width,) the latest tokens of a row; `vocabulary` stands for no token."""
    window = dice.window or 0
    tokens = dice.recent
    if tokens is None:
        ids = dice.prompt[-window:] if window else []
        known = [token if 0 <= token < vocabulary else vocabulary for token in ids]
        tokens = mx.array(known, dtype=mx.uint32)
    missing = mx.full((width - tokens.shape[0],), vocabulary, dtype=mx.uint32)
    return mx.concatenate([missing, tokens.astype(mx.uint32)])


def _bias(dice: RowNoise, vocabulary: int) -> mx.array:
    biases = {t: v for t, v in (dice.sampling.logit_bias or {}).items() if 0 <= t < vocabulary}
    bias = mx.zeros((vocabulary,))
    if biases:
        bias[mx.array(list(biases))] = mx.array(list(biases.values()))
    return bias


def _in_prompt(dice: RowNoise, vocabulary: int) -> mx.array:
    seen = mx.zeros((vocabulary,), dtype=mx.bool_)
    # mlx does not check an index that is written to.
    if ids := sorted({token for token in dice.prompt if 0 <= token < vocabulary}):
        seen[mx.array(ids)] = True
    return seen
