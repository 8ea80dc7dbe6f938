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

    Plain greedy rows share one function, which lets `BatchGenerator` draw them in one call.
    """
    draw = _create_draw(sampling, entropy)
    if sampling.frequency_penalty or sampling.presence_penalty or sampling.logit_bias:
        return BiasedSampler(sampling, draw)
    return draw


def _create_draw(sampling: Sampling, entropy: int) -> Sampler:
    if not sampling.temperature:
        return greedy
    seed = entropy if sampling.seed is None else sampling.seed
    return RowSampler(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, seed)


class BiasedSampler:
    """Adds `logit_bias` and takes the penalties off, then lets another sampler draw.

    OpenAI's meaning: the penalties count what this answer has said so far, all of it, and not
    the prompt. Source: https://platform.openai.com/docs/api-reference/chat/create
    """

    def __init__(self, sampling: Sampling, draw: Sampler) -> None:
        self._draw = draw
        self._frequency = sampling.frequency_penalty or 0.0
        self._presence = sampling.presence_penalty or 0.0
        self._logit_bias = sampling.logit_bias or {}
        self._bias: mx.array | None = None
        self._counts: mx.array | None = None

    def __call__(self, logprobs: mx.array) -> mx.array:
        if self._counts is None or self._bias is None:
            self._counts = mx.zeros((logprobs.shape[-1],))
            self._bias = self._create_bias(logprobs.shape[-1])
        penalty = self._frequency * self._counts + self._presence * (self._counts > 0)
        token = self._draw(_normalised(logprobs + self._bias - penalty))
        # Lazy, as all of mlx: the next step's graph hangs on this token, not on its value.
        self._counts = self._counts.at[token].add(1.0)
        return token

    def _create_bias(self, vocabulary: int) -> mx.array:
        bias = mx.zeros((vocabulary,))
        for token, value in self._logit_bias.items():
            bias[token] = value
        return bias


def _normalised(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


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
