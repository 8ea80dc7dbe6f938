"""Attention of Whisper's encoder in blocks of frames, with checkpoints between them.

Each of 1500 frames attends to all others: half a second of a CPU for each layer of the smallest
model, which would stop every text stream for that long. The results are the same.

Source: `MultiHeadAttention` of mlx-audio.
"""

# pyright: basic
from typing import Any

import mlx.core as mx

from adapters.mlx.audio.slices import checkpoint

_FRAMES = 250
"""Frames between two checkpoints: some tens of milliseconds of a CPU."""


def divide_attention(model: Any) -> None:
    """Let the encoder of a Whisper model attend in blocks."""
    for block in model.encoder.blocks:
        kind = type(block.attn)
        # A class of its own: that of the decoder has to return its scores.
        block.attn.__class__ = type(kind.__name__, (kind,), {"qkv_attention": _in_blocks})


def _in_blocks(
    attention: Any, q: mx.array, k: mx.array, v: mx.array, mask: None = None
) -> tuple[mx.array, None]:
    """Return what the frames attend to, (1, frames, width); the scores are not kept."""
    q, k, v = (_by_head(part, attention.n_head) for part in (q, k, v))
    scale = q.shape[-1] ** -0.25
    k = (k * scale).swapaxes(2, 3)
    blocks = []
    for first in range(0, q.shape[2], _FRAMES):
        scores = (q[:, :, first : first + _FRAMES] * scale) @ k
        blocks.append(mx.softmax(scores, axis=-1, precise=True) @ v)
        mx.eval(blocks[-1])
        checkpoint()
    return mx.concatenate(blocks, axis=2).transpose(0, 2, 1, 3).flatten(2), None


def _by_head(x: mx.array, heads: int) -> mx.array:
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
