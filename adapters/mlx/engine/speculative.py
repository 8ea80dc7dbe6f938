"""Speculative decoding: one row at a time; the model checks the guesses of a draft model.

The text is the one that the model alone would write, seeds included: draft and model draw each
token with the key of its place, so that a guess is right whenever the model draws the same, and
wrong guesses have no effect.
"""

# pyright: basic
import copy
from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream, speculative_generate_step
from mlx_lm.models.cache import make_prompt_cache

from adapters.mlx.engine.decode import DecodeBatch, Newcomers, Row, Step
from adapters.mlx.engine.sampling import Drawing, RowNoise
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.sequence import Sampled, Sequence

GUESSES = 3
_CHUNK = 512


class SpeculativeBatch(DecodeBatch):
    """Rows with penalties, a grammar or logprobs are decoded without guesses."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self._draft = loaded.draft
        self._tokens: Iterator[Any] | None = None

    def join(self, newcomers: Ordered[Newcomers]) -> None:
        super().join(newcomers)
        row = self.rows[0]
        sequence = row.sequence
        if row.dice.plain and not sequence.processors and sequence.top_logprobs is None:
            self._tokens = self._generate(self.rows[0])

    def step(self) -> Step:
        if self._tokens is None:
            return super().step()
        [row] = self.rows
        token, _, _ = next(self._tokens)
        row.count += 1
        finish = row.finish(token, self._loaded.end_tokens)
        if finish is not None:
            self._leave()
        return [(row.sequence, Sampled(token, finish))]

    def remove(self, sequence: Sequence) -> None:
        if self._tokens is None:
            super().remove(sequence)
        elif self.rows[0].sequence is sequence:
            self._leave()

    def _leave(self) -> None:
        """Drop the row. Its cache may have guesses beyond the answer, and is not kept."""
        self._tokens = None
        self.rows, self._cache, self._inputs, self._drawing = [], [], None, None

    def _generate(self, row: Row) -> Iterator[Any]:
        prompt = row.sequence.prompt
        tokens = prompt[:-1]
        cache = make_prompt_cache(self._draft)
        with mx.stream(generation_stream):
            for start in range(0, len(tokens), _CHUNK):
                self._draft(mx.array([tokens[start : start + _CHUNK]]), cache=cache)
                mx.eval([layer.state for layer in cache])
        return speculative_generate_step(
            mx.array(prompt[-1:]),
            self._loaded.model,
            self._draft,
            num_draft_tokens=GUESSES,
            max_tokens=row.sequence.max_tokens,
            sampler=PlacedSampler(row),
            prompt_cache=[*self._cache, *cache],
        )


class PlacedSampler:
    """Draws with the key of a token's place in the answer, for draft and model alike.

    mlx-lm draws one guess at a time, and then checks all of them at once, and one place more.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._guessed = 0

    def __call__(self, logprobs: mx.array) -> mx.array:
        count = logprobs.shape[0]
        is_guess = count == 1
        start = self._row.count + (self._guessed if is_guess else 0)
        self._guessed = self._guessed + 1 if is_guess else 0
        dice = [_at(self._row.dice, start + i) for i in range(count)]
        return Drawing(dice, logprobs.shape[-1]).draw(logprobs)


def _at(dice: RowNoise, place: int) -> RowNoise:
    placed = copy.copy(dice)
    placed.drawn = place
    return placed
