"""ModernBERT: rotary positions, and local attention in most layers.

Source: https://arxiv.org/abs/2412.13663
"""

# pyright: basic
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.base import BaseModelArgs

from adapters.mlx.embedding.layers import activation, attend, global_mask, local_mask, split_heads

_HEADS = ("head.", "decoder.", "classifier.")


@dataclass
class ModelArgs(BaseModelArgs):
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_activation: str = "gelu"
    local_attention: int = 128
    """Size of the window, half of it on either side."""
    global_attn_every_n_layers: int = 3
    layer_types: list[str] | None = None
    global_rope_theta: float = 160_000.0
    local_rope_theta: float | None = 10_000.0
    rope_parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The format of transformers 5: theta for each type of layer."""

    def is_local(self, layer: int) -> bool:
        if self.layer_types is not None:
            return self.layer_types[layer] == "sliding_attention"
        return layer % self.global_attn_every_n_layers != 0

    def theta(self, layer: int) -> float:
        kind = "sliding_attention" if self.is_local(layer) else "full_attention"
        if (theta := self.rope_parameters.get(kind, {}).get("rope_theta")) is not None:
            return theta
        local = self.local_rope_theta or self.global_rope_theta
        return local if self.is_local(layer) else self.global_rope_theta


class Embeddings(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.hidden_size)
        self.norm = _norm(args)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.norm(self.tok_embeddings(ids))


class Attention(nn.Module):
    def __init__(self, args: ModelArgs, layer: int) -> None:
        super().__init__()
        width = args.hidden_size
        self.Wqkv = nn.Linear(width, 3 * width, bias=args.attention_bias)
        self.Wo = nn.Linear(width, width, bias=args.attention_bias)
        self.rope = nn.RoPE(width // args.num_attention_heads, base=args.theta(layer))
        self._heads = args.num_attention_heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        queries, keys, values = (
            split_heads(part, self._heads) for part in mx.split(self.Wqkv(x), 3, axis=-1)
        )
        return self.Wo(attend(self.rope(queries), self.rope(keys), values, mask))


class MLP(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.Wi = nn.Linear(args.hidden_size, 2 * args.intermediate_size, bias=args.mlp_bias)
        self.Wo = nn.Linear(args.intermediate_size, args.hidden_size, bias=args.mlp_bias)
        self._activation = activation(args.hidden_activation)

    def __call__(self, x: mx.array) -> mx.array:
        hidden, gate = mx.split(self.Wi(x), 2, axis=-1)
        return self.Wo(self._activation(hidden) * gate)


class Layer(nn.Module):
    def __init__(self, args: ModelArgs, layer: int) -> None:
        super().__init__()
        # The embeddings are normalised already before the first layer.
        self.attn_norm = _norm(args) if layer else nn.Identity()
        self.attn = Attention(args, layer)
        self.mlp_norm = _norm(args)
        self.mlp = MLP(args)
        self.is_local = args.is_local(layer)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = x + self.attn(self.attn_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.embeddings = Embeddings(args)
        self.layers = [Layer(args, layer) for layer in range(args.num_hidden_layers)]
        self.final_norm = _norm(args)
        self._reach = args.local_attention // 2

    def __call__(self, ids: mx.array, real: mx.array) -> mx.array:
        """(rows, tokens) ids and a mask, false for padding -> (rows, tokens, hidden)."""
        x = self.embeddings(ids)
        local, everything = local_mask(real, self._reach), global_mask(real)
        for layer in self.layers:
            x = layer(x, local if layer.is_local else everything)
        return self.final_norm(x)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        named = {name.removeprefix("model."): array for name, array in weights.items()}
        return {name: array for name, array in named.items() if not name.startswith(_HEADS)}


def _norm(args: ModelArgs) -> nn.LayerNorm:
    return nn.LayerNorm(args.hidden_size, eps=args.norm_eps, bias=args.norm_bias)
