"""Drawing the next token: one sampler per row, so that a seed gives the same text in any batch."""

# pyright: basic
from collections.abc import Callable

import mlx.core as mx

from adapters.request import Sampling

Sampler = Callable[[mx.array], mx.array]
"""(rows, vocabulary) natural-log probabilities -> (rows,) token ids."""


def greedy(logprobs: mx.array) -> mx.array:
    return mx.argmax(logprobs, axis=-1)


def create_sampler(sampling: Sampling, entropy: int) -> Sampler:
    """`entropy` seeds the rows that ask for no seed of their own; 64 bits.

    Rows at temperature 0 share one function, which lets `BatchGenerator` draw them in one call.
    """
    temperature = 0.0 if sampling.temperature is None else sampling.temperature
    if temperature == 0:
        return greedy
    seed = entropy if sampling.seed is None else sampling.seed
    return RowSampler(temperature, sampling.top_p, sampling.top_k, sampling.min_p, seed)


class RowSampler:
    """Draws for one row, with a key of its own that advances once a token."""

    def __init__(
        self,
        temperature: float,
        top_p: float | None,
        top_k: int | None,
        min_p: float | None,
        seed: int,
    ) -> None:
        self._temperature = temperature
        self._top_p = 1.0 if top_p is None else top_p
        self._top_k = top_k or 0
        self._min_p = min_p or 0.0
        self._key = mx.random.key(seed % 2**64)

    def __call__(self, logprobs: mx.array) -> mx.array:
        self._key, key = mx.random.split(self._key)
        # Which tokens may be drawn is decided before the temperature, as in Ollama and mlx-lm.
        if self._top_k and self._top_k < logprobs.shape[-1]:
            logprobs = _keep_top_k(logprobs, self._top_k)
        if self._min_p > 0:
            logprobs = _keep_min_p(logprobs, self._min_p)
        if self._top_p < 1:
            logprobs = _keep_top_p(logprobs, self._top_p)
        return mx.random.categorical(logprobs / self._temperature, axis=-1, key=key)


def _keep_top_k(logits: mx.array, k: int) -> mx.array:
    """The `k` likeliest tokens; those that tie with the last of them stay too."""
    threshold = mx.min(mx.topk(logits, k, axis=-1), axis=-1, keepdims=True)
    return mx.where(logits >= threshold, logits, -mx.inf)


def _keep_min_p(logits: mx.array, min_p: float) -> mx.array:
    """The tokens with at least `min_p` of the likeliest one's probability."""
    threshold = mx.max(logits, axis=-1, keepdims=True) + mx.log(mx.array(min_p))
    return mx.where(logits >= threshold, logits, -mx.inf)


def _keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """The likeliest tokens that together reach `top_p`; always the first."""
    order = mx.argsort(-logits, axis=-1)
    probabilities = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    # The first token has nothing before it, whatever rounding did: it stays at top_p 0 too.
    first = mx.arange(logits.shape[-1]) == 0
    kept = mx.where((before < top_p) | first, mx.take_along_axis(logits, order, axis=-1), -mx.inf)
    return mx.put_along_axis(mx.zeros_like(logits), order, kept, axis=-1)
