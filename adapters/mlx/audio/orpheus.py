"""Orpheus, a language model with tokens of audio."""

# pyright: basic
from importlib import import_module
from typing import Any

import mlx.core as mx


def keep_codes_inside() -> None:
    """Let the codec read codes that it has: the model may write any token in place of a code, and
    outside of the codebook's memory a CPU ends the process."""
    codec = import_module("mlx_audio.tts.models.llama.llama").snac_model
    if "decode" in vars(codec):
        return
    decode, last = codec.decode, codec.codebook_size - 1

    def decode_inside(codes: list[mx.array]) -> Any:
        return decode([mx.clip(code, 0, last) for code in codes])

    codec.decode = decode_inside
