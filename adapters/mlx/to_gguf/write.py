# pyright: basic
"""Write a folder as one GGUF file and check every tensor as written."""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGML
from numpy.typing import NDArray

from adapters.gguf.conversion import InexactGGUFError, TensorReport, UnsupportedGGUFError
from adapters.mlx.gguf.architectures.row import Architecture, Fields
from adapters.mlx.gguf.architectures.table import Place, added_axis, offset, places, row_order
from adapters.mlx.gguf.weights import GATE, Progress, relative_error, sliced
from adapters.mlx.to_gguf.arrays import StoredArray, read_arrays
from adapters.mlx.to_gguf.blocks import Affine, Microscaled
from adapters.mlx.to_gguf.settings import architecture_of, flattened, head_dim, settings
from adapters.mlx.to_gguf.vocabulary import vocabulary

_ROWS_AT_ONCE = 4096
_FLOATS = {"F32": GGML.F32, "F16": GGML.F16, "BF16": GGML.BF16}
_FILE_TYPES = {
    GGML.F32: gguf.LlamaFileType.ALL_F32,
    GGML.F16: gguf.LlamaFileType.MOSTLY_F16,
    GGML.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    GGML.Q4_1: gguf.LlamaFileType.MOSTLY_Q4_1,
    GGML.Q5_1: gguf.LlamaFileType.MOSTLY_Q5_1,
    GGML.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    GGML.MXFP4: gguf.LlamaFileType.MOSTLY_MXFP4_MOE,
}


@dataclass(frozen=True)
class Written:
    origin: str
    """`sha256:…` of the file."""
    bytes: int
    architecture: str
    tensors: tuple[TensorReport, ...]


@dataclass(frozen=True)
class Outgoing:
    """A tensor of the file and the source of its rows."""

    name: str
    kind: GGML
    shape: tuple[int, ...]
    values: Callable[[NDArray[np.intp]], NDArray[np.float32]]
    """Row indices in the folder -> values that MLX computes with, plus GGUF's offset."""
    encode: Callable[[NDArray[np.intp]], NDArray[np.uint8]]
    rows: NDArray[np.intp]
    """Index of the folder's row for each row of the file."""
    stored: str
    """Storage in the folder, for the report."""


def write_gguf(folder: Path, target: Path, progress: Progress) -> Written:
    """Convert the model in `folder` to the file `target`.

    Raises:
        UnsupportedGGUFError: a part of the model is not supported.
        InexactGGUFError: a written tensor differs from the folder's.
        OSError: a file cannot be read or written.
    """
    config = flattened(json.loads((folder / "config.json").read_text("utf-8")))
    name, architecture = architecture_of(config)
    config = {**architecture.defaults, **config}
    fields = settings(config)
    own = {f"{name}.{key}": value for key, value in fields.items()}
    tensors = _outgoing(architecture, config, fields, read_arrays(folder))
    rows = next(int(t.shape[0]) for t in tensors if t.name == "token_embd.weight")
    # The type of most weights, as `ollama list` and `show` print it.
    weights: Counter[GGML] = Counter()
    for tensor in tensors:
        if len(tensor.shape) > 1:
            weights[tensor.kind] += int(np.prod(tensor.shape))
    [(kind, _)] = weights.most_common(1)
    metadata = own | {"general.file_type": int(_FILE_TYPES[kind])}
    metadata |= vocabulary(folder, config, rows, architecture.spaced_vocabulary)
    _write(target, name, metadata, tensors, progress)
    read_back = {tensor.name: tensor.data for tensor in gguf.GGUFReader(target).tensors}
    reports = tuple(_check(tensor, read_back[tensor.name]) for tensor in tensors)
    with target.open("rb") as file:
        origin = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return Written(origin, target.stat().st_size, name, reports)


