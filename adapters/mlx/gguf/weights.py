# pyright: basic
"""Write `model.safetensors` tensor by tensor and check each as written.

A few million weights are in memory at a time, regardless of the size of the model.

Source: https://huggingface.co/docs/safetensors (the format: length, JSON header, data)
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGML
from gguf import ReaderTensor
from numpy.typing import NDArray

from adapters.gguf.conversion import InexactGGUFError, TensorReport, UnsupportedGGUFError
from adapters.mlx.gguf.packing import PACKED, Microscaled, Packed, Parts

GATE = 1e-3
"""The largest relative L2 difference between a source tensor and the written one."""
CHUNK = 1 << 22
"""Weights that are converted at once: memory is bounded by these, whatever the tensor's size."""
_DTYPES: dict[str, np.dtype] = {
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits
}
_FLOATS = {GGML.F32: "F32", GGML.F16: "F16", GGML.BF16: "BF16"}

Progress = Callable[[int, int], None]
"""Called with the number of converted bytes of the source, and its size."""


@dataclass(frozen=True)
class Plain:
    """Storage of a tensor as floats."""

    dtype: str
    source: GGML
    suffix: str = "weight"
    offset: float = 0.0
    """The source's values minus those that are written."""
    is_logarithm: bool = False
    """True if the logarithm of the negative of the source's values is written."""

    @property
    def label(self) -> str:
        return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[self.dtype]

    def layout(self, *shape: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {self.suffix: (self.dtype, shape)}

    def encode(self, raw: NDArray) -> Parts:
        if self.is_logarithm:
            values = gguf.dequantize(raw, self.source).astype(np.float64)
            return {self.suffix: np.log(-values).astype(np.float32)}
        if _FLOATS.get(self.source) == self.dtype and not self.offset:
            return {self.suffix: raw.view(_DTYPES[self.dtype])}
        values = gguf.dequantize(raw, self.source) - np.float32(self.offset)
        if self.dtype == "BF16":
            return {self.suffix: gguf.quantize(values, GGML.BF16).view("<u2")}
        return {self.suffix: values.astype(_DTYPES[self.dtype])}

    def decode(self, parts: Parts) -> NDArray[np.float32]:
        """The values that MLX computes with, as float32."""
        stored = parts[self.suffix]
        if self.dtype == "BF16":
            values = (stored.astype("<u4") << 16).view(np.float32)
        else:
            values = stored.astype(np.float32)
        if self.is_logarithm:
            return -np.exp(values.astype(np.float64)).astype(np.float32)
        return values + np.float32(self.offset)


@dataclass(frozen=True)
class Plan:
    """Target and storage of one tensor of the source."""

    tensor: ReaderTensor
    module: str
    """`model.layers.0.self_attn.q_proj`"""
    form: Packed | Microscaled | Plain
    rows: NDArray[np.intp] | None = None
    """Index of the source's row for each written row, if the order differs."""
    columns: NDArray[np.intp] | None = None
    """The same of slices of the columns, all of one width."""
    added_axis: int | None = None
    """Place of an axis of length one that the written array has in addition."""

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(int(n) for n in reversed(self.tensor.shape))
        if self.added_axis is None:
            return shape
        return (*shape[: self.added_axis], 1, *shape[self.added_axis :])


@dataclass(frozen=True)
class _Part:
    """Type, shape and position of one array in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Offset in bytes from the end of the header."""

    @property
    def row_bytes(self) -> int:
        return _DTYPES[self.dtype].itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def end(self) -> int:
        return self.begin + self.row_bytes * self.shape[0]


def plain_or_packed(
    tensor: ReaderTensor,
    working: str,
    offset: float = 0.0,
    suffix: str = "weight",
    *,
    is_vector: bool = False,
) -> Packed | Microscaled | Plain:
    """Choose the storage of `tensor` minus `offset`. Vectors, what is like one (`is_vector`), and
    the biases of experts get the `working` type if they fit.

    MLX computes in the widest type of its inputs, and norms in a GGUF are always float32: as
    float32 they would make all activations and the key-value cache float32.

    Raises:
        UnsupportedGGUFError: the type of the tensor is not supported.
    """
    kind = tensor.tensor_type
    if len(tensor.shape) > 1 and kind in PACKED:
        return PACKED[kind]
    if len(tensor.shape) > 1 and kind == GGML.MXFP4:
        return Microscaled()
    if kind == GGML.F32 and (is_vector or len(tensor.shape) == 1 or suffix == "bias"):
        small = Plain(working, kind, suffix, offset)
        with np.errstate(over="ignore"):
            stored = small.decode(small.encode(tensor.data))
        error = np.linalg.norm(stored - tensor.data)
        fits = error <= GATE * np.linalg.norm(tensor.data)
        return small if fits else Plain("F32", kind, suffix, offset)
    if kind in _FLOATS:
        return Plain(_FLOATS[kind], kind, suffix)
    if kind == GGML.Q6_K:
        # Its groups have 16 weights, MLX's at least 32: no quantised form is exact.
        return Plain("F16", kind)
    raise UnsupportedGGUFError(f"The type {kind.name} of '{tensor.name}' is not supported.")


def working_type(tensors: Sequence[ReaderTensor]) -> str:
    """The float type MLX computes in: that of the matrices, float16 if they are quantised."""
    matrices = {
        tensor.tensor_type
        for tensor in tensors
        if len(tensor.shape) > 1 and not tensor.name.endswith(".bias")
    }
    if matrices - {GGML.MXFP4, GGML.F32} == {GGML.BF16}:
        return "BF16"
    return "F32" if matrices == {GGML.F32} else "F16"


def write_weights(
    path: Path, plans: Sequence[Plan], progress: Progress, *, chunk: int = CHUNK
) -> list[TensorReport]:
    """Write all of `plans` to `path`, `chunk` weights at once; check each by reading it back.

    Raises:
        InexactGGUFError: a tensor differs by more than `GATE`.
        OSError: the file cannot be written.
    """
    parts = _lay_out(plans)
    total = sum(int(plan.tensor.n_bytes) for plan in plans)
    done, reports = 0, []
    progress(done, total)
    with path.open("w+b") as file:
        start = _write_header(file, parts)
        for plan in plans:
            for first, last in _chunks(plan, chunk):
                raw = _flat(_source_rows(plan, first, last), plan)
                for suffix, encoded in plan.form.encode(raw).items():
                    array = sliced(encoded, plan.columns)
                    part = parts[f"{plan.module}.{suffix}"]
                    file.seek(start + part.begin + first * part.row_bytes)
                    file.write(array.astype(_DTYPES[part.dtype], copy=False).tobytes())
            reports.append(_check_tensor(file, start, plan, parts, chunk))
            done += int(plan.tensor.n_bytes)
            progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    return reports


def _lay_out(plans: Sequence[Plan]) -> dict[str, _Part]:
    """Assign positions to all arrays; four-byte types first, so that arrays are aligned."""
    named = [
        (f"{plan.module}.{suffix}", dtype, shape)
        for plan in plans
        for suffix, (dtype, shape) in plan.form.layout(*plan.shape).items()
    ]
    parts: dict[str, _Part] = {}
    begin = 0
    for name, dtype, shape in sorted(named, key=lambda part: -_DTYPES[part[1]].itemsize):
        parts[name] = _Part(dtype, shape, begin)
        begin = parts[name].end
    return parts


def _write_header(file: IO[bytes], parts: dict[str, _Part]) -> int:
    """Write the header; returns the offset of the data."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    for name, part in parts.items():
        header[name] = {
            "dtype": part.dtype,
            "shape": part.shape,
            "data_offsets": (part.begin, part.end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return file.tell()


def relative_error(chunks: Iterable[tuple[NDArray, NDArray]]) -> float:
    """L2 norm of written minus expected values, over that of the expected values.

    `chunks` are (expected, written) values of parts of one tensor.
    """
    difference = norm = 0.0
    for expected, written in chunks:
        difference += float(np.square(written - expected, dtype=np.float64).sum())
        norm += float(np.square(expected, dtype=np.float64).sum())
    return float(np.sqrt(difference / norm)) if norm else float(difference > 0)


def sliced(rows: NDArray, order: NDArray[np.intp] | None) -> NDArray:
    """`rows` with the slices of their columns in another order."""
    if order is None:
        return rows
    return rows.reshape(len(rows), len(order), -1)[:, order].reshape(len(rows), -1)


def _check_tensor(
    file: IO[bytes], start: int, plan: Plan, parts: dict[str, _Part], chunk: int
) -> TensorReport:
    def compared(first: int, last: int) -> tuple[NDArray, NDArray]:
        raw = _flat(_source_rows(plan, first, last), plan)
        expected = sliced(gguf.dequantize(raw, plan.tensor.tensor_type), plan.columns)
        written = plan.form.decode(_read_rows(file, start, plan, parts, first, last))
        return expected, written.reshape(expected.shape)

    relative = relative_error(compared(first, last) for first, last in _chunks(plan, chunk))
    if not relative <= GATE:  # NaN too
        raise InexactGGUFError(
            f"'{plan.tensor.name}' ({plan.tensor.tensor_type.name}) differs from the source by "
            f"{relative:.1e} as {plan.form.label}; at most {GATE:.0e} is allowed."
        )
    return TensorReport(plan.tensor.name, plan.tensor.tensor_type.name, plan.form.label, relative)


def _chunks(plan: Plan, chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows with at most `chunk` weights each."""
    rows = plan.shape[0]
    step = max(1, chunk * rows // int(plan.tensor.n_elements))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _flat(array: NDArray, plan: Plan) -> NDArray:
    """The rows of all experts one after the other: (…, columns) -> (rows, columns)."""
    return array.reshape(-1) if len(plan.shape) == 1 else array.reshape(-1, array.shape[-1])


def _source_rows(plan: Plan, first: int, last: int) -> NDArray:
    data = plan.tensor.data[None] if plan.added_axis == 0 else plan.tensor.data
    return np.ascontiguousarray(
        data[first:last] if plan.rows is None else data[plan.rows[first:last]]
    )


def _read_rows(
    file: IO[bytes], start: int, plan: Plan, parts: dict[str, _Part], first: int, last: int
) -> Parts:
    arrays: Parts = {}
    for suffix in plan.form.layout(*plan.shape):
        part = parts[f"{plan.module}.{suffix}"]
        file.seek(start + part.begin + first * part.row_bytes)
        data = file.read((last - first) * part.row_bytes)
        array = np.frombuffer(data, _DTYPES[part.dtype]).reshape(-1, *part.shape[1:])
        arrays[suffix] = _flat(array, plan)
    return arrays
