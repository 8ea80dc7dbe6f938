"""mlx-lm's decoders read as encoders: Qwen3-Embedding, which looks back only, and EmbeddingGemma,
whose tokens see each other both ways.

Source: https://arxiv.org/abs/2506.05176, https://arxiv.org/abs/2509.20354
"""

# pyright: basic
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models import gemma3_text, qwen3

from adapters.mlx.embedding.attention import every_token, nearby_tokens

Qwen3Args = qwen3.ModelArgs


class Qwen3(nn.Module):
    def __init__(self, args: qwen3.ModelArgs) -> None:
        super().__init__()
        self.model = qwen3.Qwen3Model(args)

    def __call__(self, ids: mx.array, _real: mx.array) -> mx.array:
        """(rows, tokens) ids -> (rows, tokens, hidden). Padding comes last: no token sees it."""
        return self.model(ids)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return _below_model(weights)


class Gemma3Args(gemma3_text.ModelArgs):
    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "Gemma3Args":
        """transformers 5 keeps both thetas in `rope_parameters`, by the type of layer."""
        rope = params.get("rope_parameters") or {}
        places = {"rope_theta": "full_attention", "rope_local_base_freq": "sliding_attention"}
        found = {key: rope[kind]["rope_theta"] for key, kind in places.items() if kind in rope}
        if "_sliding_window_pattern" in params:
            found["sliding_window_pattern"] = params["_sliding_window_pattern"]
        return super().from_dict({**params, **found})


class Gemma3(nn.Module):
    def __init__(self, args: gemma3_text.ModelArgs) -> None:
        super().__init__()
        self.model = gemma3_text.Gemma3Model(args)
        self._scale = args.hidden_size**0.5
        self._reach = args.sliding_window // 2

    def __call__(self, ids: mx.array, real: mx.array) -> mx.array:
        """(rows, tokens) ids, and which of them are no padding -> (rows, tokens, hidden)."""
        x = self.model.embed_tokens(ids)
        x = x * mx.array(self._scale).astype(x.dtype)
        near, every = nearby_tokens(real, self._reach), every_token(real)
        for layer in self.model.layers:
            x = layer(x, near if layer.self_attn.is_sliding else every)
        return self.model.norm(x)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return _below_model(weights)


def _below_model(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The hub's files of an embedding model lack the prefix that a generating one has."""
    return {
        name if name.startswith("model.") else f"model.{name}": array
        for name, array in weights.items()
        if not name.startswith(("lm_head.", "dense."))
    }
