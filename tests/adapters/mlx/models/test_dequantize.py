"""Quantised layers made plain: at once, and large ones in slices."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from adapters.mlx.models.dequantize import unpack


def packed_model(mode: str = "affine") -> Any:
    mx.random.seed(1)
    model = nn.Module()
    model.table = nn.Embedding(96, 64)
    model.matrix = nn.Linear(64, 80, bias=True)
    model.experts = SwitchLinear(64, 32, 4)
    model.norm = nn.RMSNorm(64)
    group, bits = (64, 4) if mode == "affine" else (32, 4)
    nn.quantize(model, group, bits, mode=mode)
    return model


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_large_layers_are_unpacked_in_slices_with_the_same_weights(mode: str) -> None:
    reference, model = packed_model(mode), packed_model(mode)
    assert unpack(reference) == []
    steps = [sum(1 for _ in layer.unpack()) for layer in unpack(model, slice_weights=2000)]
    assert sorted(steps) == [4 + 3, 4 + 4, 4 + 4]
    for name in ("table", "matrix", "experts"):
        weight = model[name].weight
        assert weight.dtype == reference[name].weight.dtype
        assert mx.array_equal(weight, reference[name].weight)
