"""Convolutions of Kokoro's vocoder in blocks of frames, with checkpoints between them.

One of them over a sentence takes seconds of a CPU: mlx has no fast way there for those with a
dilation, and for transposed ones with a stride. Both are computed by plain convolutions and
products of matrices, which it has. The results are the same.
"""

# pyright: basic
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from adapters.mlx.audio.slices import checkpoint

_BLOCK = 500_000_000
"""Multiplications between two checkpoints: some tens of milliseconds of a CPU."""


def divide_convolutions(model: Any) -> None:
    """Let the convolutions of mlx-audio's Kokoro that have normed weights compute in blocks."""
    from mlx_audio.tts.models.kokoro.istftnet import ConvWeighted

    def call(module: Any, x: mx.array, conv: Any) -> mx.array:
        in_blocks = convolve if conv is mx.conv1d else convolve_transposed
        return ConvWeighted.__call__(module, x, in_blocks)

    divided = type("ConvWeighted", (ConvWeighted,), {"__call__": call})
    for module in model.modules():
        if type(module) is ConvWeighted:
            module.__class__ = divided


def convolve(
    x: mx.array,
    weight: mx.array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    block: int = _BLOCK,
) -> mx.array:
    """Return what `mx.conv1d` does, (1, frames, channels). `block`: multiplications in one."""
    if stride != 1 or groups != 1:
        return mx.conv1d(x, weight, stride, padding, dilation, groups)
    padded = mx.pad(x, [(0, 0), (padding, padding), (0, 0)])
    phases = _to_phases(padded, dilation)
    size, overlap = max(1, block // (weight.size * dilation)), weight.shape[1] - 1
    blocks = _in_blocks(
        lambda first: mx.conv1d(phases[:, first : first + size + overlap], weight),
        range(0, phases.shape[1] - overlap, size),
    )
    frames = padded.shape[1] - overlap * dilation
    return _from_phases(blocks)[:, :frames]


def convolve_transposed(
    x: mx.array,
    weight: mx.array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    block: int = _BLOCK,
) -> mx.array:
    """Return what `mx.conv_transpose1d` does, (1, frames, channels).

    Each frame is multiplied to the `stride` frames that it becomes and to those that it adds to.
    """
    channels, width, _ = weight.shape
    if groups != 1 or dilation != 1 or width % stride:
        return mx.conv_transpose1d(x, weight, stride, padding, dilation, groups=groups)
    reach = width // stride
    matrix = weight.reshape(channels * width, -1).T
    size = max(1, block // weight.size)
    products = _in_blocks(
        lambda first: x[:, first : first + size] @ matrix, range(0, x.shape[1], size)
    )
    parts = products.reshape(1, x.shape[1], channels, reach, stride).transpose(3, 0, 1, 4, 2)
    shifted = [
        mx.pad(parts[at], [(0, 0), (at, reach - 1 - at), (0, 0), (0, 0)]) for at in range(reach)
    ]
    whole = mx.stack(shifted).sum(axis=0).reshape(1, -1, channels)
    return whole[:, padding : whole.shape[1] - padding]


def _in_blocks(compute: Callable[[int], mx.array], firsts: range) -> mx.array:
    blocks = []
    for first in firsts:
        blocks.append(compute(first))
        mx.eval(blocks[-1])
        checkpoint()
    return mx.concatenate(blocks, axis=1)


def _to_phases(x: mx.array, count: int) -> mx.array:
    """Put every `count`th frame into a row: (1, frames, channels) -> (count, -1, channels)."""
    x = mx.pad(x, [(0, 0), (0, -x.shape[1] % count), (0, 0)])
    return x.reshape(-1, count, x.shape[2]).swapaxes(0, 1)


def _from_phases(phases: mx.array) -> mx.array:
    return phases.swapaxes(0, 1).reshape(1, -1, phases.shape[2])