def _outgoing(
    architecture: Architecture,
    config: Mapping[str, Any],
    fields: Fields,
    arrays: Mapping[str, StoredArray],
) -> list[Outgoing]:
    output = f"{architecture.prefix}lm_head.weight"
    is_tied = bool(config.get("tie_word_embeddings")) or output not in arrays
    tensors: list[Outgoing] = []
    unused = set(arrays)
    traits = {setting for setting in architecture.optional.values() if config.get(setting)}
    for name, place in places(architecture, fields, traits, tied=is_tied).items():
        parts = _parts(place.module, place.suffix, arrays)
        unused -= parts.keys()
        tensor = _tensor(architecture, config, fields, name, place, parts)
        tensors += _separated(tensor, place.source, architecture.parts(fields, place.source))
    if unused:
        raise _unsupported(min(unused))
    if (factors := architecture.table(config, head_dim(config))) is not None:
        table = StoredArray("F32", factors.astype(np.float32))
        rows = np.arange(len(factors), dtype=np.intp)
        tensors.append(_plain("rope_freqs.weight", table, 0.0, rows))
    return tensors


_TOWERS = (
    "vision_tower",
    "vision_model",
    "vision_embedder",
    "visual",
    "audio_tower",
    "multi_modal_projector",
    "embed_vision",
    "embed_audio",
)


def _unsupported(name: str) -> UnsupportedGGUFError:
    if any(part in _TOWERS for part in name.split(".")):
        return UnsupportedGGUFError(
            f"A part that reads images or sound is not supported (tensor '{name}'). Export a "
            "folder with the text model alone, as 'mlx_lm.convert' makes it of the same model."
        )
    return UnsupportedGGUFError(f"The tensor '{name}' is not supported.")


def _separated(
    tensor: Outgoing, source: str, parts: Mapping[str, NDArray[np.intp]]
) -> list[Outgoing]:
    """`tensor`, or the ones that a GGUF has in its place."""
    if not parts:
        return [tensor]
    return [
        replace(
            tensor,
            name=tensor.name.replace(f".{source}.", f".{part}."),
            shape=(len(rows), *tensor.shape[1:]),
            rows=rows,
        )
        for part, rows in parts.items()
    ]


