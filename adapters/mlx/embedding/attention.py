"""Attention that looks both ways: which tokens see which."""

# pyright: basic
import mlx.core as mx


def every_token(real: mx.array) -> mx.array:
    """(rows, tokens) true where a token is no padding -> (rows, 1, 1, tokens), for all to see."""
    return real[:, None, None, :]


def nearby_tokens(real: mx.array, reach: int) -> mx.array:
    """-> (rows, 1, tokens, tokens): at most `reach` away, on either side.

    Padding far from every token sees itself: a row of nothing would become NaN, and spread.
    """
    place = mx.arange(real.shape[1])
    distance = mx.abs(place[:, None] - place[None, :])
    return ((distance <= reach) & real[:, None, None, :]) | (distance == 0)


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """(rows, heads, tokens, width) each -> (rows, tokens, heads * width)."""
    scale = queries.shape[-1] ** -0.5
    seen = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    return joined(seen)


def split(x: mx.array, heads: int) -> mx.array:
    """(rows, tokens, heads * width) -> (rows, heads, tokens, width)."""
    rows, tokens, _ = x.shape
    return x.reshape(rows, tokens, heads, -1).transpose(0, 2, 1, 3)


def joined(x: mx.array) -> mx.array:
    rows, heads, tokens, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(rows, tokens, heads * width)
