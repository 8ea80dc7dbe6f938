"""GGUF files of a few kilobytes with random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGML

WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 256, 4, 2, 64, 264
SHAPES = {
    "attn_norm": (WIDTH,),
    "attn_q": (HEADS * HEAD_DIM, WIDTH),
    "attn_k": (KV_HEADS * HEAD_DIM, WIDTH),
    "attn_v": (KV_HEADS * HEAD_DIM, WIDTH),
    "attn_output": (WIDTH, HEADS * HEAD_DIM),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (WIDTH, WIDTH),
    "ffn_up": (WIDTH, WIDTH),
    "ffn_down": (WIDTH, WIDTH),
}
# Where float16 factors stand in a block: they must be numbers, the other bytes may be anything.
FACTORS = {GGML.Q4_K: (0, 2), GGML.Q5_K: (0, 2), GGML.Q6_K: (208,), GGML.Q2_K: (80, 82)}

Data = tuple[np.ndarray, GGML]
Tensors = dict[str, Data]
Metadata = dict[str, Any]


def quantised(shape: tuple[int, ...], kind: GGML, seed: int = 0) -> Data:
    generator = np.random.default_rng(seed)
    if kind not in FACTORS:
        values = generator.normal(0, 0.05, shape).astype(np.float32)
        return gguf.quantize(values, kind), kind
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (shape[0], shape[1] // block, size), dtype=np.uint8)
    for place in FACTORS[kind]:
        factors = generator.uniform(1e-4, 1e-2, blocks.shape[:2]).astype("<f2")
        blocks[..., place : place + 2] = factors[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1), kind


def tiny_tensors(kind: GGML) -> Tensors:
    """One block, all matrices of `kind`, tied output."""
    shapes = {f"blk.0.{name}.weight": shape for name, shape in SHAPES.items()}
    shapes |= {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    return {
        name: quantised(shape, kind if len(shape) == 2 else GGML.F32, seed)
        for seed, (name, shape) in enumerate(shapes.items())
    }


def byte_letters() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def tiny_metadata() -> Metadata:
    letters = byte_letters()
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<user>", *letters]
    tokens += ["he", "ll", "hell", "hello"]
    return {
        "llama.block_count": 1,
        "llama.context_length": 512,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD_DIM,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * (len(tokens) - 4),
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def write_gguf(
    path: Path, tensors: Tensors, metadata: Metadata, architecture: str = "llama"
) -> Path:
    """Python integers become uint32, as llama.cpp's converter writes them."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, int) and not isinstance(value, bool):
            writer.add_uint32(key, value)
        else:
            kind = gguf.GGUFValueType.get_type(value)
            sub = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
            writer.add_key_value(key, value, kind, sub_type=sub)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_gguf(folder: Path, kind: GGML = GGML.Q4_1, changed: Mapping[str, Data] = {}) -> Path:
    return write_gguf(folder / "tiny.gguf", tiny_tensors(kind) | dict(changed), tiny_metadata())
