"""The loops of mlx-audio's alignment of words, which are Python, in numpy and with checkpoints.

With them a window of 30 s kept the engine's thread for a second and more. The results are the same.
"""

# pyright: basic
from typing import Any

import mlx.core as mx
import numpy as np

from adapters.mlx.audio.slices import checkpoint

_DIAGONALS = 100
"""Diagonals of a matrix between two checkpoints: some milliseconds."""


def replace_loops(timing: Any) -> None:
    """Let mlx-audio's module of word times use the functions below."""
    timing.median_filter = median_filter
    timing.dtw = lambda costs: timing._backtrace(steps(costs))


def median_filter(x: mx.array, width: int) -> mx.array:
    """Return the median of `width` neighbours on the last axis, mirrored at its ends. `width`: odd.

    The largest of those left goes to the end of the list, until the median is there.
    """
    pad, frames = width // 2, x.shape[-1]
    if frames <= pad:
        return x
    ends = [(0, 0)] * (x.ndim - 1) + [(pad, pad)]
    padded = np.pad(np.array(x, dtype=np.float32), ends, mode="reflect")
    shifted = [padded[..., at : at + frames] for at in range(width)]
    for last in range(width - 1, pad - 1, -1):
        for at in range(last):
            one, other = shifted[at], shifted[at + 1]
            shifted[at], shifted[at + 1] = np.minimum(one, other), np.maximum(one, other)
        checkpoint()
    return mx.array(shifted[pad])


def steps(costs: np.ndarray) -> np.ndarray:
    """Return the last step of the cheapest way to each cell: 0 diagonal, 1 down, 2 right.

    A row and a column precede those of `costs`. The cells of a diagonal depend on the two before it
    only.
    """
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf, dtype=np.float32)
    trace = np.full((rows + 1, columns + 1), -1.0, dtype=np.float32)
    total[0, 0] = 0
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        before = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        across, down, right = before
        step = np.where(
            (across < down) & (across < right), 0, np.where((down < across) & (down < right), 1, 2)
        )
        total[i, j] = costs[i - 1, j - 1] + before[step, np.arange(len(i))]
        trace[i, j] = step
        if diagonal % _DIAGONALS == 0:
            checkpoint()
    return trace
