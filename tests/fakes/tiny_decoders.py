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
HEAD_DIMS = {
    "llama": 16,
    "qwen2": 16,
    "qwen3": 32,
    "gemma3": 32,
    "gemma2": 32,
    "qwen3moe": 32,
    "qwen2moe": 16,
    "granite": 16,
    "olmo2": 16,
    "phi3": 16,
    "gpt-oss": 32,
}
BLOCKS = dict.fromkeys(HEAD_DIMS, 2) | {"gemma3": 7}
WINDOW = 8
EXPERTS, USED, EXPERT_INNER, SHARED_INNER = 4, 2, 32, 160
GEMMAS = ("gemma2", "gemma3")


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
    if HEAD_DIMS[architecture] != WIDTH // HEADS:
        own["attention.key_length"] = own["attention.value_length"] = HEAD_DIMS[architecture]
    own |= _OWN.get(architecture, {})
    words = {key: value for key, value in tiny_metadata().items() if key.startswith("tokenizer.")}
    return words | {f"{architecture}.{key}": value for key, value in own.items()}


_MOE: dict[str, Any] = {
    "expert_count": EXPERTS,
    "expert_used_count": USED,
    "expert_feed_forward_length": EXPERT_INNER,
}
_OWN: dict[str, dict[str, Any]] = {
    "gemma3": {"attention.sliding_window": WINDOW},
    "gemma2": {
        "attention.sliding_window": 512,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "qwen3moe": _MOE,
    "qwen2moe": {**_MOE, "expert_shared_feed_forward_length": SHARED_INNER},
    "granite": {
        "attention.scale": 0.3,
        "embedding_scale": 3.0,
        "residual_scale": 0.7,
        "logit_scale": 2.0,
    },
    "phi3": {"rope.scaling.original_context_length": 512},
    "gpt-oss": {
        **_MOE,
        "feed_forward_length": EXPERT_INNER,
        "attention.sliding_window": WINDOW,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 128,
    },
}


def decoder_tensors(architecture: str, kind: GGML) -> Tensors:
    generator = np.random.default_rng(3)
    tensors: Tensors = {}
    for name, shape in _shapes(architecture).items():
        if name.endswith("ffn_gate_inp.weight"):  # llama.cpp's converter keeps it in float32.
            tensors[name] = _router(generator, shape), GGML.F32
        elif architecture == "gpt-oss" and len(shape) == 3:
            values = generator.normal(0, 0.3, shape).astype(np.float32)
            tensors[name] = gguf.quantize(values, GGML.MXFP4), GGML.MXFP4
        elif len(shape) > 1 and not name.endswith(".bias"):
            values = generator.normal(0, 0.3 / np.sqrt(shape[-1] / 32), shape).astype(np.float32)
            tensors[name] = gguf.quantize(values, kind), kind
        else:
            tensors[name] = _vector(generator, architecture, name, shape), GGML.F32
    return tensors


def _vector(
    generator: np.random.Generator, architecture: str, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Draw weights with fewer bits than float32, as trained ones have, and Gemma's norms less 1."""
    is_norm = name.endswith("norm.weight")
    middle = 1.0 if is_norm and architecture not in GEMMAS else 0.0
    trained = generator.normal(middle, 0.3, shape).astype(np.float16).astype(np.float32)
    return trained + np.float32(is_norm and architecture in GEMMAS)


def _router(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(np.float16).astype(np.float32)


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    if architecture in (
        "qwen2",
        "qwen3moe",
        "qwen2moe",
        "olmo2",
        "gpt-oss",
    ):  # The others are tied.
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
    if architecture in ("qwen2", "qwen2moe"):
        block |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if architecture in ("qwen3", "gemma3", "qwen3moe"):
        block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    if architecture in (*GEMMAS, "olmo2", "gpt-oss"):
        block |= {"post_attention_norm.weight": (WIDTH,)}
    if architecture in (*GEMMAS, "olmo2"):
        block |= {"post_ffw_norm.weight": (WIDTH,)}
    for name in _WITHOUT.get(architecture, ()):
        del block[f"{name}.weight"]
    return block | _own_block(architecture, queries, keys)


_DENSE = ("ffn_gate", "ffn_up", "ffn_down")
_WITHOUT = {
    "olmo2": ("attn_norm", "ffn_norm"),
    "phi3": ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"),
    "qwen3moe": _DENSE,
    "qwen2moe": _DENSE,
    "gpt-oss": (*_DENSE, "ffn_norm"),
}


def _own_block(architecture: str, queries: int, keys: int) -> dict[str, tuple[int, ...]]:
    experts: dict[str, tuple[int, ...]] = {
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_exps.weight": (EXPERTS, EXPERT_INNER, WIDTH),
        "ffn_up_exps.weight": (EXPERTS, EXPERT_INNER, WIDTH),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, EXPERT_INNER),
    }
    match architecture:
        case "olmo2":
            return {"attn_q_norm.weight": (queries,), "attn_k_norm.weight": (keys,)}
        case "phi3":
            return {
                "attn_qkv.weight": (queries + 2 * keys, WIDTH),
                "ffn_up.weight": (2 * INNER, WIDTH),
            }
        case "qwen3moe":
            return experts
        case "qwen2moe":
            return experts | {
                "ffn_gate_inp_shexp.weight": (WIDTH,),
                "ffn_gate_shexp.weight": (SHARED_INNER, WIDTH),
                "ffn_up_shexp.weight": (SHARED_INNER, WIDTH),
                "ffn_down_shexp.weight": (WIDTH, SHARED_INNER),
            }
        case "gpt-oss":
            return experts | {
                "attn_sinks.weight": (HEADS,),
                "attn_q.bias": (queries,),
                "attn_k.bias": (keys,),
                "attn_v.bias": (keys,),
                "attn_output.bias": (WIDTH,),
                "ffn_gate_inp.bias": (EXPERTS,),
                "ffn_gate_exps.bias": (EXPERTS, EXPERT_INNER),
                "ffn_up_exps.bias": (EXPERTS, EXPERT_INNER),
                "ffn_down_exps.bias": (EXPERTS, WIDTH),
            }
        case _:
            return {}
