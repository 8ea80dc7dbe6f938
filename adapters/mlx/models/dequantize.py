"""Packed weights made float32, large ones in pieces: a vocabulary's take half a second on a CPU."""

# pyright: basic
from typing import Any

import mlx.core as mx
from mlx_lm.utils import dequantize_model

from adapters.mlx.jobs import Pieces

_PIECE = 1 << 22
"""Numbers: some hundredths of a second."""


class Packed:
    """A large layer that is still packed, beside the plain one that takes its place."""

    def __init__(self, packed: Any, plain: Any) -> None:
        self._packed = packed
        self._plain = plain

    def unpack(self) -> Pieces[None]:
        """In place, so that no more memory is taken than the weights need."""
        shape = self._plain.weight.shape
        rows = max(1, _PIECE * shape[0] // self._plain.weight.size)
        whole = mx.zeros(shape, self._plain.weight.dtype)
        for array in (self._packed.weight, self._packed.scales, self._packed.biases, whole):
            mx.eval(array)
            yield
        for start in range(0, shape[0], rows):
            whole[start : start + rows] = self._rows(slice(start, start + rows))
            mx.eval(whole)
            yield
        self._plain.weight = whole

    def _rows(self, rows: slice) -> mx.array:
        layer = self._packed
        biases = None if layer.biases is None else layer.biases[rows]
        return mx.dequantize(
            layer.weight[rows], layer.scales[rows], biases, layer.group_size, layer.bits, layer.mode
        )


def unpack(model: Any) -> list[Packed]:
    """Replace the packed layers of `model` by plain ones; what comes back is to be unpacked yet.

    Exact only in this order: scales and offsets become float32 before they are used.
    """
    model.set_dtype(mx.float32)
    packed = {name: module for name, module in model.named_modules() if "scales" in module}
    plain = dict(dequantize_model(model).named_modules())
    return [
        Packed(module, plain[name])
        for name, module in packed.items()
        if plain[name].weight.size > _PIECE
    ]
