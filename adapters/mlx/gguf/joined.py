# pyright: basic
"""Tensors of a GGUF that are one in MLX, without a copy of them all: rows are read when used."""

from collections.abc import Iterator, Mapping, Sequence

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGML
from gguf import ReaderTensor
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import Architecture, Fields
from adapters.mlx.gguf.packing import PACKED

_FACTORS = 16
"""Bytes of a block of Q4_K or Q5_K before its codes: those of Q5_K begin with the highest bits."""
_HIGHEST_BITS = 32


class _Rows:
    """The rows of `tensors` in the order of `order`, as blocks of `kind`."""

    def __init__(
        self, tensors: Sequence[ReaderTensor], order: NDArray[np.intp], kind: GGML
    ) -> None:
        self._tensors = tensors
        self._order = order
        self._kind = kind

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> NDArray:
        rows, found, first = self._order[chosen], {}, 0
        for tensor in self._tensors:
            last = first + int(tensor.shape[-1])
            places = np.flatnonzero((rows >= first) & (rows < last))
            data = _as_kind(tensor.data[rows[places] - first], tensor.tensor_type, self._kind)
            found |= zip(places, data, strict=True)
            first = last
        return np.stack([found[place] for place in range(len(rows))])


def joined(
    architecture: Architecture, fields: Fields, tensors: Sequence[ReaderTensor]
) -> Iterator[ReaderTensor]:
    """`tensors` with one in place of those that are its parts in MLX.

    Raises:
        UnsupportedGGUFError: the types of the parts do not fit each other.
    """
    left = {tensor.name: tensor for tensor in tensors}
    for index in range(int(fields["block_count"])):
        for whole in architecture.varied(fields, index):
            parts = architecture.parts(fields, whole)
            names = [f"blk.{index}.{part}.weight" for part in parts]
            if names and left.keys() >= set(names):
                own = [left.pop(name) for name in names]
                yield _whole(f"blk.{index}.{whole}.weight", own, parts)
    yield from left.values()


def _whole(
    name: str, tensors: Sequence[ReaderTensor], parts: Mapping[str, NDArray[np.intp]]
) -> ReaderTensor:
    order = np.argsort(np.concatenate(list(parts.values())))
    kind = _common_kind(name, {tensor.tensor_type for tensor in tensors})
    rows = sum(int(tensor.shape[-1]) for tensor in tensors)
    if rows != len(order):
        raise UnsupportedGGUFError(f"'{name}' has {rows} rows, not {len(order)}.")
    return tensors[0]._replace(
        name=name,
        tensor_type=kind,
        shape=np.array([tensors[0].shape[0], rows]),
        n_elements=sum(int(tensor.n_elements) for tensor in tensors),
        n_bytes=sum(int(tensor.n_bytes) for tensor in tensors),
        data=_Rows(tensors, order, kind),
    )


def _common_kind(name: str, kinds: set[GGML]) -> GGML:
    """A type for all rows: Q5_K has every value of Q4_K, float16 those of others but a rounding."""
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds == {GGML.Q4_K, GGML.Q5_K}:
        return GGML.Q5_K
    if kinds <= {*PACKED, GGML.Q6_K, GGML.F16}:
        return GGML.F16
    names = " and ".join(sorted(kind.name for kind in kinds))
    raise UnsupportedGGUFError(f"The parts of '{name}' in {names} are not supported.")


def _as_kind(data: NDArray, own: GGML, kind: GGML) -> NDArray:
    if own == kind:
        return data
    if kind == GGML.F16:
        return gguf.quantize(gguf.dequantize(data, own), kind)
    blocks = data.reshape(len(data), -1, gguf.GGML_QUANT_SIZES[own][1])
    zeros = np.zeros((*blocks.shape[:2], _HIGHEST_BITS), np.uint8)
    parts = [blocks[..., :_FACTORS], zeros, blocks[..., _FACTORS:]]
    return np.concatenate(parts, axis=-1).reshape(len(data), -1)
