"""A GGUF of each architecture with a few blocks of random weights, as llama.cpp writes it.

Every part is there in a size of its own, so that none can pass for another: heads are not as wide
as `width / heads` where an architecture allows that, and norms and biases are no ones and zeros.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from fakes.tiny_gguf import Metadata, Tensors, tiny_metadata, write_gguf
from gguf import GGMLQuantizationType as GGML

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 64, 96, 4, 2, 264
HEAD_DIMS = {"llama": 16, "qwen2": 16, "qwen3": 32, "gemma3": 32}
BLOCKS = {"llama": 2, "qwen2": 2, "qwen3": 2, "gemma3": 7}
WINDOW = 8


def decoder_gguf(
    folder: Path, architecture: str, kind: GGML = GGML.F32, changed: Mapping[str, Any] = {}
) -> Path:
    metadata = decoder_metadata(architecture) | dict(changed)
    tensors = decoder_tensors(architecture, kind)
    return write_gguf(folder / f"{architecture}.gguf", tensors, metadata, architecture)


def decoder_metadata(architecture: str) -> Metadata:
    own: dict[str, Any] = {
        "block_count": BLOCKS[architecture],
        "context_length": 512,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 20000.0,
    }
    if architecture in ("qwen3", "gemma3"):
        own["attention.key_length"] = own["attention.value_length"] = HEAD_DIMS[architecture]
    if architecture == "gemma3":
        own["attention.sliding_window"] = WINDOW
    words = {key: value for key, value in tiny_metadata().items() if key.startswith("tokenizer.")}
    return words | {f"{architecture}.{key}": value for key, value in own.items()}


def decoder_tensors(architecture: str, kind: GGML) -> Tensors:
    generator = np.random.default_rng(3)
    tensors: Tensors = {}
    for name, shape in _shapes(architecture).items():
        if len(shape) == 2:
            values = generator.normal(0, 0.3 / np.sqrt(shape[1] / 32), shape).astype(np.float32)
            tensors[name] = gguf.quantize(values, kind), kind
        else:
            tensors[name] = _vector(generator, architecture, name, shape), GGML.F32
    return tensors


def _vector(
    generator: np.random.Generator, architecture: str, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Of fewer bits than float32 has, as trained; Gemma's norms before 1 is added."""
    is_norm = name.endswith("norm.weight")
    middle = 1.0 if is_norm and architecture != "gemma3" else 0.0
    trained = generator.normal(middle, 0.3, shape).astype(np.float16).astype(np.float32)
    return trained + np.float32(is_norm and architecture == "gemma3")


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    if architecture == "qwen2":  # The others are tied.
        shapes["output.weight"] = (VOCABULARY, WIDTH)
    for index in range(BLOCKS[architecture]):
        for name, shape in _block(architecture).items():
            shapes[f"blk.{index}.{name}"] = shape
    return shapes


def _block(architecture: str) -> dict[str, tuple[int, ...]]:
    head = HEAD_DIMS[architecture]
    queries, keys = HEADS * head, KV_HEADS * head
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (queries, WIDTH),
        "attn_k.weight": (keys, WIDTH),
        "attn_v.weight": (keys, WIDTH),
        "attn_output.weight": (WIDTH, queries),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (INNER, WIDTH),
        "ffn_up.weight": (INNER, WIDTH),
        "ffn_down.weight": (WIDTH, INNER),
    }
    if architecture == "qwen2":
        block |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if architecture in ("qwen3", "gemma3"):
        block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    if architecture == "gemma3":
        block |= {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
    return block
