"""Dequantize weights to float32, large ones in slices: an embedding takes 0.5 s on a CPU."""

# pyright: basic
from typing import Any

import mlx.core as mx
from mlx_lm.utils import dequantize_model

from adapters.mlx.jobs import Pieces

SLICE = 1 << 22
"""Weights: some hundredths of a second."""


class Packed:
    """A large layer that is still quantised, and the plain layer that replaces it."""

    def __init__(self, packed: Any, plain: Any, slice_weights: int) -> None:
        self._packed = packed
        self._plain = plain
        self._slice_weights = slice_weights

    def unpack(self) -> Pieces[None]:
        """Dequantize slice by slice into one array, so that memory holds the weights once."""
        layer, shape = self._packed, self._plain.weight.shape
        rows = max(1, self._slice_weights * shape[0] // self._plain.weight.size)
        weight = mx.zeros(shape, self._plain.weight.dtype)
        for array in (layer.weight, layer.scales, layer.biases, weight):
            mx.eval(array)
            yield
        for start in range(0, shape[0], rows):
            chosen = slice(start, start + rows)
            biases = None if layer.biases is None else layer.biases[chosen]
            weight[chosen] = mx.dequantize(
                layer.weight[chosen],
                layer.scales[chosen],
                biases,
                layer.group_size,
                layer.bits,
                layer.mode,
            )
            mx.eval(weight)
            yield
        self._plain.weight = weight


def unpack(model: Any, slice_weights: int = SLICE) -> list[Packed]:
    """Replace the quantised layers of `model` by plain ones; returns the large ones, still packed.

    A layer is large if it has more than `slice_weights`.

    Exact only in this order: scales and biases become float32 before they are used.
    """
    model.set_dtype(mx.float32)
    packed = {name: module for name, module in model.named_modules() if "scales" in module}
    plain = dict(dequantize_model(model).named_modules())
    return [
        Packed(module, plain[name], slice_weights)
        for name, module in packed.items()
        if plain[name].weight.size > slice_weights
    ]
