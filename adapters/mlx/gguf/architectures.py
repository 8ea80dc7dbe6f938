# pyright: basic
"""Tensors of each architecture, their names in MLX, and the model's `config.json`.

A new architecture is a row of `ARCHITECTURES`. Keys and tensors of a GGUF that its row does not
have are rejected by name: a model without one of its parts still generates text, but bad text.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (keys and tensor names)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.mlx.gguf import rotary

Fields = Mapping[str, Any]
"""Metadata key -> value; keys of the architecture without its prefix."""


@dataclass(frozen=True)
class Architecture:
    model_type: str
    """Name in mlx-lm."""
    hub_class: str
    """`architectures` of its `config.json` on the hub."""
    block: Mapping[str, str]
    """Tensor of a block in GGUF -> module in MLX. All are required."""
    keys: frozenset[str]
    """Metadata keys that `config` uses or that are redundant."""
    config: Callable[[Fields], dict[str, Any]]
    biased: frozenset[str] = frozenset()
    """Tensors of `block` with a bias."""
    interleaved: frozenset[str] = frozenset()
    """Tensors of `block` with rows reordered by llama.cpp's converter for its rotary embedding."""
    norm_offset: float = 0.0
    """GGUF's norm weights minus MLX's."""
    requires_output: bool = False
    """True if one of the engines cannot use the embedding as the output matrix."""
    bare: frozenset[str] = frozenset()
    """Tensors of `block` that are a parameter of their own in MLX, not the weight of a module."""
    rows_of_one: frozenset[str] = frozenset()
    """Vectors of `block` that are matrices of one row in MLX."""
    family: str | None = None
    """`general.architecture`, if the row has another name: llama.cpp has one for several types."""
    applies: Callable[[Fields], bool] = lambda fields: True
    """False for files of the family that are of another row."""
    epsilon: tuple[str, str] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    """Key and setting of the constant in norms."""
    settings: Callable[[Fields], Fields] = lambda config: {}
    """Metadata of its own from a `config.json`, the reverse of `config`; raises
    UnsupportedGGUFError for values that the GGUF cannot have."""

    @property
    def scales_rotary(self) -> bool:
        """Return whether the class of mlx-lm reads `rope_scaling`."""
        return "rope.scaling.factor" in self.keys


# Tensors outside the blocks.
_VOCABULARY = {"token_embd.weight": "model.embed_tokens", "output_norm.weight": "model.norm"}


