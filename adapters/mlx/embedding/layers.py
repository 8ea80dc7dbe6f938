"""Building blocks of encoders: attention masks, activation functions, pooling of token vectors."""

# pyright: basic
from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx import nn

from adapters.mlx.embedding.files import PoolingMode

Activation = Callable[[mx.array], mx.array]
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": mx.tanh,
    "identity": lambda x: x,
}


def activation(name: str) -> Activation:
    """The activation function of this name in `config.json`.

    Raises:
        ValueError: not supported.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is not supported")
    return _ACTIVATIONS[name]


def global_mask(real: mx.array) -> mx.array:
    """Mask for full attention: (rows, tokens), false for padding -> (rows, 1, 1, tokens)."""
    return real[:, None, None, :]


def local_mask(real: mx.array, reach: int) -> mx.array:
    """Mask for a window of `reach` tokens on either side -> (rows, 1, tokens, tokens).

    Padding far from every token attends to itself: an empty row would become NaN, and spread.
    """
    place = mx.arange(real.shape[1])
    distance = mx.abs(place[:, None] - place[None, :])
    return ((distance <= reach) & real[:, None, None, :]) | (distance == 0)


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(rows, tokens, heads * width) -> (rows, heads, tokens, width)."""
    rows, tokens, _ = x.shape
    return x.reshape(rows, tokens, heads, -1).transpose(0, 2, 1, 3)


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """(rows, heads, tokens, width) each -> (rows, tokens, heads * width)."""
    scale = queries.shape[-1] ** -0.5
    x = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    rows, heads, tokens, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(rows, tokens, heads * width)


def pool(x: mx.array, real: mx.array, modes: Sequence[PoolingMode]) -> mx.array:
    """(rows, tokens, hidden), false for padding -> (rows, hidden * modes).

    In float32: a mean of a thousand half-precision numbers would lose its last digits.
    """
    x = x.astype(mx.float32)
    return mx.concatenate([_pool(x, real, mode) for mode in modes], axis=-1)


def _pool(x: mx.array, real: mx.array, mode: PoolingMode) -> mx.array:
    count = real.sum(axis=1, keepdims=True)
    match mode:
        case "cls":
            return x[:, 0]
        case "lasttoken":
            last = real.astype(mx.int32).sum(axis=1) - 1
            return mx.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        case "max":
            return mx.where(real[..., None], x, -mx.inf).max(axis=1)
        case "mean":
            return _sum(x, real) / count
        case "mean_sqrt_len_tokens":
            return _sum(x, real) / mx.sqrt(count.astype(mx.float32))
        case "weightedmean":
            weights = mx.arange(1, x.shape[1] + 1) * real
            return (x * weights[..., None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)


def _sum(x: mx.array, real: mx.array) -> mx.array:
    return mx.where(real[..., None], x, 0).sum(axis=1)


def normalize(x: mx.array) -> mx.array:
    """Scale each row to length 1; a row of zeros stays."""
    length = mx.linalg.norm(x, axis=-1, keepdims=True)
    return x / mx.maximum(length, 1e-12)
