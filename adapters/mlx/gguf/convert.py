# pyright: basic
"""Convert one GGUF file to one folder, which appears complete or not at all."""

import fcntl
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, ReaderTensor
from msgspec import ValidationError, to_builtins

from adapters.gguf.conversion import (
    REPORT,
    TensorReport,
    UnsupportedGGUFError,
    is_intact,
    sha256_of,
)
from adapters.gguf.tokenizer import end_tokens, write_tokenizer
from adapters.mlx.gguf.architectures.row import Architecture, Fields
from adapters.mlx.gguf.architectures.table import (
    Place,
    added_axis,
    left_out,
    nested,
    offset,
    places,
    read_architecture,
    read_config,
    require_tensors,
    row_order,
    traits,
)
from adapters.mlx.gguf.joined import joined
from adapters.mlx.gguf.packing import Microscaled, Packed
from adapters.mlx.gguf.weights import (
    CHUNK,
    Plain,
    Plan,
    Progress,
    plain_or_packed,
    working_type,
    write_weights,
)
from adapters.recommended_sampling import RecommendedSampling, in_gguf

_BLOB = re.compile(r"sha256-([0-9a-f]{64})")


@dataclass(frozen=True)
class Report:
    """Result of a conversion, stored in the folder as `conversion.json`."""

    source: str
    """Name of the file, without its folder."""
    source_bytes: int
    origin: str
    """`sha256:…` of the file."""
    architecture: str
    weights_bytes: int
    """Size of `model.safetensors`."""
    tensors: tuple[TensorReport, ...]
    left_out: tuple[str, ...] = ()
    """Tensors of the source that do not take part in an answer, and are not in the folder."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the folder, by name, but for the report and what came later."""

    @property
    def worst(self) -> TensorReport:
        return max(self.tensors, key=lambda tensor: tensor.relative_l2)

    @property
    def exact(self) -> int:
        """Number of tensors that are identical to the last bit."""
        return sum(tensor.relative_l2 == 0 for tensor in self.tensors)


def convert(
    source: Path,
    target: Path,
    progress: Progress,
    *,
    chunk: int = CHUNK,
    owned: bool = False,
    sampling: RecommendedSampling | None = None,
    stops: Collection[str] = (),
) -> Report:
    """Convert the file `source` to the folder `target`, unless an earlier call has done it.

    Concurrent processes wait for the first one. A hidden sibling of `target` is written and renamed
    at the end: the remains of a killed process are never mistaken for a model. A folder with
    files that changed since is made anew; `owned`: also one without a report, because `target` is
    the converter's in any case. `chunk` weights of a tensor are in memory at once.
    `sampling` replaces the recommendation in the file. Control tokens among `stops` end answers.

    Raises:
        UnsupportedGGUFError: a part of the file is not supported, or it is not a GGUF.
        InexactGGUFError: a written tensor differs from the source.
        FileExistsError: `target` exists and was not made from `source`.
        OSError: the file cannot be read, the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        # Released at the end or when the process dies.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            intact = is_intact(target)
            if intact or not owned:
                report = _earlier_report(source, target)
                if intact:
                    return report
            shutil.rmtree(target)
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            report = _write_folder(source, partial, progress, chunk, sampling, stops)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return report


def _earlier_report(source: Path, target: Path) -> Report:
    try:
        saved = json.loads((target / REPORT).read_text("utf-8"))
        tensors = tuple(TensorReport(**tensor) for tensor in saved.pop("tensors"))
        left_out = tuple(saved.pop("left_out", ()))
        report = Report(**saved, tensors=tensors, left_out=left_out)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise FileExistsError(f"{target} exists and was not made by this converter.") from exc
    if (report.source, report.source_bytes) != (source.name, source.stat().st_size):
        raise FileExistsError(f"{target} exists and was made from '{report.source}'.")
    return report


def _write_folder(
    source: Path,
    folder: Path,
    progress: Progress,
    chunk: int,
    sampling: RecommendedSampling | None,
    stops: Collection[str],
) -> Report:
    metadata, everything = _read(source)
    everything = list(_separated(everything))
    architecture, fields = read_architecture(metadata)
    everything = list(joined(architecture, fields, everything))
    everything = [_flattened(architecture, fields, tensor) for tensor in everything]
    absent = left_out(architecture, fields, {tensor.name for tensor in everything})
    tensors = [tensor for tensor in everything if tensor.name not in absent]
    names = {tensor.name for tensor in tensors}
    own = traits(architecture, names)
    found = places(architecture, fields, own, tied="output.weight" not in names)
    require_tensors(architecture, found.keys(), names)
    config = read_config(architecture, fields, own)
    _add_vocabulary(architecture, config, metadata, tensors, stops)
    for tensor in tensors:
        if tensor.name == "rope_freqs.weight":
            config |= architecture.read_table(np.asarray(tensor.data, np.float32), config)
    plans = _plan(architecture, fields, found, tensors)
    if quantization := _quantization(plans):
        config["quantization"] = quantization
    write_tokenizer(folder, metadata, config["max_position_embeddings"])
    _write_json(folder / "config.json", nested(architecture, config))
    if recommended := to_builtins(sampling or _recommended(metadata)):
        _write_json(folder / "generation_config.json", recommended)
    weights = folder / "model.safetensors"
    reports = write_weights(weights, plans, progress, chunk=chunk)
    report = Report(
        source=source.name,
        source_bytes=source.stat().st_size,
        origin=_origin(source),
        architecture=architecture.model_type,
        weights_bytes=weights.stat().st_size,
        tensors=tuple(reports),
        left_out=tuple(absent),
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )
    _write_json(folder / REPORT, asdict(report))
    return report


def _origin(source: Path) -> str:
    """`sha256:…` of the file, from the name of a blob of Ollama's or computed."""
    if match := _BLOB.fullmatch(source.name):
        return f"sha256:{match[1]}"
    return f"sha256:{sha256_of(source)}"


