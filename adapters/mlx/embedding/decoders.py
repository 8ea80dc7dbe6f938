"""Encoders made from mlx-lm's decoders: Qwen3-Embedding with causal attention, EmbeddingGemma with
bidirectional attention.

Source: https://arxiv.org/abs/2506.05176, https://arxiv.org/abs/2509.20354
"""

# pyright: basic
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models import gemma3_text, qwen3

from adapters.mlx.embedding.layers import global_mask, local_mask

Qwen3Args = qwen3.ModelArgs


class Qwen3(nn.Module):
    def __init__(self, args: qwen3.ModelArgs) -> None:
        super().__init__()
        self.model = qwen3.Qwen3Model(args)

    def __call__(self, ids: mx.array, _real: mx.array) -> mx.array:
        """(rows, tokens) ids -> (rows, tokens, hidden). Padding, at the end, is not read."""
        return self.model(ids)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return _with_model_prefix(weights)


class Gemma3Args(gemma3_text.ModelArgs):
    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "Gemma3Args":
        """Read the pattern of windows by the name that transformers 5 gives it, too."""
        if "_sliding_window_pattern" in params:
            params = {**params, "sliding_window_pattern": params["_sliding_window_pattern"]}
        return super().from_dict(params)


class Gemma3(nn.Module):
    def __init__(self, args: gemma3_text.ModelArgs) -> None:
        super().__init__()
        self.model = gemma3_text.Gemma3Model(args)
        self._scale = args.hidden_size**0.5
        self._reach = args.sliding_window // 2

    def __call__(self, ids: mx.array, real: mx.array) -> mx.array:
        """(rows, tokens) ids and a mask, false for padding -> (rows, tokens, hidden)."""
        x = self.model.embed_tokens(ids)
        x = x * mx.array(self._scale).astype(x.dtype)
        local, everything = local_mask(real, self._reach), global_mask(real)
        for layer in self.model.layers:
            x = layer(x, local if layer.self_attn.is_sliding else everything)
        return self.model.norm(x)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return _with_model_prefix(weights)


def _with_model_prefix(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Add the prefix `model.`, which embedding models on the hub lack and generating ones have."""
    return {
        name if name.startswith("model.") else f"model.{name}": array
        for name, array in weights.items()
        if not name.startswith(("lm_head.", "dense."))
    }
