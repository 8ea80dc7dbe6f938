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
    "mixtral": 16,
    "granitemoe": 16,
    "smollm3": 32,
    "ernie4_5": 32,
    "seed_oss": 32,
    "olmoe": 16,
    "cohere2": 16,
    "olmo3": 16,
    "glm4": 32,
    "lfm2": 16,
    "qwen35": 32,
    "qwen35moe": 32,
    "lfm2moe": 16,
    "glm4moe": 32,
    "glm4moe-norms": 32,
    "deepseek-v2": 16,
    "deepseek-v2-lite": 16,
    "deepseek-v3": 16,
    "glm4moelite": 16,
    "gemma4": 64,
    "gemma4-shared": 64,
    "gemma4-moe": 64,
    "llama4": 32,
    "qwen3next": 32,
    "nemotron_h": 32,
    "nemotron_h_moe": 32,
    "nemotron_h_moe-latent": 32,
}
NEMOTRONS = ("nemotron_h", "nemotron_h_moe", "nemotron_h_moe-latent")
GEMMAS4 = ("gemma4", "gemma4-shared", "gemma4-moe")
"""Variants: keys that are values in full attention, keys of earlier blocks, experts."""
LATENT = ("deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "glm4moelite")
"""Architectures with keys and values made of one short vector."""
FAMILIES = {"mixtral": "llama", "olmo3": "olmo2", "glm4moe-norms": "glm4moe"}
FAMILIES["nemotron_h_moe-latent"] = "nemotron_h_moe"
FAMILIES |= dict.fromkeys(LATENT, "deepseek2") | dict.fromkeys(GEMMAS4, "gemma4")
"""Names in a GGUF, where llama.cpp has one for several architectures."""
BLOCKS = dict.fromkeys(HEAD_DIMS, 2) | {"gemma3": 7, "smollm3": 5, "cohere2": 5, "olmo3": 5}
BLOCKS |= dict.fromkeys(("lfm2", "qwen35", "qwen35moe", "glm4moe", "glm4moe-norms"), 3)
BLOCKS |= {"lfm2moe": 4, "deepseek-v2-lite": 27, "gemma4": 4, "gemma4-shared": 6, "gemma4-moe": 4}
BLOCKS |= {"llama4": 5, "qwen3next": 3} | dict.fromkeys(NEMOTRONS, 5)
"""llama.cpp recognises a Lite by its number of blocks."""
RECURRENT = {"lfm2": (0, 2), "lfm2moe": (0, 2), "qwen35": (0, 2), "qwen35moe": (0, 2)}
RECURRENT["qwen3next"] = (0, 2)
"""Blocks with a convolution or a delta net in place of attention."""
KEY_HEADS, VALUE_HEADS, STATE = 2, 4, 32
"""Numbers and size of heads of a delta net."""
MAMBA_DIM, LATENT_WIDTH = 16, 32
"""Sizes of a head of a Mamba, and of what the experts of a Nemotron H may read."""
WINDOW = 8
EXPERTS, USED, EXPERT_INNER, SHARED_INNER = 4, 2, 32, 160
SHARED = 3
"""DeepSeek's experts that see every token, each of the width of the others."""
PER_LAYER, SLIDING_DIM = 32, 32
"""Gemma 4's size of the embeddings for each layer, and of the heads of windows."""
PLAIN, ROTATED, VALUES, Q_RANK, KV_RANK = 64, 16, 32, 32, 96
"""Sizes of the two parts of a key and of a value, and of the vectors that they are made of."""
GEMMAS = ("gemma2", "gemma3")


def decoder_gguf(
    folder: Path, architecture: str, kind: GGML = GGML.F32, changed: Mapping[str, Any] = {}
) -> Path:
    metadata = decoder_metadata(architecture) | dict(changed)
    tensors = decoder_tensors(architecture, kind)
    family = FAMILIES.get(architecture, architecture)
    return write_gguf(folder / f"{architecture}.gguf", tensors, metadata, family)


def decoder_metadata(architecture: str) -> Metadata:
    own: dict[str, Any] = {
        "block_count": BLOCKS[architecture],
        "context_length": 512,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        ("attention.layer_norm_epsilon" if architecture == "cohere2" else _RMS): 1e-5,
        "rope.freq_base": 20000.0,
    }
    if HEAD_DIMS[architecture] != WIDTH // HEADS:
        own["attention.key_length"] = own["attention.value_length"] = HEAD_DIMS[architecture]
    own |= _OWN.get(architecture, {})
    words = {key: value for key, value in tiny_metadata().items() if key.startswith("tokenizer.")}
    family = FAMILIES.get(architecture, architecture)
    return words | {f"{family}.{key}": value for key, value in own.items()}


_RMS = "attention.layer_norm_rms_epsilon"
_SCALES: dict[str, Any] = {
    "attention.scale": 0.3,
    "embedding_scale": 3.0,
    "residual_scale": 0.7,
    "logit_scale": 2.0,
}
_FEW: dict[str, Any] = {"expert_count": EXPERTS, "expert_used_count": USED}
_MOE: dict[str, Any] = {
    "expert_count": EXPERTS,
    "expert_used_count": USED,
    "expert_feed_forward_length": EXPERT_INNER,
}
_HYBRID: dict[str, Any] = {
    "full_attention_interval": 2,
    "rope.dimension_count": 16,
    "rope.dimension_sections": [3, 3, 2, 0],
    "ssm.conv_kernel": 4,
    "ssm.group_count": KEY_HEADS,
    "ssm.inner_size": VALUE_HEADS * STATE,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": VALUE_HEADS,
}
_BY_BIAS: dict[str, Any] = {
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
}
_SHARED: dict[str, Any] = {
    **_MOE,
    "leading_dense_block_count": 1,
    "expert_shared_count": SHARED,
    "expert_weights_scale": 1.5,
}
_LATENT: dict[str, Any] = {
    **_SHARED,
    "attention.kv_lora_rank": KV_RANK,
    "rope.dimension_count": ROTATED,
}
_WHOLE: dict[str, Any] = {
    **_LATENT,
    "attention.head_count_kv": HEADS,
    "attention.key_length": PLAIN + ROTATED,
    "attention.value_length": VALUES,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
_SPLIT: dict[str, Any] = {
    **_LATENT,
    "attention.q_lora_rank": Q_RANK,
    "attention.head_count_kv": 1,
    "attention.key_length": KV_RANK + ROTATED,
    "attention.value_length": KV_RANK,
    "attention.key_length_mla": PLAIN + ROTATED,
    "attention.value_length_mla": VALUES,
    "expert_gating_func": 2,
    "expert_weights_norm": True,
}
_YARN: dict[str, Any] = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}
_GEMMA4: dict[str, Any] = {
    "attention.sliding_window": WINDOW,
    "attention.shared_kv_layers": 0,
    "attention.key_length_swa": SLIDING_DIM,
    "attention.value_length_swa": SLIDING_DIM,
    "embedding_length_per_layer_input": 0,
    "final_logit_softcapping": 30.0,
    "rope.dimension_count": 64,
    "rope.dimension_count_swa": SLIDING_DIM,
    "rope.freq_base_swa": 10000.0,
}
_NEMOTRON: dict[str, Any] = {
    "attention.head_count_kv": [0, 0, KV_HEADS, 0, 0],
    "attention.layer_norm_epsilon": 1e-5,
    "feed_forward_length": [0, INNER, 0, 0, INNER],
    "ssm.conv_kernel": 4,
    "ssm.group_count": KEY_HEADS,
    "ssm.inner_size": VALUE_HEADS * MAMBA_DIM,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": VALUE_HEADS,
}
_NEMOTRON_MOE: dict[str, Any] = {
    **_MOE,
    "feed_forward_length": [0, EXPERT_INNER, 0, 0, EXPERT_INNER],
    "expert_shared_count": 1,
    "expert_shared_feed_forward_length": SHARED_INNER,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
}
_OWN: dict[str, dict[str, Any]] = {
    "lfm2moe": {
        **_MOE,
        **_BY_BIAS,
        "leading_dense_block_count": 2,
        "attention.head_count_kv": [0, KV_HEADS, 0, KV_HEADS],
        "shortconv.l_cache": 3,
    },
    "glm4moe": {**_SHARED, **_BY_BIAS, "expert_weights_norm": True, "rope.dimension_count": 16},
    "glm4moe-norms": {**_SHARED, **_BY_BIAS, "rope.dimension_count": 16},
    "deepseek-v2": {
        **_WHOLE,
        **_YARN,
        "attention.q_lora_rank": Q_RANK,
        "rope.scaling.yarn_log_multiplier": 0.0707,
    },
    "deepseek-v2-lite": {**_WHOLE, **_YARN, "rope.scaling.yarn_log_multiplier": 0.0707},
    "deepseek-v3": {
        **_SPLIT,
        **_YARN,
        "rope.scaling.yarn_log_multiplier": 0.1,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "expert_group_count": 2,
        "expert_group_used_count": 1,
    },
    "glm4moelite": _SPLIT,
    "gemma4": {
        **_GEMMA4,
        "attention.head_count_kv": [2, 1, 2, 1],
        "attention.sliding_window_pattern": [True, False, True, False],
    },
    "gemma4-shared": {
        **_GEMMA4,
        "attention.sliding_window_pattern": [True, True, False, True, True, False],
        "attention.shared_kv_layers": 3,
        "embedding_length_per_layer_input": PER_LAYER,
        "feed_forward_length": [INNER] * 3 + [2 * INNER] * 3,
    },
    "gemma4-moe": {
        **_GEMMA4,
        **_MOE,
        "attention.head_count_kv": [2, 1, 2, 1],
        "attention.sliding_window_pattern": [True, False, True, False],
    },
    "gemma3": {"attention.sliding_window": WINDOW},
    "gemma2": {
        "attention.sliding_window": 512,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "qwen3moe": _MOE,
    "qwen2moe": {**_MOE, "expert_shared_feed_forward_length": SHARED_INNER},
    "granite": _SCALES,
    "granitemoe": {**_SCALES, **_FEW},
    "mixtral": _FEW,
    "olmoe": {**_FEW, "attention.head_count_kv": HEADS},
    "cohere2": {"attention.sliding_window": WINDOW, "logit_scale": 0.7},
    "olmo3": {
        "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": [True, True, True, False, True],
    },
    "phi3": {"rope.scaling.original_context_length": 512},
    "glm4": {"rope.dimension_count": 16},
    "lfm2": {"attention.head_count_kv": [0, KV_HEADS, 0], "shortconv.l_cache": 3},
    "qwen35": _HYBRID,
    "qwen35moe": {**_HYBRID, **_MOE, "expert_shared_feed_forward_length": SHARED_INNER},
    "qwen3next": {
        **{key: value for key, value in _HYBRID.items() if "sections" not in key},
        **_MOE,
        "expert_shared_feed_forward_length": SHARED_INNER,
    },
    "nemotron_h": _NEMOTRON,
    "nemotron_h_moe": {**_NEMOTRON, **_NEMOTRON_MOE},
    "nemotron_h_moe-latent": {**_NEMOTRON, **_NEMOTRON_MOE, "moe_latent_size": LATENT_WIDTH},
    "llama4": {**_MOE, "expert_used_count": 1, "interleave_moe_layer_step": 2},
    "gpt-oss": {
        **_MOE,
        **_YARN,
        "feed_forward_length": EXPERT_INNER,
        "attention.sliding_window": WINDOW,
    },
}


_SEEDS = {"mixtral": 6, "smollm3": 6, "glm4moe": 6, "glm4moe-norms": 5}
"""Seeds of models that say control tokens after 3, which Ollama does not show, or have two experts
of nearly the same score, between which a rounding decides."""
_INTO_SUM = ("attn_output.weight", "ffn_down.weight", "ffn_down_exps.weight")
_FEW_BLOCKS = 8


def decoder_tensors(architecture: str, kind: GGML) -> Tensors:
    generator = np.random.default_rng(_SEEDS.get(architecture, 3))
    tensors: Tensors = {}
    for name, shape in _shapes(architecture).items():
        if name.endswith(("conv.weight", "conv1d.weight")):
            tensors[name] = _router(generator, shape), GGML.F32
        elif name == "rope_freqs.weight":
            ones, rest = (12, 16.0) if architecture == "llama4" else (shape[0] // 4, 1e30)
            table = np.where(np.arange(*shape) < ones, 1, rest)  # Llama 4 Scout's factor.
            tensors[name] = table.astype(np.float32), GGML.F32
        elif name.endswith("exp_probs_b.bias"):
            tensors[name] = generator.uniform(0, 0.5, shape).astype(np.float32), GGML.F32
        elif name.endswith("ssm_a"):  # Minus the exponential of what MLX has.
            tensors[name] = -np.exp(generator.uniform(1, 3, shape)).astype(np.float32), GGML.F32
        elif name.endswith("ffn_gate_inp.weight"):  # llama.cpp's converter keeps it in float32.
            tensors[name] = _router(generator, shape), GGML.F32
        elif architecture == "gpt-oss" and len(shape) == 3:
            values = generator.normal(0, 0.3, shape).astype(np.float32)
            tensors[name] = gguf.quantize(values, GGML.MXFP4), GGML.MXFP4
        elif name.endswith(("ssm_d", "ssm_norm.weight")):
            tensors[name] = _vector(generator, architecture, "norm.weight", shape), GGML.F32
        elif len(shape) > 1 and not name.endswith(".bias"):
            spread = 0.3 / np.sqrt(shape[-1] / 32)
            if name.endswith(_INTO_SUM) and BLOCKS[architecture] > _FEW_BLOCKS:
                spread /= BLOCKS[architecture]  # Else the least rounding grows with the depth.
            values = generator.normal(0, spread, shape).astype(np.float32)
            tensors[name] = gguf.quantize(values, kind), kind
        else:
            tensors[name] = _vector(generator, architecture, name, shape), GGML.F32
    return tensors


def _vector(
    generator: np.random.Generator, architecture: str, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Draw weights with fewer bits than float32, as trained ones have, and Gemma's norms less 1."""
    is_norm = name.endswith("norm.weight") or architecture in GEMMAS4  # Or a scale.
    middle = 1.0 if is_norm and architecture not in GEMMAS else 0.0
    trained = generator.normal(middle, 0.3, shape).astype(np.float16).astype(np.float32)
    return trained + np.float32(is_norm and architecture in GEMMAS)


def _router(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.normal(0, 1, shape).astype(np.float16).astype(np.float32)


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    norm = "token_embd_norm" if architecture in _LIQUIDS else "output_norm"
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), f"{norm}.weight": (WIDTH,)}
    if architecture in (
        "qwen2",
        "qwen3moe",
        "qwen2moe",
        "olmo2",
        "olmo3",
        "olmoe",
        "mixtral",
        "seed_oss",
        "gpt-oss",
        "glm4",
        "qwen35moe",
        "glm4moe",
        "glm4moe-norms",
        "llama4",
        "qwen3next",
        *NEMOTRONS,
        *LATENT,
    ):  # The others are tied.
        shapes["output.weight"] = (VOCABULARY, WIDTH)
    if architecture == "llama4":
        shapes["rope_freqs.weight"] = (HEAD_DIMS[architecture] // 2,)
    if architecture in GEMMAS4:
        shapes |= _gemma4_outside(architecture)
    for index in range(BLOCKS[architecture]):
        is_recurrent = index in RECURRENT.get(architecture, ())
        block = _recurrent(architecture) if is_recurrent else _block(architecture)
        dense = _OWN.get(architecture, {}).get("leading_dense_block_count")
        if dense is not None and index >= dense:
            block = _routed(architecture, block)
        if architecture == "llama4" and index % 2 == 1:
            block = _routed(architecture, block)
        if architecture in GEMMAS4:
            block = _gemma4_block(architecture, index)
        if architecture in NEMOTRONS:
            block = _nemotron_block(architecture, index)
        for name, shape in block.items():
            shapes[f"blk.{index}.{name}"] = shape
    return shapes


def _block(architecture: str) -> dict[str, tuple[int, ...]]:
    head = HEAD_DIMS[architecture]
    own = _OWN.get(architecture, {})
    kv_heads = own.get("attention.head_count_kv", KV_HEADS)
    queries, keys = HEADS * head, (max(kv_heads) if isinstance(kv_heads, list) else kv_heads) * head
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
    if architecture in ("qwen2", "qwen2moe", "seed_oss", *_GLMS):
        block |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if architecture in ("qwen3", "gemma3", "qwen3moe", "glm4moe-norms", *_LIQUIDS, *_HYBRIDS):
        block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    if architecture in (
        *GEMMAS,
        "olmo2",
        "olmo3",
        "seed_oss",
        "gpt-oss",
        "glm4",
        *_GLMS,
        *_HYBRIDS,
    ):
        block |= {"post_attention_norm.weight": (WIDTH,)}
    if architecture in (*GEMMAS, "olmo2", "olmo3", "glm4"):
        block |= {"post_ffw_norm.weight": (WIDTH,)}
    for name in _WITHOUT.get(architecture, ()):
        del block[f"{name}.weight"]
    return block | _own_block(architecture, queries, keys)


def _recurrent(architecture: str) -> dict[str, tuple[int, ...]]:
    """A block without attention: the same feed-forward part, and its own tensors."""
    block = {
        name: shape
        for name, shape in _block(architecture).items()
        if not name.startswith("attn_") or name == "attn_norm.weight"
    }
    if architecture in _LIQUIDS:
        return block | {
            "shortconv.conv.weight": (WIDTH, 3),
            "shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
            "shortconv.out_proj.weight": (WIDTH, WIDTH),
        }
    values = VALUE_HEADS * STATE
    mixed = 2 * KEY_HEADS * STATE + values
    both = ("ssm_ba",) if architecture == "qwen3next" else ("ssm_beta", "ssm_alpha")
    return block | {
        "attn_qkv.weight": (mixed, WIDTH),
        "attn_gate.weight": (values, WIDTH),
        "ssm_conv1d.weight": (mixed, 4),
        "ssm_dt.bias": (VALUE_HEADS,),
        "ssm_a": (VALUE_HEADS,),
        **{f"{name}.weight": (2 * VALUE_HEADS // len(both), WIDTH) for name in both},
        "ssm_norm.weight": (STATE,),
        "ssm_out.weight": (WIDTH, values),
    }


def _routed(architecture: str, block: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """`block` with experts in place of its feed-forward part, as after the leading blocks."""
    dense = {f"{name}.weight" for name in _DENSE}
    routed = {name: shape for name, shape in block.items() if name not in dense} | _experts()
    if architecture not in _WITHOUT_BIAS:
        routed["exp_probs_b.bias"] = (EXPERTS,)
    if architecture in _LIQUIDS:
        return routed
    inner = EXPERT_INNER if architecture == "llama4" else SHARED * EXPERT_INNER
    return routed | {
        "ffn_gate_shexp.weight": (inner, WIDTH),
        "ffn_up_shexp.weight": (inner, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, inner),
    }


def _experts(inner: int = EXPERT_INNER) -> dict[str, tuple[int, ...]]:
    return {
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_exps.weight": (EXPERTS, inner, WIDTH),
        "ffn_up_exps.weight": (EXPERTS, inner, WIDTH),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, inner),
    }


def _gemma4_outside(architecture: str) -> dict[str, tuple[int, ...]]:
    all_layers = PER_LAYER * BLOCKS[architecture]
    table: dict[str, tuple[int, ...]] = {"rope_freqs.weight": (HEAD_DIMS[architecture] // 2,)}
    if not _OWN[architecture]["embedding_length_per_layer_input"]:
        return table
    return table | {
        "per_layer_token_embd.weight": (VOCABULARY, all_layers),
        "per_layer_model_proj.weight": (all_layers, WIDTH),
        "per_layer_proj_norm.weight": (PER_LAYER,),
    }


def _gemma4_block(architecture: str, index: int) -> dict[str, tuple[int, ...]]:
    """A block, with the keys of its own that a checkpoint has even where no engine reads them."""
    own = _OWN[architecture]
    is_sliding = own["attention.sliding_window_pattern"][index]
    head = SLIDING_DIM if is_sliding else HEAD_DIMS[architecture]
    heads, widths = own.get("attention.head_count_kv"), own.get("feed_forward_length")
    keys = (heads[index] if heads else KV_HEADS) * head
    inner = widths[index] if widths else INNER
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": (WIDTH,) for name in norms}
    block |= {
        "attn_q.weight": (HEADS * head, WIDTH),
        "attn_k.weight": (keys, WIDTH),
        "attn_output.weight": (WIDTH, HEADS * head),
        "attn_q_norm.weight": (head,),
        "attn_k_norm.weight": (head,),
        "ffn_gate.weight": (inner, WIDTH),
        "ffn_up.weight": (inner, WIDTH),
        "ffn_down.weight": (WIDTH, inner),
        "layer_output_scale.weight": (1,),
    }
    if is_sliding or not heads:
        block["attn_v.weight"] = (keys, WIDTH)
    if own["embedding_length_per_layer_input"]:
        block |= {
            "inp_gate.weight": (PER_LAYER, WIDTH),
            "proj.weight": (WIDTH, PER_LAYER),
            "post_norm.weight": (WIDTH,),
        }
    return block | (_gemma4_experts() if "expert_count" in own else {})


def _nemotron_block(architecture: str, index: int) -> dict[str, tuple[int, ...]]:
    own, head = _OWN[architecture], HEAD_DIMS[architecture]
    block: dict[str, tuple[int, ...]] = {"attn_norm.weight": (WIDTH,)}
    if own["attention.head_count_kv"][index]:
        return block | {
            "attn_q.weight": (HEADS * head, WIDTH),
            "attn_k.weight": (KV_HEADS * head, WIDTH),
            "attn_v.weight": (KV_HEADS * head, WIDTH),
            "attn_output.weight": (WIDTH, HEADS * head),
        }
    if not own["feed_forward_length"][index]:
        return block | _mamba()
    if "expert_count" not in own:
        return block | {"ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
    read = own.get("moe_latent_size", WIDTH)
    latent = {"ffn_latent_down.weight": (read, WIDTH), "ffn_latent_up.weight": (WIDTH, read)}
    return {
        **block,
        **(latent if read != WIDTH else {}),
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "exp_probs_b.bias": (EXPERTS,),
        "ffn_up_exps.weight": (EXPERTS, EXPERT_INNER, read),
        "ffn_down_exps.weight": (EXPERTS, read, EXPERT_INNER),
        "ffn_up_shexp.weight": (SHARED_INNER, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, SHARED_INNER),
    }


def _mamba() -> dict[str, tuple[int, ...]]:
    inner = VALUE_HEADS * MAMBA_DIM
    mixed = inner + 2 * KEY_HEADS * STATE
    return {
        "ssm_in.weight": (inner + mixed + VALUE_HEADS, WIDTH),
        "ssm_conv1d.weight": (mixed, 4),
        "ssm_conv1d.bias": (mixed,),
        "ssm_dt.bias": (VALUE_HEADS,),
        "ssm_a": (VALUE_HEADS, 1),
        "ssm_d": (VALUE_HEADS, 1),
        "ssm_norm.weight": (KEY_HEADS, inner // KEY_HEADS),
        "ssm_out.weight": (WIDTH, inner),
    }


def _gemma4_experts() -> dict[str, tuple[int, ...]]:
    return {
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_inp.scale": (WIDTH,),
        "pre_ffw_norm_2.weight": (WIDTH,),
        "post_ffw_norm_1.weight": (WIDTH,),
        "post_ffw_norm_2.weight": (WIDTH,),
        "ffn_gate_up_exps.weight": (EXPERTS, 2 * EXPERT_INNER, WIDTH),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, EXPERT_INNER),
        "ffn_down_exps.scale": (EXPERTS,),
    }


def _latent(architecture: str) -> dict[str, tuple[int, ...]]:
    """The attention of DeepSeek, but for its norm."""
    whole, latent = HEADS * (PLAIN + ROTATED), (KV_RANK + ROTATED, WIDTH)
    tensors: dict[str, tuple[int, ...]] = {
        "attn_kv_a_mqa.weight": latent,
        "attn_kv_a_norm.weight": (KV_RANK,),
        "attn_output.weight": (WIDTH, HEADS * VALUES),
    }
    if "attention.q_lora_rank" in _OWN[architecture]:
        tensors["attn_q_a.weight"] = (Q_RANK, WIDTH)
        tensors["attn_q_a_norm.weight"] = (Q_RANK,)
        tensors["attn_q_b.weight"] = (whole, Q_RANK)
    else:
        tensors["attn_q.weight"] = (whole, WIDTH)
    if architecture in _WITHOUT_BIAS:
        return tensors | {"attn_kv_b.weight": (HEADS * (PLAIN + VALUES), KV_RANK)}
    return tensors | {
        "attn_k_b.weight": (HEADS, KV_RANK, PLAIN),
        "attn_v_b.weight": (HEADS, VALUES, KV_RANK),
    }


_NORM_AFTER_ATTENTION = (*GEMMAS, "olmo2", "olmo3", "seed_oss", "gpt-oss", "glm4")
_HYBRIDS = ("qwen35", "qwen35moe", "qwen3next")
_LIQUIDS = ("lfm2", "lfm2moe")
_GLMS = ("glm4moe", "glm4moe-norms")
_WITHOUT_BIAS = ("deepseek-v2", "deepseek-v2-lite", "llama4")
_DENSE = ("ffn_gate", "ffn_up", "ffn_down")
_WITHOUT = {
    "olmo2": ("attn_norm", "ffn_norm"),
    "olmo3": ("attn_norm", "ffn_norm"),
    "cohere2": ("ffn_norm",),
    "seed_oss": ("ffn_norm",),
    "glm4": ("ffn_gate", "ffn_up"),
    "qwen35": ("ffn_norm",),
    **dict.fromkeys(("qwen35moe", "qwen3next"), (*_DENSE, "ffn_norm")),
    "mixtral": _DENSE,
    "granitemoe": _DENSE,
    "olmoe": _DENSE,
    "phi3": ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"),
    "qwen3moe": _DENSE,
    "qwen2moe": _DENSE,
    "gpt-oss": (*_DENSE, "ffn_norm"),
    **dict.fromkeys(_GLMS, ("ffn_norm",)),
    **dict.fromkeys(LATENT, ("attn_q", "attn_k", "attn_v", "attn_output")),
}


def _shared_experts(experts: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return experts | {
        "ffn_gate_inp_shexp.weight": (WIDTH,),
        "ffn_gate_shexp.weight": (SHARED_INNER, WIDTH),
        "ffn_up_shexp.weight": (SHARED_INNER, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, SHARED_INNER),
    }


def _own_block(architecture: str, queries: int, keys: int) -> dict[str, tuple[int, ...]]:
    inner = EXPERT_INNER if "expert_feed_forward_length" in _OWN.get(architecture, {}) else INNER
    experts = _experts(inner)
    whole: dict[str, tuple[int, ...]] = {
        "attn_q_norm.weight": (queries,),
        "attn_k_norm.weight": (keys,),
    }
    match architecture:
        case "olmo2" | "olmo3":
            return whole
        case "olmoe":
            return experts | whole
        case "phi3":
            return {
                "attn_qkv.weight": (queries + 2 * keys, WIDTH),
                "ffn_up.weight": (2 * INNER, WIDTH),
            }
        case "qwen3moe" | "mixtral" | "granitemoe":
            return experts
        case _ if architecture in LATENT:
            return _latent(architecture)
        case "glm4":
            return {"ffn_up.weight": (2 * INNER, WIDTH)}
        case "qwen35" | "qwen35moe" | "qwen3next":
            attention = {"attn_q.weight": (2 * queries, WIDTH)}  # With a gate for each head.
            return attention | (_shared_experts(experts) if architecture != "qwen35" else {})
        case "qwen2moe":
            return _shared_experts(experts)
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
