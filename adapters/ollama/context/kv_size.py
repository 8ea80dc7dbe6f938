"""Memory of keys and values, and the context lengths that a model and the memory allow.

Another `num_ctx` than the loaded one makes Ollama reload the model, which takes seconds and drops
its prompt cache: sizes are powers of two, and never smaller than the loaded one.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

_F16 = 2
_LOCAL_LAYERS: Mapping[str, float] = {
    "cohere2": 3 / 4,
    "gemma2": 1 / 2,
    "gemma3": 5 / 6,
    "gemma3n": 4 / 5,
    "gptoss": 1 / 2,
    "gpt-oss": 1 / 2,
}
"""Share of layers that attend to the last `attention.sliding_window` tokens only."""


class KeyValues(Struct, frozen=True):
    """Memory of the keys and values of a context, in bytes for each token."""

    per_token: float
    """In the layers that attend to all of it, …"""
    per_token_in_window: float = 0
    """… and in those that attend to `window` tokens."""
    window: int = 0

    def bytes(self, tokens: int) -> int:
        windowed = self.per_token_in_window * min(tokens, self.window)
        return int(self.per_token * tokens + windowed)

    def tokens(self, room: int) -> int:
        """Return the longest context that fits into `room` bytes."""
        alone = room - self.per_token_in_window * self.window
        tokens = alone / self.per_token if self.per_token else 0.0
        if tokens >= self.window:
            return int(tokens)
        return int(max(room, 0) / (self.per_token + self.per_token_in_window))


def key_values(info: Mapping[str, Any]) -> KeyValues | None:
    """Compute the cost from `model_info` of `/api/show`; `None` where that is not enough.

    `None` also for a model of which only some layers have keys and values, unless it lists them:
    too high an estimate would refuse what fits.
    """
    architecture = str(info.get("general.architecture", ""))

    def of(key: str) -> Any:
        return info.get(f"{architecture}.{key}")

    layers, heads = of("block_count"), of("attention.head_count")
    if not isinstance(layers, int) or layers < 1:
        return None
    if isinstance(rank := of("attention.kv_lora_rank"), int):
        return KeyValues((rank + (of("rope.dimension_count") or 0)) * _F16 * layers)
    groups = _groups(of("attention.head_count_kv"), heads, layers)
    widths = _widths(info, architecture, heads)
    recurrent = any(key.startswith(f"{architecture}.ssm.") for key in info)
    if not groups or not widths or (recurrent and not isinstance(groups, list)):
        return None
    total = (sum(groups) if isinstance(groups, list) else groups * layers) * widths * _F16
    window = of("attention.sliding_window")
    local = _LOCAL_LAYERS.get(architecture, 0) if isinstance(window, int) and window > 0 else 0
    return KeyValues(total * (1 - local), total * local, window if local else 0)


def _groups(count: Any, heads: Any, layers: int) -> int | list[int] | None:
    """Return the number of key heads: one figure for all layers, or one for each layer."""
    if isinstance(count, Sequence) and not isinstance(count, str):
        by_layer = cast(Sequence[Any], count)
        counts = [one for one in by_layer if isinstance(one, int)]
        return counts if len(counts) == layers else None
    if isinstance(count, int):
        return count
    return heads if isinstance(heads, int) else None


def _widths(info: Mapping[str, Any], architecture: str, heads: Any) -> int | None:
    """Return the number of components of a key and a value together."""
    key = info.get(f"{architecture}.attention.key_length")
    value = info.get(f"{architecture}.attention.value_length")
    if isinstance(key, int) and isinstance(value, int):
        return key + value
    width = info.get(f"{architecture}.embedding_length")
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        return 2 * (width // heads)
    return None


def system_memory() -> int | None:
    """Return the bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def room_in_memory(cost: KeyValues | None, weights: int | None, budget: int | None) -> int | None:
    """Return the longest context that fits into `budget` bytes beside `weights`.

    0 or less where the weights alone do not fit; `None` where no limit is known.
    """
    if budget is None or weights is None or cost is None:
        return None
    return cost.tokens(budget - weights) if weights < budget else 0


def longest(*limits: int | None) -> int | None:
    """Return the strictest of the limits that are known."""
    return min([limit for limit in limits if limit is not None], default=None)


def choose(needed: int, *, loaded: int | None, floor: int, limit: int | None) -> int:
    """Return the `num_ctx` for `needed` tokens of prompt and answer.

    `loaded` is the context loaded now, kept where it is long enough. `floor` is the least to load.
    """
    if loaded is not None and loaded >= min(needed, limit or needed):
        return loaded if limit is None else min(loaded, limit)
    size = max(power_of_two(needed), floor)
    return size if limit is None else min(size, limit)


def power_of_two(tokens: int) -> int:
    """Return the smallest power of two that is at least `tokens`."""
    return 1 << max(tokens - 1, 0).bit_length()