def _read(source: Path) -> tuple[dict[str, Any], list[ReaderTensor]]:
    """Metadata and tensors; the data of tensors is read from the file when it is used."""
    source.stat()  # Raises if the file is missing, which is not a malformed GGUF.
    try:
        reader = GGUFReader(source)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as exc:
        raise UnsupportedGGUFError(f"'{source.name}' cannot be read as GGUF: {exc}") from exc
    if reader.endianess != gguf.GGUFEndian.LITTLE:
        raise UnsupportedGGUFError("A big-endian GGUF is not supported.")
    if metadata.get("split.count", 1) > 1:
        raise UnsupportedGGUFError("A model split over several GGUF files is not supported.")
    return metadata, reader.tensors


_FUSED = ".ffn_gate_up_exps."
"""The rows of each expert's gate, then those of its other matrix: MLX has two tensors."""


def _separated(tensors: Sequence[ReaderTensor]) -> Iterator[ReaderTensor]:
    """`tensors` with two in place of each fused one."""
    for tensor in tensors:
        if _FUSED not in tensor.name:
            yield tensor
            continue
        columns, rows, experts = (int(size) for size in tensor.shape)
        halves = np.split(tensor.data, 2, axis=1)
        for name, data in zip((".ffn_gate_exps.", ".ffn_up_exps."), halves, strict=True):
            yield tensor._replace(
                name=tensor.name.replace(_FUSED, name),
                shape=np.array([columns, rows // 2, experts]),
                n_elements=tensor.n_elements // 2,
                n_bytes=tensor.n_bytes // 2,
                data=data,
            )


def _flattened(architecture: Architecture, fields: Fields, tensor: ReaderTensor) -> ReaderTensor:
    """`tensor` as a vector, if it is one in MLX."""
    source = tensor.name.split(".")[2:3]
    if not source or (shape := architecture.shape(fields, source[0])) is None:
        return tensor
    if tensor.data.shape != shape:
        raise UnsupportedGGUFError(f"'{tensor.name}' has not the shape {shape}.")
    return tensor._replace(shape=np.array([tensor.n_elements]), data=tensor.data.reshape(-1))


def _recommended(metadata: Mapping[str, Any]) -> RecommendedSampling:
    try:
        return in_gguf(metadata)
    except ValidationError as exc:
        raise UnsupportedGGUFError(
            f"The recommended sampling of the file is wrong: {exc}."
        ) from exc


def _add_vocabulary(
    architecture: Architecture,
    config: dict[str, Any],
    metadata: Mapping[str, Any],
    tensors: Sequence[ReaderTensor],
    stops: Collection[str],
) -> None:
    by_name = {tensor.name: tensor for tensor in tensors}
    rows = int(by_name["token_embd.weight"].shape[1])
    config |= dict.fromkeys(architecture.vocabulary_sizes, rows)
    config["tie_word_embeddings"] = "output.weight" not in by_name
    config["eos_token_id"] = end_tokens(metadata, stops)
    for setting, token in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if (index := metadata.get(f"tokenizer.ggml.{token}_token_id")) is not None:
            config[setting] = index
    tokens = len(metadata.get("tokenizer.ggml.tokens", ()))
    if tokens > config["vocab_size"]:
        raise UnsupportedGGUFError(
            f"The vocabulary has {tokens} tokens, the embedding {config['vocab_size']} rows."
        )


def _plan(
    architecture: Architecture,
    fields: Fields,
    found: Mapping[str, Place],
    tensors: Sequence[ReaderTensor],
) -> list[Plan]:
    working = working_type(tensors)
    return [
        Plan(
            tensor,
            place.module,
            _form(architecture, place, tensor, working),
            row_order(architecture, fields, place, int(tensor.shape[-1])),
            architecture.column_order(fields, place.source),
            added_axis(architecture, place),
        )
        for tensor in tensors
        if (place := found.get(tensor.name)) is not None
    ]


def _form(
    architecture: Architecture, place: Place, tensor: ReaderTensor, working: str
) -> Packed | Microscaled | Plain:
    if place.source in architecture.precise:
        return Plain("F32", tensor.tensor_type, place.suffix)
    if place.source in architecture.logarithms:
        return Plain("F32", tensor.tensor_type, place.suffix, is_logarithm=True)
    return plain_or_packed(
        tensor,
        working,
        offset(architecture, place),
        place.suffix,
        is_vector=added_axis(architecture, place) is not None,
    )


def _quantization(plans: Sequence[Plan]) -> dict[str, Any] | None:
    """The most common number of bits, and the modules with another one by name."""
    packed = {
        plan.module: plan.form.settings() for plan in plans if not isinstance(plan.form, Plain)
    }
    if not packed:
        return None
    [(common, _)] = Counter(tuple(settings.items()) for settings in packed.values()).most_common(1)
    others = {module: own for module, own in packed.items() if tuple(own.items()) != common}
    return {"mode": "affine", **dict(common), **others}


def _write_json(path: Path, value: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
