"""Corrections of models that mlx-lm 0.32 computes otherwise than transformers does.

Each was found by comparing log probabilities of a tiny model in both.
"""

# pyright: basic
from collections.abc import Mapping
from inspect import getsource
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_WRONG_NAME = "key_proj.weight"


def repaired(model: Any, module: ModuleType) -> Any:
    """Return the model's class, with corrections where its module needs one.

    Falcon H1: its keys lack their factor, because the weights are looked for by another name. A
    folder that mlx-lm converted has the error in its weights.
    Jamba: the weights of the chosen experts sum to 1, where they are those of all experts.
    """
    if module.__name__.endswith(".jamba"):
        module.JambaSparseMoeBlock.__call__ = _weigh_all
    if module.__name__.endswith(".falcon_h1") and _WRONG_NAME in getsource(module):
        return _with_keys_scaled(model)
    return model


def repair_rope(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Turn only a part of each head in GLM-4, of which mlx-lm turns all."""
    rope = config.get("rope_parameters") or {}
    part = config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 0.5))
    if config.get("model_type") == "glm":
        for _, layer in model.named_modules():
            if isinstance(layer, nn.RoPE):
                layer.dims = int(layer.dims * part)


def _weigh_all(self: Any, x: mx.array) -> mx.array:
    gates = mx.softmax(self.router(x), axis=-1, precise=True)
    k = self.num_experts_per_tok
    chosen = mx.stop_gradient(mx.argpartition(-gates, kth=k - 1, axis=-1)[..., :k])
    weights = mx.take_along_axis(gates, chosen, axis=-1)[..., None]
    return (self.switch_mlp(x, chosen) * weights).sum(axis=-2)


def _with_keys_scaled(model: Any) -> Any:
    class Repaired(model):
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            done = super().sanitize(weights)
            if done is weights:
                return done
            factors = {
                "k_proj.weight": self.args.key_multiplier,
                "v_proj.weight": self.args.attention_in_multiplier,
            }
            return {
                name: w * factors.get(".".join(name.split(".")[-2:]), 1) for name, w in done.items()
            }

    return Repaired