def read_architecture(metadata: Mapping[str, Any]) -> tuple[Architecture, Fields]:
    """The architecture of a file and its metadata.

    Raises:
        UnsupportedGGUFError: the architecture or one of the keys is not supported.
    """
    name = str(metadata.get("general.architecture"))
    fields = {
        key.removeprefix(f"{name}."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.")
    }
    rows = (row for own, row in ARCHITECTURES.items() if (row.family or own) == name)
    architecture = next((row for row in rows if row.applies(fields)), None)
    if architecture is None:
        known = ", ".join(sorted({row.family or own for own, row in ARCHITECTURES.items()}))
        raise UnsupportedGGUFError(
            f"The architecture '{name}' is not supported; supported: {known}."
        )
    unknown = sorted(fields.keys() - architecture.keys)
    if unknown:
        raise UnsupportedGGUFError(f"{name}: the setting '{unknown[0]}' is not supported.")
    for key, value in fields.items():
        if isinstance(value, list) and key != _PATTERN:
            raise UnsupportedGGUFError(f"{name}: '{key}' with a value per layer is not supported.")
    return architecture, fields


def module_names(architecture: Architecture, fields: Fields, tensors: set[str]) -> dict[str, str]:
    """GGUF tensor -> MLX module, for all of `tensors` but the rotary table.

    Raises:
        UnsupportedGGUFError: a tensor is missing or not supported.
    """
    names = dict(_VOCABULARY)
    if architecture.requires_output:
        names["output.weight"] = "lm_head"
    for index in range(int(_required(fields, "block_count"))):
        for source, module in architecture.block.items():
            names[f"blk.{index}.{source}.weight"] = f"model.layers.{index}.{module}"
            if source in architecture.biased:
                names[f"blk.{index}.{source}.bias"] = f"model.layers.{index}.{module}"
    if missing := sorted(names.keys() - tensors):
        raise UnsupportedGGUFError(f"The tensor '{missing[0]}' is missing.")
    if "output.weight" in tensors:
        names["output.weight"] = "lm_head"
    table = {"rope_freqs.weight"} if architecture.scales_rotary else set()
    if unknown := sorted(tensors - names.keys() - table):
        raise UnsupportedGGUFError(f"The tensor '{unknown[0]}' is not supported.")
    return names


def row_order(
    architecture: Architecture, head_dim: int, tensor: str, rows: int
) -> NDArray[np.intp] | None:
    """Index of the row in GGUF's `tensor` for each row in MLX; `None` if the order is the same.

    Within a head MLX has the first rows of all rotary pairs, then the second ones; GGUF has the
    two rows of each pair next to each other.

    Raises:
        UnsupportedGGUFError: the rows are not a multiple of the size of a head.
    """
    match = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", tensor)
    if match is None or match[1] not in architecture.interleaved:
        return None
    if rows % head_dim:
        raise UnsupportedGGUFError(f"'{tensor}' has {rows} rows, which {head_dim} does not divide.")
    order = np.arange(rows, dtype=np.intp)
    return order.reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def is_norm(tensor: str) -> bool:
    return tensor.endswith("norm.weight")


def parameter(architecture: Architecture, tensor: str, module: str) -> tuple[str, str]:
    """The MLX module of a GGUF tensor, and the suffix of its parameter."""
    source, suffix = tensor.split(".")[-2:]
    if source in architecture.bare:
        module, _, suffix = module.rpartition(".")
    return module, suffix


def _required(fields: Fields, key: str) -> Any:
    if key not in fields:
        raise UnsupportedGGUFError(f"The setting '{key}' is missing.")
    return fields[key]


def read_config(architecture: Architecture, fields: Fields) -> dict[str, Any]:
    """The model's `config.json`, without its vocabulary.

    Raises:
        UnsupportedGGUFError: a setting is missing, or has a value that mlx-lm cannot have.
    """
    key, setting = architecture.epsilon
    return {
        "model_type": architecture.model_type,
        "architectures": [architecture.hub_class],
        setting: float(_required(fields, key)),
        **architecture.config(fields),
    }


def _require_value(fields: Fields, key: str, value: float) -> None:
    if float(fields.get(key, value)) != value:
        raise UnsupportedGGUFError(f"'{key}' = {fields[key]} is not supported, only {value:g}.")


def _decoder_config(fields: Fields, *, experts: bool = False) -> dict[str, Any]:
    """Settings that all architectures share."""
    heads = int(_required(fields, "attention.head_count"))
    width = int(_required(fields, "embedding_length"))
    head_dim = int(fields.get("attention.key_length", width // heads))
    _require_value(fields, "attention.value_length", head_dim)
    _require_value(fields, "rope.dimension_count", head_dim)
    if not experts:
        _require_value(fields, "expert_count", 0)
    return {
        "hidden_size": width,
        "num_hidden_layers": int(_required(fields, "block_count")),
        "intermediate_size": int(_required(fields, "feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "max_position_embeddings": int(_required(fields, "context_length")),
        "rope_theta": float(fields.get("rope.freq_base", 10000.0)),
        "rope_scaling": rotary.rope_scaling(fields),
    }


def _plain_config(fields: Fields, *, experts: bool = False) -> dict[str, Any]:
    """Settings of a class of mlx-lm that supports no other size of heads."""
    config = _decoder_config(fields, experts=experts)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    _require_value(fields, "attention.key_length", head_dim)
    return config


_PATTERN = "attention.sliding_window_pattern"
_GLOBAL_EVERY = 6
"""Gemma 3: five layers with sliding window attention, then one with full attention."""
_GEMMA3_27B_BLOCKS = 62


def _gemma3_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields)
    _require_value(fields, "final_logit_softcapping", 0)
    heads, blocks = config["num_attention_heads"], config["num_hidden_layers"]
    _require_pattern(fields, _GLOBAL_EVERY)
    # The file lacks the scale of attention; llama.cpp derives it from the blocks too.
    scale = config["hidden_size"] // heads if blocks == _GEMMA3_27B_BLOCKS else config["head_dim"]
    return config | {
        "query_pre_attn_scalar": scale,
        "rope_theta": float(fields.get("rope.freq_base", 1_000_000.0)),
        # llama.cpp's converter and Ollama's have different names for it.
        "rope_local_base_freq": float(
            fields.get("rope.freq_base_swa", fields.get("rope.local.freq_base", 10000.0))
        ),
        "sliding_window": int(_required(fields, "attention.sliding_window")),
        "sliding_window_pattern": _GLOBAL_EVERY,
    }


def _require_pattern(fields: Fields, every: int) -> None:
    """Reject full attention elsewhere than in each block number `every`: llama.cpp does not read
    a value per block."""
    blocks = range(int(_required(fields, "block_count")))
    if fields.get(_PATTERN, every) not in (every, [(i + 1) % every != 0 for i in blocks]):
        raise UnsupportedGGUFError(
            f"'{_PATTERN}' with other blocks than each {every}th is not supported."
        )


def _gemma3_settings(config: Fields) -> Fields:
    if config.get("sliding_window_pattern", _GLOBAL_EVERY) != _GLOBAL_EVERY:
        raise UnsupportedGGUFError("'sliding_window_pattern' is not that of Gemma 3.")
    # GGUF has no key for the scale of attention: llama.cpp derives it from the blocks.
    _require_scale(config, int(config["num_hidden_layers"]) == _GEMMA3_27B_BLOCKS, "Gemma 3")
    return {
        "attention.sliding_window": int(_required(config, "sliding_window")),
        "rope.freq_base_swa": float(_required(config, "rope_local_base_freq")),
    }


_GEMMA2_27B_BLOCKS = 46


def _gemma2_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields)
    window = int(fields.get("attention.sliding_window", 4096))
    per_head = config["hidden_size"] // config["num_attention_heads"]
    is_27b = config["num_hidden_layers"] == _GEMMA2_27B_BLOCKS
    return config | {
        # mlx-lm has no sliding windows in Gemma 2: beyond one the text would be another.
        "max_position_embeddings": min(config["max_position_embeddings"], window),
        "sliding_window": window,
        "query_pre_attn_scalar": per_head if is_27b else config["head_dim"],
        "attn_logit_softcapping": float(fields.get("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": float(fields.get("final_logit_softcapping", 30.0)),
    }


def _gemma2_settings(config: Fields) -> Fields:
    _require_scale(config, int(config["num_hidden_layers"]) == _GEMMA2_27B_BLOCKS, "Gemma 2")
    return {
        "attention.sliding_window": int(_required(config, "sliding_window")),
        "attn_logit_softcapping": float(_required(config, "attn_logit_softcapping")),
        "final_logit_softcapping": float(_required(config, "final_logit_softcapping")),
    }


def _require_scale(config: Fields, is_27b: bool, model: str) -> None:
    per_head = int(config["hidden_size"]) // int(config["num_attention_heads"])
    scale = per_head if is_27b else int(config.get("head_dim") or per_head)
    if config.get("query_pre_attn_scalar", scale) != scale:
        raise UnsupportedGGUFError(f"'query_pre_attn_scalar' is not that of {model}.")


def _expert_numbers(fields: Fields, total: str) -> dict[str, Any]:
    """Numbers of experts for a `config.json` that calls their sum `total`."""
    return {
        total: int(_required(fields, "expert_count")),
        "num_experts_per_tok": int(_required(fields, "expert_used_count")),
    }


def _expert_keys(config: Fields, total: str) -> dict[str, Any]:
    """Metadata of a `config.json`, the reverse of `_expert_numbers`."""
    return {
        "expert_count": int(_required(config, total)),
        "expert_used_count": int(_required(config, "num_experts_per_tok")),
    }


def _experts(fields: Fields) -> dict[str, Any]:
    return _expert_numbers(fields, "num_experts") | {
        "moe_intermediate_size": int(_required(fields, "expert_feed_forward_length")),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _experts_settings(config: Fields) -> Fields:
    if config.get("decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers"):
        raise UnsupportedGGUFError("Layers without experts among others are not supported.")
    return _expert_keys(config, "num_experts") | {
        "expert_feed_forward_length": int(_required(config, "moe_intermediate_size")),
    }


def _qwen3moe_config(fields: Fields) -> dict[str, Any]:
    return _decoder_config(fields, experts=True) | _experts(fields) | {"norm_topk_prob": True}


def _qwen3moe_settings(config: Fields) -> Fields:
    if config.get("norm_topk_prob") is not True:
        raise UnsupportedGGUFError("'norm_topk_prob' = false is not supported.")
    return _experts_settings(config)


def _qwen2moe_config(fields: Fields) -> dict[str, Any]:
    shared = int(_required(fields, "expert_shared_feed_forward_length"))
    own = {"shared_expert_intermediate_size": shared, "norm_topk_prob": False}
    return _plain_config(fields, experts=True) | _experts(fields) | own


def _qwen2moe_settings(config: Fields) -> Fields:
    if config.get("norm_topk_prob"):
        raise UnsupportedGGUFError("'norm_topk_prob' = true is not supported.")
    shared = int(_required(config, "shared_expert_intermediate_size"))
    return {**_experts_settings(config), "expert_shared_feed_forward_length": shared}


_GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _granite_config(fields: Fields) -> dict[str, Any]:
    scales = {name: float(_required(fields, key)) for key, name in _GRANITE_SCALES.items()}
    return _decoder_config(fields) | scales | {"attention_bias": False, "mlp_bias": False}


def _granite_settings(config: Fields) -> Fields:
    for name in _GRANITE_SCALES.values():
        if config.get(name) is None:
            raise UnsupportedGGUFError(f"The setting '{name}' is missing.")
    return {key: float(config[name]) for key, name in _GRANITE_SCALES.items()}


def _phi3_config(fields: Fields) -> dict[str, Any]:
    """Return the settings of a Phi 3; neither engine has its sliding window."""
    config = _decoder_config(fields)
    original = fields.get("rope.scaling.original_context_length", fields.get("context_length"))
    return config | {"original_max_position_embeddings": int(original or 0)}


def _phi3_settings(config: Fields) -> Fields:
    if config.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedGGUFError("'partial_rotary_factor' is not supported.")
    return {
        "rope.scaling.original_context_length": int(
            config.get("original_max_position_embeddings") or config["max_position_embeddings"]
        )
    }


def _gpt_oss_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields, experts=True) | _expert_numbers(fields, "num_local_experts")
    return config | {
        "intermediate_size": int(_required(fields, "expert_feed_forward_length")),
        "sliding_window": int(_required(fields, "attention.sliding_window")),
    }


def _gpt_oss_settings(config: Fields) -> Fields:
    layers = int(config["num_hidden_layers"])
    pattern = (["sliding_attention", "full_attention"] * layers)[:layers]
    if (config.get("layer_types") or pattern) != pattern:
        raise UnsupportedGGUFError("'layer_types' is not that of gpt-oss.")
    return _expert_keys(config, "num_local_experts") | {
        "expert_feed_forward_length": int(_required(config, "intermediate_size")),
        "attention.sliding_window": int(_required(config, "sliding_window")),
    }


def _has_experts(fields: Fields) -> bool:
    return bool(fields.get("expert_count"))


def _mixtral_config(fields: Fields) -> dict[str, Any]:
    return _plain_config(fields, experts=True) | _expert_numbers(fields, "num_local_experts")


def _mixtral_settings(config: Fields) -> Fields:
    return _expert_keys(config, "num_local_experts")


def _granitemoe_config(fields: Fields) -> dict[str, Any]:
    scales = {name: float(_required(fields, key)) for key, name in _GRANITE_SCALES.items()}
    return _mixtral_config(fields) | scales | {"attention_bias": False}


def _granitemoe_settings(config: Fields) -> Fields:
    return {**_granite_settings(config), **_mixtral_settings(config)}


def _olmoe_config(fields: Fields) -> dict[str, Any]:
    numbers = _expert_numbers(fields, "num_experts")
    return _plain_config(fields, experts=True) | numbers | {"norm_topk_prob": False}


def _olmoe_settings(config: Fields) -> Fields:
    # llama.cpp has no groups of queries here.
    _require_settings(config, num_key_value_heads=config["num_attention_heads"])
    _require_settings(config, norm_topk_prob=False, attention_bias=False)
    return _expert_keys(config, "num_experts")


def _require_settings(config: Fields, **values: Any) -> None:
    """Reject settings of a `config.json` that are there with other values: no key has them."""
    for name, value in values.items():
        if config.get(name, value) not in (None, value):
            raise UnsupportedGGUFError(f"'{name}' = {config[name]} is not supported.")


_NO_ROPE_EVERY = 4
"""SmolLM3: three layers with a rotary embedding, then one without; llama.cpp has no key for it."""


def _smollm3_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields)
    return config | {"no_rope_layers": _no_rope_layers(config["num_hidden_layers"])}


def _smollm3_settings(config: Fields) -> Fields:
    _require_settings(
        config,
        no_rope_layers=_no_rope_layers(int(config["num_hidden_layers"])),
        no_rope_layer_interval=_NO_ROPE_EVERY,
        attention_bias=False,
        mlp_bias=False,
    )
    return {}


def _no_rope_layers(layers: int) -> list[int]:
    return [int((index + 1) % _NO_ROPE_EVERY != 0) for index in range(layers)]


def _ernie_config(fields: Fields) -> dict[str, Any]:
    return _decoder_config(fields) | {"use_bias": False}


def _ernie_settings(config: Fields) -> Fields:
    _require_settings(config, use_bias=False)
    return {}


def _seed_config(fields: Fields) -> dict[str, Any]:
    return _decoder_config(fields) | {"attention_bias": True, "attention_out_bias": False}


def _seed_settings(config: Fields) -> Fields:
    _require_settings(config, attention_bias=True, attention_out_bias=False, mlp_bias=False)
    return {}


_COHERE_GLOBAL_EVERY = 4


def _cohere2_config(fields: Fields) -> dict[str, Any]:
    _require_pattern(fields, _COHERE_GLOBAL_EVERY)
    return _plain_config(fields) | {
        "logit_scale": float(_required(fields, "logit_scale")),
        "sliding_window": int(_required(fields, "attention.sliding_window")),
        "sliding_window_pattern": _COHERE_GLOBAL_EVERY,
    }


def _cohere2_settings(config: Fields) -> Fields:
    _require_settings(
        config,
        sliding_window_pattern=_COHERE_GLOBAL_EVERY,
        attention_bias=False,
        layer_norm_bias=False,
    )
    return {
        "logit_scale": float(_required(config, "logit_scale")),
        "attention.sliding_window": int(_required(config, "sliding_window")),
    }


_OLMO3_GLOBAL_EVERY = 4


def _has_window(fields: Fields) -> bool:
    return bool(fields.get("attention.sliding_window"))


def _olmo3_config(fields: Fields) -> dict[str, Any]:
    config = _decoder_config(fields)
    _require_value(fields, "rope.freq_base_swa", config["rope_theta"])
    _require_pattern(fields, _OLMO3_GLOBAL_EVERY)
    return config | {
        "sliding_window": int(fields["attention.sliding_window"]),
        "layer_types": _olmo3_layers(config["num_hidden_layers"]),
    }


def _olmo3_settings(config: Fields) -> Fields:
    layer_types = _olmo3_layers(int(config["num_hidden_layers"]))
    _require_settings(config, attention_bias=False, layer_types=layer_types)
    return {"attention.sliding_window": int(_required(config, "sliding_window"))}


def _olmo3_layers(layers: int) -> list[str]:
    kinds = ("sliding_attention", "full_attention")
    return [kinds[(index + 1) % _OLMO3_GLOBAL_EVERY == 0] for index in range(layers)]


_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ATTENTION = {name: module for name, module in _BLOCK.items() if not name.startswith("ffn_")}
_EXPERTS = {
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
}
_EXPERT_KEYS = frozenset({"expert_used_count", "expert_feed_forward_length"})
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_KEYS = rotary.KEYS | {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "vocab_size",
}

_UNSCALED = frozenset(key for key in _KEYS if not key.startswith("rope.scaling."))
"""Keys of models with a class in mlx-lm that scales no rotary embedding."""
_ONE_NORM = {name: module for name, module in _BLOCK.items() if name != "ffn_norm"}
_SPARSE_BLOCK = {
    name: re.sub(r"^mlp\.", "block_sparse_moe.", module) for name, module in _EXPERTS.items()
}
_OLMO2_BLOCK = (
    {name: module for name, module in _BLOCK.items() if not name.endswith("norm")}
    | _HEAD_NORMS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)

# The first row of a family that applies is used.
ARCHITECTURES: dict[str, Architecture] = {
    "mixtral": Architecture(
        family="llama",
        applies=_has_experts,
        model_type="mixtral",
        hub_class="MixtralForCausalLM",
        block=_ATTENTION | _SPARSE_BLOCK,
        keys=_UNSCALED | {"expert_used_count"},
        config=_mixtral_config,
        settings=_mixtral_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    # Mistral's models too: llama.cpp's converter gives them this name.
    "llama": Architecture(
        model_type="llama",
        hub_class="LlamaForCausalLM",
        block=_BLOCK,
        keys=_KEYS,
        config=_decoder_config,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "qwen2": Architecture(
        model_type="qwen2",
        hub_class="Qwen2ForCausalLM",
        block=_BLOCK,
        keys=_KEYS,
        config=_plain_config,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        hub_class="Qwen3ForCausalLM",
        block=_BLOCK | _HEAD_NORMS,
        keys=_KEYS,
        config=_decoder_config,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        hub_class="Gemma3ForCausalLM",
        block=_BLOCK
        | _HEAD_NORMS
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        keys=_KEYS
        | {
            _PATTERN,
            "attention.sliding_window",
            "final_logit_softcapping",
            "rope.freq_base_swa",
            "rope.local.freq_base",
        },
        config=_gemma3_config,
        settings=_gemma3_settings,
        norm_offset=1.0,
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        hub_class="Gemma2ForCausalLM",
        block=_BLOCK
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        keys=_KEYS
        | {"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"},
        config=_gemma2_config,
        settings=_gemma2_settings,
        norm_offset=1.0,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        hub_class="Qwen3MoeForCausalLM",
        block=_ATTENTION | _HEAD_NORMS | _EXPERTS,
        keys=_KEYS | _EXPERT_KEYS,
        config=_qwen3moe_config,
        settings=_qwen3moe_settings,
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        hub_class="Qwen2MoeForCausalLM",
        block=_ATTENTION
        | _EXPERTS
        | {
            "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
            "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
            "ffn_up_shexp": "mlp.shared_expert.up_proj",
            "ffn_down_shexp": "mlp.shared_expert.down_proj",
        },
        keys=_KEYS | _EXPERT_KEYS | {"expert_shared_feed_forward_length"},
        config=_qwen2moe_config,
        settings=_qwen2moe_settings,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
        rows_of_one=frozenset({"ffn_gate_inp_shexp"}),
        requires_output=True,
    ),
    "granite": Architecture(
        model_type="granite",
        hub_class="GraniteForCausalLM",
        block=_BLOCK,
        keys=_KEYS | _GRANITE_SCALES.keys(),
        config=_granite_config,
        settings=_granite_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "granitemoe": Architecture(
        model_type="granitemoe",
        hub_class="GraniteMoeForCausalLM",
        block=_ATTENTION | _SPARSE_BLOCK | {"ffn_gate_inp": "block_sparse_moe.router.layer"},
        keys=_KEYS | _GRANITE_SCALES.keys() | {"expert_used_count"},
        config=_granitemoe_config,
        settings=_granitemoe_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "smollm3": Architecture(
        model_type="smollm3",
        hub_class="SmolLM3ForCausalLM",
        block=_BLOCK,
        keys=_KEYS,
        config=_smollm3_config,
        settings=_smollm3_settings,
        interleaved=frozenset({"attn_q", "attn_k"}),
    ),
    "ernie4_5": Architecture(
        model_type="ernie4_5",
        hub_class="Ernie4_5ForCausalLM",
        block=_BLOCK,
        keys=_UNSCALED,
        config=_ernie_config,
        settings=_ernie_settings,
    ),
    "seed_oss": Architecture(
        model_type="seed_oss",
        hub_class="SeedOssForCausalLM",
        block=_ONE_NORM | {"post_attention_norm": "post_attention_layernorm"},
        keys=_KEYS,
        config=_seed_config,
        settings=_seed_settings,
        biased=frozenset({"attn_q", "attn_k", "attn_v"}),
    ),
    "olmoe": Architecture(
        model_type="olmoe",
        hub_class="OlmoeForCausalLM",
        block=_ATTENTION | _HEAD_NORMS | _EXPERTS,
        keys=_KEYS | {"expert_used_count"},
        config=_olmoe_config,
        settings=_olmoe_settings,
        requires_output=True,
    ),
    "cohere2": Architecture(
        model_type="cohere2",
        hub_class="Cohere2ForCausalLM",
        block=_ONE_NORM,
        keys=_UNSCALED - {"attention.layer_norm_rms_epsilon"}
        | {
            _PATTERN,
            "attention.layer_norm_epsilon",
            "attention.sliding_window",
            "logit_scale",
            "rope.scaling.type",  # Always `none`.
        },
        config=_cohere2_config,
        settings=_cohere2_settings,
        epsilon=("attention.layer_norm_epsilon", "layer_norm_eps"),
    ),
    "olmo3": Architecture(
        family="olmo2",
        applies=_has_window,
        model_type="olmo3",
        hub_class="Olmo3ForCausalLM",
        block=_OLMO2_BLOCK,
        keys=_KEYS | {_PATTERN, "attention.sliding_window", "rope.freq_base_swa"},
        config=_olmo3_config,
        settings=_olmo3_settings,
        requires_output=True,
    ),
    "olmo2": Architecture(
        model_type="olmo2",
        hub_class="Olmo2ForCausalLM",
        block=_OLMO2_BLOCK,
        keys=_KEYS,
        config=_decoder_config,
        requires_output=True,
    ),
    "phi3": Architecture(
        model_type="phi3",
        hub_class="Phi3ForCausalLM",
        block={
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        keys=_KEYS | {"attention.sliding_window"},
        config=_phi3_config,
        settings=_phi3_settings,
    ),
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        hub_class="GptOssForCausalLM",
        block=_ATTENTION
        | {
            "attn_sinks": "self_attn.sinks",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_gate_inp": "mlp.router",
            "ffn_gate_exps": "mlp.experts.gate_proj",
            "ffn_up_exps": "mlp.experts.up_proj",
            "ffn_down_exps": "mlp.experts.down_proj",
        },
        keys=_KEYS | _EXPERT_KEYS | {"attention.sliding_window"},
        config=_gpt_oss_config,
        settings=_gpt_oss_settings,
        biased=frozenset(
            {
                *("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"),
                *("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
            }
        ),
        bare=frozenset({"attn_sinks"}),
        requires_output=True,
    ),
}
