"""A model of mlx-vlm with the interface of mlx-lm's: the engine batches it like any other."""

# pyright: basic
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models import cache as mlx_lm_cache
from mlx_vlm.models import cache as mlx_vlm_cache

from adapters.mlx.vision.positions import RowPositions


class SeeingModel(nn.Module):
    """Reads tokens or their embeddings; returns logits, (rows, tokens, vocabulary).

    Caches are mlx-lm's where mlx-vlm has a copy of the class: then prefixes are kept in blocks,
    and caches may be quantised, as for models of mlx-lm.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.shifts_positions = hasattr(inner.language_model, "get_rope_index")

    @property
    def layers(self) -> Any:
        return self.inner.language_model.layers

    def make_cache(self) -> list[Any]:
        caches = [*map(_to_mlx_lm, mlx_vlm_cache.make_prompt_cache(self.inner.language_model))]
        return [*caches, RowPositions()] if self.shifts_positions else caches

    def __call__(self, inputs: mx.array, cache: Any = None, **embedded: Any) -> mx.array:
        """`embedded`: keywords of the language model, such as `inputs_embeds`."""
        layers = cache
        if self.shifts_positions and cache is not None:
            *layers, positions = cache
            if embedded.get("position_ids") is None:
                # Else the model would go by those of the last prompt that it read.
                embedded["position_ids"] = positions.of(layers, inputs.shape[1])
        output = self.inner.language_model(inputs, cache=layers, **embedded)
        if cache is not None and layers is not cache:
            # Qwen3.5 puts other caches in the list for a single row of a batch.
            cache[: len(layers)] = layers
        return output.logits if hasattr(output, "logits") else output


def _to_mlx_lm(cache: Any) -> Any:
    """Return an empty cache of mlx-lm in place of mlx-vlm's copy; others as they are."""
    if type(cache) is mlx_vlm_cache.KVCache:
        return mlx_lm_cache.KVCache()
    if type(cache) is mlx_vlm_cache.RotatingKVCache:
        return mlx_lm_cache.RotatingKVCache(max_size=cache.max_size, keep=cache.keep)
    return cache
