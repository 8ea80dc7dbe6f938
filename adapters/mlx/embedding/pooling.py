"""From a vector for each token to one for the text."""

# pyright: basic
from collections.abc import Callable, Sequence

import mlx.core as mx

from adapters.mlx.embedding.files import PoolingMode


def _cls(x: mx.array, _real: mx.array) -> mx.array:
    return x[:, 0]


def _last(x: mx.array, real: mx.array) -> mx.array:
    place = real.astype(mx.int32).sum(axis=1) - 1
    return mx.take_along_axis(x, place[:, None, None], axis=1)[:, 0]


def _max(x: mx.array, real: mx.array) -> mx.array:
    return mx.where(real[..., None], x, -mx.inf).max(axis=1)


def _mean(x: mx.array, real: mx.array) -> mx.array:
    return _sum(x, real) / real.sum(axis=1, keepdims=True)


def _mean_by_root(x: mx.array, real: mx.array) -> mx.array:
    return _sum(x, real) / mx.sqrt(real.sum(axis=1, keepdims=True).astype(mx.float32))


def _weighted_mean(x: mx.array, real: mx.array) -> mx.array:
    weights = mx.arange(1, x.shape[1] + 1) * real
    return (x * weights[..., None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)


def _sum(x: mx.array, real: mx.array) -> mx.array:
    return mx.where(real[..., None], x, 0).sum(axis=1)


_POOLS: dict[PoolingMode, Callable[[mx.array, mx.array], mx.array]] = {
    "cls": _cls,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
}


def pool(x: mx.array, real: mx.array, modes: Sequence[PoolingMode]) -> mx.array:
    """(rows, tokens, hidden), true where a token is no padding -> (rows, hidden * modes).

    In float32: a mean of a thousand half-precision numbers would lose its last digits.
    """
    x = x.astype(mx.float32)
    return mx.concatenate([_POOLS[mode](x, real) for mode in modes], axis=-1)


def normalized(x: mx.array) -> mx.array:
    """Each row scaled to length 1; a row of zeros stays."""
    length = mx.linalg.norm(x, axis=-1, keepdims=True)
    return x / mx.maximum(length, 1e-12)
