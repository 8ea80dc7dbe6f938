"""The loops of the alignment of words have the results of mlx-audio's own."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_audio.stt.models.whisper import timing

from adapters.mlx.audio.word_times import median_filter, steps


@pytest.mark.parametrize("frames", [3, 4, 50])
@pytest.mark.parametrize("width", [3, 7])
def test_median_is_that_of_the_library(width: int, frames: int):
    x = mx.random.normal((2, 3, frames), key=mx.random.key(1))
    assert mx.array_equal(median_filter(x, width), timing.median_filter(x, width))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (5, 40), (40, 5)])
def test_steps_lead_the_same_way_as_those_of_the_library(rows: int, columns: int):
    # Small whole numbers: many ways cost the same.
    costs = np.random.default_rng(rows).integers(0, 3, (rows, columns)).astype(np.float32)
    mine = timing._backtrace(steps(costs))  # pyright: ignore[reportPrivateUsage]
    assert np.array_equal(mine, timing.dtw(costs))
