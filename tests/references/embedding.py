"""The same five models in numpy, one text at a time and float64: written from the papers, no mlx.

Each takes the hub's weights by the hub's names, and the ids of one text; it returns a vector for
each token, (tokens, hidden).
"""

from math import erf
from typing import Any

import numpy as np

Array = Any
Weights = dict[str, Array]

gelu = np.vectorize(lambda x: 0.5 * x * (1 + erf(x / 2**0.5)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def heads(x: Array, count: int) -> Array:
    return x.reshape(len(x), count, -1).transpose(1, 0, 2)


def attention(q: Array, k: Array, v: Array, seen: Array, scale: float) -> Array:
    """(heads, tokens, width); `seen` is (tokens, tokens)."""
    k, v = (np.repeat(each, len(q) // len(each), axis=0) for each in (k, v))
    scores = np.where(seen, q @ k.transpose(0, 2, 1) * scale, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    return mixed.transpose(1, 0, 2).reshape(mixed.shape[1], -1)


def rotate(x: Array, theta: float) -> Array:
    width = x.shape[-1]
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(0, width, 2) / width)
    cos, sin = (np.concatenate([each, each], -1) for each in (np.cos(angles), np.sin(angles)))
    turned = np.concatenate([-x[..., width // 2 :], x[..., : width // 2]], -1)
    return x * cos + turned * sin


def near(tokens: int, reach: int) -> Array:
    place = np.arange(tokens)
    return abs(place[:, None] - place[None]) <= reach


def bert(w: Weights, c: dict[str, Any], ids: list[int]) -> Array:
    eps, count = c["layer_norm_eps"], c["num_attention_heads"]
    first = 0 if c["model_type"] == "bert" else c["pad_token_id"] + 1

    def dense(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"], eps)

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][first : first + len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
    for layer in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            heads(dense(x, f"{at}.attention.self.{part}"), count)
            for part in ("query", "key", "value")
        )
        every = np.ones((len(ids), len(ids)), bool)
        seen = attention(q, k, v, every, q.shape[-1] ** -0.5)
        x = norm(dense(seen, f"{at}.attention.output.dense") + x, f"{at}.attention.output")
        wide = gelu(dense(x, f"{at}.intermediate.dense"))
        x = norm(dense(wide, f"{at}.output.dense") + x, f"{at}.output")
    return x


def modernbert(w: Weights, c: dict[str, Any], ids: list[int]) -> Array:
    count, reach = c["num_attention_heads"], c["local_attention"] // 2

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, w[f"{name}.weight"], 0, c["norm_eps"])

    x = norm(w["model.embeddings.tok_embeddings.weight"][ids], "model.embeddings.norm")
    for layer in range(c["num_hidden_layers"]):
        at, whole = f"model.layers.{layer}", layer % c["global_attn_every_n_layers"] == 0
        theta = c["global_rope_theta"] if whole else c["local_rope_theta"]
        y = norm(x, f"{at}.attn_norm") if layer else x
        q, k, v = (
            heads(part, count) for part in np.split(y @ w[f"{at}.attn.Wqkv.weight"].T, 3, -1)
        )
        seen = near(len(ids), len(ids) if whole else reach)
        mixed = attention(rotate(q, theta), rotate(k, theta), v, seen, q.shape[-1] ** -0.5)
        x = x + mixed @ w[f"{at}.attn.Wo.weight"].T
        shaped, gate = np.split(norm(x, f"{at}.mlp_norm") @ w[f"{at}.mlp.Wi.weight"].T, 2, -1)
        x = x + (gelu(shaped) * gate) @ w[f"{at}.mlp.Wo.weight"].T
    return norm(x, "model.final_norm")


def qwen3(w: Weights, c: dict[str, Any], ids: list[int]) -> Array:
    eps = c["rms_norm_eps"]
    x = w["embed_tokens.weight"][ids]
    seen = np.tril(np.ones((len(ids), len(ids)), bool))
    for layer in range(c["num_hidden_layers"]):
        at = f"layers.{layer}"
        y = rms_norm(x, w[f"{at}.input_layernorm.weight"], eps)
        x = x + _grouped(w, c, at, y, seen, c["rope_theta"], c["head_dim"], 0)
        y = rms_norm(x, w[f"{at}.post_attention_layernorm.weight"], eps)
        x = x + _gated(w, at, y, silu)
    return rms_norm(x, w["norm.weight"], eps)


def gemma3(w: Weights, c: dict[str, Any], ids: list[int]) -> Array:
    eps = c["rms_norm_eps"]

    def norm(x: Array, name: str) -> Array:
        return rms_norm(x, 1 + w[f"{name}.weight"], eps)

    x = w["embed_tokens.weight"][ids] * c["hidden_size"] ** 0.5
    for layer in range(c["num_hidden_layers"]):
        at, whole = f"layers.{layer}", (layer + 1) % c["_sliding_window_pattern"] == 0
        theta = c["rope_theta"] if whole else c["rope_local_base_freq"]
        seen = near(len(ids), len(ids) if whole else c["sliding_window"] // 2)
        y = norm(x, f"{at}.input_layernorm")
        mixed = _grouped(w, c, at, y, seen, theta, c["query_pre_attn_scalar"], 1)
        x = x + norm(mixed, f"{at}.post_attention_layernorm")
        y = _gated(w, at, norm(x, f"{at}.pre_feedforward_layernorm"), gelu_tanh)
        x = x + norm(y, f"{at}.post_feedforward_layernorm")
    return norm(x, "norm")


def _grouped(
    w: Weights,
    c: dict[str, Any],
    at: str,
    x: Array,
    seen: Array,
    theta: float,
    scalar: float,
    offset: int,
) -> Array:
    eps = c["rms_norm_eps"]
    q = heads(x @ w[f"{at}.self_attn.q_proj.weight"].T, c["num_attention_heads"])
    k = heads(x @ w[f"{at}.self_attn.k_proj.weight"].T, c["num_key_value_heads"])
    v = heads(x @ w[f"{at}.self_attn.v_proj.weight"].T, c["num_key_value_heads"])
    q = rotate(rms_norm(q, offset + w[f"{at}.self_attn.q_norm.weight"], eps), theta)
    k = rotate(rms_norm(k, offset + w[f"{at}.self_attn.k_norm.weight"], eps), theta)
    return attention(q, k, v, seen, scalar**-0.5) @ w[f"{at}.self_attn.o_proj.weight"].T


def _gated(w: Weights, at: str, x: Array, shape: Any) -> Array:
    gate = shape(x @ w[f"{at}.mlp.gate_proj.weight"].T)
    return (gate * (x @ w[f"{at}.mlp.up_proj.weight"].T)) @ w[f"{at}.mlp.down_proj.weight"].T