def _parts(module: str, suffix: str, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    suffixes = ("weight", "scales", "biases") if suffix == "weight" else (suffix,)
    names = {f"{module}.{suffix}" for suffix in suffixes} & arrays.keys()
    if f"{module}.{suffixes[0]}" not in names:
        raise UnsupportedGGUFError(f"The tensor '{module}.{suffixes[0]}' is missing.")
    return {part: arrays[part] for part in names}


def _tensor(
    architecture: Architecture,
    config: Mapping[str, Any],
    fields: Fields,
    name: str,
    place: Place,
    parts: Mapping[str, StoredArray],
) -> Outgoing:
    axis = added_axis(architecture, place)

    def rows(count: int) -> NDArray[np.intp]:
        """Row order of the file: the reverse of that of an import."""
        order = row_order(architecture, fields, place, count)
        return np.arange(count, dtype=np.intp) if order is None else np.argsort(order)

    if len(parts) == 1:
        [array] = parts.values()
        if place.source in architecture.logarithms:
            exponential = -np.exp(array.as_float32().astype(np.float64)).astype(np.float32)
            array = StoredArray("F32", exponential)
        if axis:
            array = StoredArray("F32", array.as_float32().squeeze())
        shape: tuple[int, ...] = array.data.shape
        count = int(np.prod(shape[:-1] if len(shape) > 1 else shape))
        tensor = _plain(name, array, offset(architecture, place), rows(count))
    else:
        tensor = _packed(config, name, place.module, parts, rows)
    if axis == 0:
        return _as_vector(tensor)
    if len(tensor.shape) == 1 and (own := architecture.shape(fields, place.source)) is not None:
        return replace(tensor, shape=own)
    return _with_columns(tensor, architecture.column_order(fields, place.source))


def _packed(
    config: Mapping[str, Any],
    name: str,
    module: str,
    parts: Mapping[str, StoredArray],
    rows: Callable[[int], NDArray[np.intp]],
) -> Outgoing:
    settings = _quantization(config, module)
    weight, scales = parts[f"{module}.weight"], parts[f"{module}.scales"]
    if settings.get("mode", "affine") == "mxfp4":
        matrix, stored = Microscaled(weight, scales), "MXFP4 groups of 32"
    else:
        bits, group = int(settings["bits"]), int(settings["group_size"])
        matrix = Affine(weight, scales, parts[f"{module}.biases"], bits=bits, group=group)
        stored = f"{bits}-bit groups of {group}"
    kind = matrix.kind()
    return Outgoing(
        name=name,
        kind=kind,
        shape=matrix.shape,
        values=matrix.values,
        encode=lambda rows: matrix.encode(rows, kind),
        rows=rows(int(np.prod(matrix.shape[:-1]))),
        stored=stored,
    )


def _with_columns(tensor: Outgoing, order: NDArray[np.intp] | None) -> Outgoing:
    """`tensor` with the columns of the file: the reverse of those of an import."""
    if order is None:
        return tensor
    back = np.argsort(order)
    return replace(
        tensor,
        values=lambda rows: sliced(tensor.values(rows), back),
        encode=lambda rows: sliced(tensor.encode(rows), back),
    )


def _as_vector(tensor: Outgoing) -> Outgoing:
    """A matrix of one row as a vector, which llama.cpp requires in float32."""
    [columns] = tensor.shape[1:]

    def values(chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        return tensor.values(np.zeros(1, np.intp)).reshape(-1)[chosen]

    return Outgoing(
        name=tensor.name,
        kind=GGML.F32,
        shape=(columns,),
        values=values,
        encode=lambda chosen: values(chosen).view(np.uint8),
        rows=np.arange(columns, dtype=np.intp),
        stored=tensor.stored,
    )


def _plain(name: str, array: StoredArray, offset: float, rows: NDArray[np.intp]) -> Outgoing:
    # llama.cpp requires vectors in float32, also those of experts.
    is_vector = array.data.ndim == 1 or name.endswith(".bias")
    kind = GGML.F32 if is_vector else _FLOATS[array.dtype]
    data = array.data if array.data.ndim == 1 else array.data.reshape(-1, array.data.shape[-1])

    def values(chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        return StoredArray(array.dtype, data[chosen]).as_float32() + np.float32(offset)

    return Outgoing(
        name=name,
        kind=kind,
        shape=array.data.shape,
        values=values,
        encode=lambda chosen: gguf.quantize(values(chosen), kind).view(np.uint8),
        rows=rows,
        stored=array.dtype,
    )


def _quantization(config: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """Bits, group size and mode of a module."""
    default = config.get("quantization") or {}
    own = default.get(module)
    settings = own if isinstance(own, dict) else default
    if settings.get("mode", "affine") not in ("affine", "mxfp4"):
        raise UnsupportedGGUFError(f"The mode '{settings['mode']}' of '{module}' is not supported.")
    return settings


def _write(
    target: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: list[Outgoing],
    progress: Progress,
) -> None:
    writer = gguf.GGUFWriter(target, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for tensor in tensors:
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        size = int(np.prod(shape, dtype=np.int64))
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size, tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    progress(0, len(tensors))
    for done, tensor in enumerate(tensors, 1):
        with _full_disk():
            writer.write_tensor_data(tensor.encode(tensor.rows))
        progress(done, len(tensors))
    writer.close()


@contextmanager
def _full_disk() -> Generator[None]:
    """Give numpy's error for a full disk, which has no number, that of the system."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add metadata; integers become uint32, as in files of llama.cpp's converter."""
    if isinstance(value, int) and not isinstance(value, bool):
        writer.add_uint32(key, value)
        return
    kind = gguf.GGUFValueType.get_type(value)
    inner = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
    writer.add_key_value(key, value, kind, sub_type=inner)


def _check(tensor: Outgoing, data: NDArray) -> TensorReport:
    """Compare a written tensor, decoded like llama.cpp does it, with its source."""
    rows = len(tensor.rows)
    data = data.reshape(rows, -1) if len(tensor.shape) > 1 else data
    starts = range(0, rows, _ROWS_AT_ONCE)
    chunks = [(first, min(first + _ROWS_AT_ONCE, rows)) for first in starts]
    relative = relative_error(
        (
            tensor.values(tensor.rows[first:last]).reshape(-1),
            gguf.dequantize(np.ascontiguousarray(data[first:last]), tensor.kind).reshape(-1),
        )
        for first, last in chunks
    )
    if not relative <= GATE:  # NaN too
        raise InexactGGUFError(
            f"'{tensor.name}' differs by {relative:.1e} as {tensor.kind.name}; "
            f"at most {GATE:.0e} is allowed."
        )
    return TensorReport(tensor.name, tensor.stored, tensor.kind.name, relative)
