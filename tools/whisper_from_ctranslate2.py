"""Convert a Whisper model of CTranslate2 to a folder that mlx-audio loads.

    uv run python tools/whisper_from_ctranslate2.py FOLDER OUTPUT

FOLDER has `model.bin` (float16 or float32), `config.json`, `tokenizer.json` and `vocabulary.txt`,
as faster-whisper uses them. The weights get the names of mlx-audio's Whisper; no number changes.

Sources: CTranslate2's `src/models/model.cc` (the file) and `python/ctranslate2/specs/` (the names).
"""

import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray[Any, Any]

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""CTranslate2's `DataType`."""
_TIME = re.compile(r"<\|\d+\.\d\d\|>")
_ATTENTION = {
    "self_attention": ("attn", ("query", "key", "value"), ()),
    "attention": ("cross_attn", ("query",), ("key", "value")),
}
"""CTranslate2's name -> mlx-audio's, and the projections that are fused in its linear layers."""


def read_variables(file: Path) -> dict[str, Array]:
    """Read all weights of a `model.bin` by name."""
    with file.open("rb") as source:
        version = _number(source, "I")
        if version < 2:
            raise ValueError(f"{file.name} has version {version} of the format; convert it anew")
        _text(source)
        _number(source, "I")
        variables = dict(_variable(source, version) for _ in range(_number(source, "I")))
        aliases = range(_number(source, "I")) if version >= 3 else ()
        for _ in aliases:
            alias, name = _text(source), _text(source)
            variables[alias] = variables[name]
    return variables


def _variable(source: BinaryIO, version: int) -> tuple[str, Array]:
    name = _text(source)
    shape = struct.unpack(f"<{(rank := _number(source, 'B'))}I", source.read(4 * rank))
    if version < 4:
        raise ValueError("version 4 or later of the format is needed")
    dtype = _TYPES[_number(source, "B")]
    data = source.read(_number(source, "I"))
    return name, np.frombuffer(data, dtype=dtype).reshape(shape)


def _number(source: BinaryIO, form: str) -> int:
    return struct.unpack(f"<{form}", source.read(struct.calcsize(form)))[0]


def _text(source: BinaryIO) -> str:
    return source.read(_number(source, "H")).rstrip(b"\0").decode()


def to_mlx(variables: dict[str, Array]) -> dict[str, Array]:
    """Rename weights, divide fused projections, and put the channels of convolutions last."""
    weights: dict[str, Array] = {}
    for part in ("encoder", "decoder"):
        depth = sum(f"{part}/layer_{i}/ffn/linear_0/weight" in variables for i in range(99))
        for layer in range(depth):
            own = f"{part}/layer_{layer}/"
            inside = {n.removeprefix(own): v for n, v in variables.items() if n.startswith(own)}
            for name, value in _block(inside):
                weights[f"{part}.blocks.{layer}.{name}"] = value
        last = "encoder.ln_post" if part == "encoder" else "decoder.ln"
        weights |= {f"{last}.weight": variables[f"{part}/layer_norm/gamma"]}
        weights |= {f"{last}.bias": variables[f"{part}/layer_norm/beta"]}
    for name in ("conv1", "conv2"):
        weights[f"encoder.{name}.weight"] = variables[f"encoder/{name}/weight"].transpose(0, 2, 1)
        weights[f"encoder.{name}.bias"] = variables[f"encoder/{name}/bias"]
    weights["decoder.token_embedding.weight"] = variables["decoder/embeddings/weight"]
    positions = variables["decoder/position_encodings/encodings"]
    weights["decoder.positional_embedding"] = positions
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def _block(inside: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    for theirs, (ours, first, second) in _ATTENTION.items():
        if f"{theirs}/linear_0/weight" not in inside:
            continue
        yield from _norm(inside, f"{theirs}/layer_norm", f"{ours}_ln")
        fused = [first, second, ("out",)] if second else [first, ("out",)]
        for at, names in enumerate(fused):
            for kind in ("weight", "bias"):
                value = inside[f"{theirs}/linear_{at}/{kind}"]
                for name, piece in zip(names, np.split(value, len(names)), strict=True):
                    if (name, kind) != ("key", "bias"):  # Whisper's keys have none: zeros.
                        yield f"{ours}.{name}.{kind}", piece
    yield from _norm(inside, "ffn/layer_norm", "mlp_ln")
    for at in (0, 1):
        for kind in ("weight", "bias"):
            yield f"mlp{at + 1}.{kind}", inside[f"ffn/linear_{at}/{kind}"]


def _norm(inside: dict[str, Array], theirs: str, ours: str) -> Iterator[tuple[str, Array]]:
    yield f"{ours}.weight", inside[f"{theirs}/gamma"]
    yield f"{ours}.bias", inside[f"{theirs}/beta"]


def to_config(variables: dict[str, Array], weights: dict[str, Array]) -> dict[str, Any]:
    vocabulary, width = weights["decoder.token_embedding.weight"].shape
    depths = {
        part: sum(f"{part}.blocks.{i}.mlp1.weight" in weights for i in range(99))
        for part in ("encoder", "decoder")
    }
    return {
        "model_type": "whisper",
        "n_mels": weights["encoder.conv1.weight"].shape[2],
        "n_audio_ctx": 1500,
        "n_audio_state": width,
        "n_audio_head": int(variables["encoder/num_heads"]),
        "n_audio_layer": depths["encoder"],
        "n_vocab": vocabulary,
        "n_text_ctx": weights["decoder.positional_embedding"].shape[0],
        "n_text_state": width,
        "n_text_head": int(variables["decoder/num_heads"]),
        "n_text_layer": depths["decoder"],
    }


def to_tokenizer(source: Path) -> dict[str, Any]:
    """Return `tokenizer.json` with the tokens of times, which faster-whisper adds by itself."""
    tokenizer = json.loads((source / "tokenizer.json").read_bytes())
    known = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = (source / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokenizer["added_tokens"] += [
        {"id": at, "content": text, **flags}
        for at, text in enumerate(vocabulary)
        if _TIME.fullmatch(text) and text not in known
    ]
    return tokenizer


def convert(source: Path, output: Path) -> None:
    """Write `output` with weights, configuration, tokenizer and the heads that align words."""
    variables = read_variables(source / "model.bin")
    weights = to_mlx(variables)
    output.mkdir(parents=True, exist_ok=True)
    config = to_config(variables, weights)
    (output / "config.json").write_text(json.dumps(config, indent=1))
    (output / "tokenizer.json").write_text(json.dumps(to_tokenizer(source)))
    (output / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER))
    (output / "preprocessor_config.json").write_text(
        json.dumps({**_PREPROCESSOR, "feature_size": config["n_mels"]})
    )
    theirs = json.loads((source / "config.json").read_bytes())
    (output / "generation_config.json").write_text(
        json.dumps({"alignment_heads": theirs["alignment_heads"]})
    )
    save_file(weights, output / "model.safetensors", metadata={"format": "mlx"})


_TOKENIZER = {
    "tokenizer_class": "WhisperTokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "errors": "replace",
    "model_max_length": 1024,
}
_PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "sampling_rate": 16000,
}

if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
