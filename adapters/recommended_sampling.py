"""The sampling that the makers of a model recommend, as the files of both engines have it.

The same model samples alike on MLX and on Ollama only if a conversion takes this along.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, convert

_IN_GGUF = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
}
"""Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py"""
_DIGITS = 6
"""A GGUF has numbers of 32 bits: 0.2 is read as 0.20000000298."""


class RecommendedSampling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Named as in `generation_config.json` and as the parameters of a Modelfile."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    """0 and -1: all tokens."""
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None


class GenerationConfig(RecommendedSampling, frozen=True, kw_only=True):
    """The part of a folder's `generation_config.json` that is used."""

    eos_token_id: int | list[int] | None = None
    """Read by mlx-lm."""


def read_generation_config(folder: Path) -> GenerationConfig:
    """Read the file; without one, nothing is recommended. `do_sample` is not read, as in vLLM.

    Raises:
        ValueError: it is no JSON, or a value has a wrong type or size.
        RecursionError: it is nested too deep.
        OSError: it cannot be read.
    """
    file = folder / "generation_config.json"
    if not file.is_file():
        return GenerationConfig()
    return msgspec.json.decode(file.read_bytes(), type=GenerationConfig)


def in_gguf(metadata: Mapping[str, Any]) -> RecommendedSampling:
    """Read the recommendation in a GGUF's metadata.

    Raises:
        msgspec.ValidationError: a value has a wrong type or size.
    """
    found = {name: metadata[key] for name, key in _IN_GGUF.items() if key in metadata}
    rounded = {n: round(v, _DIGITS) if isinstance(v, float) else v for n, v in found.items()}
    return convert(rounded, RecommendedSampling)
