# pyright: basic
"""GGUF's quantised blocks <-> MLX's affine groups of 32: weight = scale * code + bias.

Both formats round a group of weights to small integers, so most types convert exactly: codes are
copied, not computed again. Shapes: `raw` is (rows, bytes of a row) uint8 as in the file,
codes are (rows, columns) uint8, scales and biases (rows, columns / 32).

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (the block structs)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

GROUP = 32
_LOW, _HALF = np.uint8(15), np.uint8(4)  # mask of the low half of a byte, shift of the high half
_K_GROUPS = 8  # a K-quant's block of 256 weights has 8 groups of 32

Bytes = NDArray[np.uint8]
Affine = tuple[Bytes, NDArray[np.float16], NDArray[np.float16]]
"""Codes, scales, biases."""
Parts = dict[str, NDArray[np.generic]]
"""Suffix of the parameter's name -> array."""


def pack(codes: Bytes, bits: int) -> NDArray[np.uint32]:
    """Pack the codes of each row into one little-endian bit stream of uint32, first code lowest.

    Eight codes fill exactly `bits` bytes: the low bytes of a uint64.
    """
    rows, columns = codes.shape
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(bits)
    words = (codes.reshape(rows, columns // 8, 8).astype(np.uint64) << shifts).sum(
        axis=-1, dtype=np.uint64
    )
    stream = words.astype("<u8")[..., None].view(np.uint8)[..., :bits]
    return np.ascontiguousarray(stream).reshape(rows, -1).view("<u4")


def unpack(packed: NDArray[np.uint32], bits: int) -> Bytes:
    """Reverse `pack`, bit by bit: the check must not share its arithmetic."""
    stream = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little")
    digits = stream.reshape(packed.shape[0], -1, bits)
    return np.packbits(digits, axis=-1, bitorder="little")[..., 0]


@dataclass(frozen=True)
class Packed:
    """A quantised type that stays quantised."""

    bits: int
    split: Callable[[Bytes], Affine]
    """Raw rows -> codes, scales, biases."""

    @property
    def label(self) -> str:
        return f"{self.bits}-bit groups of {GROUP}"

    def settings(self) -> dict[str, int | str]:
        """The entry of a module in `quantization`."""
        return {"group_size": GROUP, "bits": self.bits}

    def layout(self, *shape: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Suffix -> safetensors dtype and shape."""
        *lead, columns = shape
        groups = (*lead, columns // GROUP)
        return {
            "weight": ("U32", (*lead, columns * self.bits // 32)),
            "scales": ("F16", groups),
            "biases": ("F16", groups),
        }

    def encode(self, raw: Bytes) -> Parts:
        codes, scales, biases = self.split(raw)
        return {"weight": pack(codes, self.bits), "scales": scales, "biases": biases}

    def decode(self, parts: Parts) -> NDArray[np.float32]:
        """The values that MLX computes with, as float32."""
        codes = unpack(parts["weight"], self.bits)  # type: ignore[arg-type]
        grouped = codes.reshape(codes.shape[0], -1, GROUP).astype(np.float32)
        scaled = grouped * parts["scales"].astype(np.float32)[..., None]
        return (scaled + parts["biases"].astype(np.float32)[..., None]).reshape(codes.shape)


@dataclass(frozen=True)
class Microscaled:
    """MXFP4, which both formats have: 4-bit floats in groups of 32 with a power of two. Exact.

    Source: https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf
    """

    bits: int = 4
    label: str = "MXFP4 groups of 32"

    def settings(self) -> dict[str, int | str]:
        return {"group_size": GROUP, "bits": self.bits, "mode": "mxfp4"}

    def layout(self, *shape: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        *lead, columns = shape
        return {
            "weight": ("U32", (*lead, columns * self.bits // 32)),
            "scales": ("U8", (*lead, columns // GROUP)),
        }

    def encode(self, raw: Bytes) -> Parts:
        scales, codes = _blocks(raw, GGMLQuantizationType.MXFP4, 1, 16)
        return {"weight": pack(_flat(_nibbles(codes)), self.bits), "scales": _flat(scales)}

    def decode(self, parts: Parts) -> NDArray[np.float32]:
        codes = unpack(parts["weight"], self.bits)  # type: ignore[arg-type]
        grouped = FP4[codes].reshape(codes.shape[0], -1, GROUP)
        return (grouped * power_of_two(parts["scales"])[..., None]).reshape(codes.shape)


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The values of the codes of a 4-bit float: a sign, two bits of exponent, one of mantissa."""


def power_of_two(exponents: NDArray) -> NDArray[np.float32]:
    """The scale of a group from its byte, an exponent with a bias of 127."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)


def _blocks(raw: Bytes, kind: GGMLQuantizationType, *sizes: int) -> list[Bytes]:
    """Split all blocks into fields, each (rows, blocks, size in bytes)."""
    _, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = raw.reshape(raw.shape[0], -1, block_bytes)
    return np.split(blocks, np.cumsum(sizes)[:-1], axis=-1)


def _half(field: Bytes) -> NDArray[np.float16]:
    """(rows, blocks, 2) bytes -> (rows, blocks)."""
    return np.ascontiguousarray(field).view("<f2")[..., 0]


def _nibbles(field: Bytes) -> Bytes:
    """(rows, blocks, 16) -> (rows, blocks, 32): low halves first, then high ones."""
    return np.concatenate([field & _LOW, field >> _HALF], axis=-1)


def _fifth_bits(field: Bytes) -> Bytes:
    """(rows, blocks, 4) -> (rows, blocks, 32): bit i of the field is bit 4 of code i."""
    return np.unpackbits(field, axis=-1, bitorder="little") << _HALF


def _flat(blocks: NDArray) -> NDArray:
    return blocks.reshape(blocks.shape[0], -1)


def _q4_0(raw: Bytes) -> Affine:
    d, codes = _blocks(raw, GGMLQuantizationType.Q4_0, 2, 16)
    return _flat(_nibbles(codes)), _half(d), _half(d) * np.float16(-8)


def _q4_1(raw: Bytes) -> Affine:
    d, m, codes = _blocks(raw, GGMLQuantizationType.Q4_1, 2, 2, 16)
    return _flat(_nibbles(codes)), _half(d), _half(m)


def _q5_0(raw: Bytes) -> Affine:
    d, high, low = _blocks(raw, GGMLQuantizationType.Q5_0, 2, 4, 16)
    return _flat(_nibbles(low) | _fifth_bits(high)), _half(d), _half(d) * np.float16(-16)


def _q5_1(raw: Bytes) -> Affine:
    d, m, high, low = _blocks(raw, GGMLQuantizationType.Q5_1, 2, 2, 4, 16)
    return _flat(_nibbles(low) | _fifth_bits(high)), _half(d), _half(m)


def _q8_0(raw: Bytes) -> Affine:
    d, signed = _blocks(raw, GGMLQuantizationType.Q8_0, 2, 32)
    # Flipping the sign bit of a two's complement byte adds 128 to it.
    return _flat(signed ^ np.uint8(128)), _half(d), _half(d) * np.float16(-128)


def _k_nibbles(field: Bytes) -> Bytes:
    """(rows, blocks, 128) -> (rows, blocks, 8, 32): 32 bytes hold two groups, low halves first."""
    pairs = field.reshape(*field.shape[:2], 4, 1, 32)
    return np.concatenate([pairs & _LOW, pairs >> _HALF], axis=-2).reshape(*field.shape[:2], 8, 32)


def _k_scales(
    d: Bytes, dmin: Bytes, field: Bytes
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """The scale and bias of each group, from 12 bytes that hold eight pairs of 6-bit factors.

    The product of a float16 and a 6-bit integer needs up to 17 bits; it is rounded to float16,
    because float32 scales would make MLX compute in float32. Measured error: up to 6.8e-4.
    """
    a, b, c = field[..., 0:4], field[..., 4:8], field[..., 8:12]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], axis=-1).astype(np.float32)
    least = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], axis=-1).astype(np.float32)
    scales = _half(d).astype(np.float32)[..., None] * scale
    biases = _half(dmin).astype(np.float32)[..., None] * -least
    return _flat(scales).astype(np.float16), _flat(biases).astype(np.float16)


def _q4_k(raw: Bytes) -> Affine:
    d, dmin, factors, codes = _blocks(raw, GGMLQuantizationType.Q4_K, 2, 2, 12, 128)
    return _flat(_k_nibbles(codes)), *_k_scales(d, dmin, factors)


def _q5_k(raw: Bytes) -> Affine:
    d, dmin, factors, high, low = _blocks(raw, GGMLQuantizationType.Q5_K, 2, 2, 12, 32, 128)
    group = np.arange(_K_GROUPS, dtype=np.uint8)[:, None]
    fifth = (high[..., None, :] >> group & np.uint8(1)) << _HALF
    return _flat(_k_nibbles(low) | fifth), *_k_scales(d, dmin, factors)


PACKED: dict[GGMLQuantizationType, Packed] = {
    GGMLQuantizationType.Q4_0: Packed(4, _q4_0),
    GGMLQuantizationType.Q4_1: Packed(4, _q4_1),
    GGMLQuantizationType.Q5_0: Packed(5, _q5_0),
    GGMLQuantizationType.Q5_1: Packed(5, _q5_1),
    GGMLQuantizationType.Q8_0: Packed(8, _q8_0),
    GGMLQuantizationType.Q4_K: Packed(4, _q4_k),
    GGMLQuantizationType.Q5_K: Packed(5, _q5_k),
}
