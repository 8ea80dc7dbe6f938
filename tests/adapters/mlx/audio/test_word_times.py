"""The loops of the alignment of words have the results of mlx-audio's own."""

from importlib.util import find_spec, module_from_spec
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_audio.stt.models.whisper import timing as library

from adapters.mlx.audio.word_times import median_filter, replace_loops


def replaced() -> Any:
    """A second copy of mlx-audio's module, with the loops replaced."""
    spec = find_spec(library.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy = module_from_spec(spec)
    spec.loader.exec_module(copy)
    replace_loops(copy)
    return copy


@pytest.mark.parametrize("frames", [3, 4, 50])
@pytest.mark.parametrize("width", [3, 7])
def test_median_is_that_of_the_library(width: int, frames: int):
    x = mx.random.normal((2, 3, frames), key=mx.random.key(1))
    assert mx.array_equal(median_filter(x, width), library.median_filter(x, width))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (5, 40), (40, 5)])
def test_ways_are_those_of_the_library(rows: int, columns: int):
    # Small whole numbers: many ways cost the same.
    costs = np.random.default_rng(rows).integers(0, 3, (rows, columns)).astype(np.float32)
    assert np.array_equal(replaced().dtw(costs), library.dtw(costs))
