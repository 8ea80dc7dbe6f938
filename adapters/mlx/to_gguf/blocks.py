# pyright: basic
"""MLX's affine groups -> GGUF's blocks of 32: codes are copied, not computed again.

A group of 64 or 128 becomes two or four blocks with the same scale and bias.

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (the block structs)
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGML
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.packing import FP4, GROUP, power_of_two, unpack
from adapters.mlx.to_gguf.arrays import StoredArray

Codes = NDArray[np.uint8]


class Affine:
    """One quantised matrix: weight = scale * code + bias, in groups along the rows."""

    def __init__(
        self, weight: StoredArray, scales: StoredArray, biases: StoredArray, bits: int, group: int
    ) -> None:
        if group % GROUP or weight.dtype != "U32":
            raise UnsupportedGGUFError(f"Groups of {group} weights are not supported.")
        *lead, words = weight.data.shape
        self.shape = (*lead, words * 32 // bits)
        # The rows of all experts, one after the other.
        self._packed = weight.data.reshape(-1, words)
        self._bits = bits
        self._repeat = group // GROUP
        self._scales = scales.as_float32().reshape(len(self._packed), -1)
        self._biases = biases.as_float32().reshape(len(self._packed), -1)

    def kind(self) -> GGML:
        """The type that stores it exactly, with scales in float16; else float16."""
        if self._bits <= 4:
            return GGML.Q4_1
        if self._bits == 5:
            return GGML.Q5_1
        is_signed = self._bits == 8 and np.array_equal(self._biases, self._scales * -128)
        return GGML.Q8_0 if is_signed else GGML.F16

    def values(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """The values that MLX computes with."""
        codes = self._codes(rows).reshape(len(rows), -1, GROUP).astype(np.float32)
        scaled = codes * self._spread(self._scales, rows)[..., None]
        return (scaled + self._spread(self._biases, rows)[..., None]).reshape(len(rows), -1)

    def encode(self, rows: NDArray[np.intp], kind: GGML) -> NDArray[np.uint8]:
        """Encode `rows` for the file."""
        if kind == GGML.F16:
            return gguf.quantize(self.values(rows), kind).view(np.uint8)
        codes = self._codes(rows).reshape(len(rows), -1, GROUP)
        scales = _half(self._spread(self._scales, rows))
        biases = _half(self._spread(self._biases, rows))
        match kind:
            case GGML.Q4_1:
                fields = [scales, biases, _nibbles(codes)]
            case GGML.Q5_1:
                fields = [scales, biases, _fifth_bits(codes), _nibbles(codes & np.uint8(15))]
            case _:
                # Flipping the highest bit of a two's complement byte subtracts 128.
                fields = [scales, codes ^ np.uint8(128)]
        return np.concatenate(fields, axis=-1).reshape(len(rows), -1)

    def _codes(self, rows: NDArray[np.intp]) -> Codes:
        return unpack(np.ascontiguousarray(self._packed[rows]), self._bits)

    def _spread(self, values: NDArray, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.repeat(values[rows], self._repeat, axis=-1)


class Microscaled:
    """One matrix in MXFP4, which both formats have: weight = 4-bit float * power of two."""

    def __init__(self, weight: StoredArray, scales: StoredArray) -> None:
        if weight.dtype != "U32" or scales.dtype != "U8":
            raise UnsupportedGGUFError("MXFP4 is supported with scales of one byte only.")
        *lead, words = weight.data.shape
        self.shape = (*lead, words * 8)
        self._packed = weight.data.reshape(-1, words)
        self._scales = scales.data.reshape(len(self._packed), -1)

    def kind(self) -> GGML:
        return GGML.MXFP4

    def values(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        codes = unpack(np.ascontiguousarray(self._packed[rows]), 4)
        grouped = FP4[codes].reshape(len(rows), -1, GROUP)
        return (grouped * power_of_two(self._scales[rows])[..., None]).reshape(len(rows), -1)

    def encode(self, rows: NDArray[np.intp], kind: GGML) -> NDArray[np.uint8]:
        codes = unpack(np.ascontiguousarray(self._packed[rows]), 4)
        fields = [self._scales[rows][..., None], _nibbles(codes.reshape(len(rows), -1, GROUP))]
        return np.concatenate(fields, axis=-1).reshape(len(rows), -1)


def _half(values: NDArray) -> NDArray[np.uint8]:
    """(rows, blocks) -> (rows, blocks, 2) bytes."""
    return values.astype("<f2")[..., None].view(np.uint8)


def _nibbles(codes: Codes) -> NDArray[np.uint8]:
    """(rows, blocks, 32) -> (rows, blocks, 16): first half in the low bits, second in the high."""
    return codes[..., :16] | codes[..., 16:] << np.uint8(4)


def _fifth_bits(codes: Codes) -> NDArray[np.uint8]:
    """(rows, blocks, 32) -> (rows, blocks, 4): bit i is bit 4 of code i."""
    return np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little")
