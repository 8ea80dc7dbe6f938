"""Forward pass of a GGUF in numpy and float64, from the definitions of its architecture.

Nothing here knows of MLX: tensors go by GGUF's names and lie as GGUF has them.

Sources: Llama 2 (https://arxiv.org/abs/2307.09288), Qwen2 (https://arxiv.org/abs/2407.10671),
Qwen3 (https://arxiv.org/abs/2505.09388), Gemma 3 (https://arxiv.org/abs/2503.19786),
RoPE (https://arxiv.org/abs/2104.09864), YaRN (https://arxiv.org/abs/2309.00071)
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ARCHITECTURES = ("gemma3", "llama", "qwen2", "qwen3")
"""Architectures that this reference computes; llama.cpp itself is the reference of the others."""


class Reference:
    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        self.architecture = str(fields["general.architecture"])
        start = f"{self.architecture}."
        self._settings: dict[str, Any] = {
            key.removeprefix(start): value for key, value in fields.items() if key.startswith(start)
        }
        self._tensors = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in reader.tensors
        }
        self._heads: int = self._settings["attention.head_count"]
        self._kv_heads: int = self._settings["attention.head_count_kv"]
        width: int = self._settings["embedding_length"]
        self._head_dim: int = self._settings.get("attention.key_length", width // self._heads)

    def logits(self, ids: list[int]) -> Array:
        """(tokens, vocabulary)"""
        x = self._tensors["token_embd.weight"][ids]
        if self._is_gemma:
            x = x * np.sqrt(x.shape[1])
        for index in range(self._settings["block_count"]):
            x = x + self._attention(index, x)
            x = x + self._feed_forward(index, x)
        x = self._norm("output_norm", x)
        output = self._tensors.get("output.weight", self._tensors["token_embd.weight"])
        return x @ output.T

    @property
    def _is_gemma(self) -> bool:
        return self.architecture == "gemma3"

    def _attention(self, index: int, x: Array) -> Array:
        block = f"blk.{index}."
        x = self._norm(f"{block}attn_norm", x)
        queries = self._projected(f"{block}attn_q", x, self._heads)
        keys = self._projected(f"{block}attn_k", x, self._kv_heads)
        values = self._projected(f"{block}attn_v", x, self._kv_heads)
        if f"{block}attn_q_norm.weight" in self._tensors:
            queries = self._norm(f"{block}attn_q_norm", queries)
            keys = self._norm(f"{block}attn_k_norm", keys)
        queries, keys = self._rotated(index, queries), self._rotated(index, keys)
        share = self._heads // self._kv_heads
        keys, values = np.repeat(keys, share, axis=0), np.repeat(values, share, axis=0)
        scores = queries @ keys.swapaxes(1, 2) / np.sqrt(self._head_dim)
        scores = np.where(self._seen(index, x.shape[0]), scores, -np.inf)
        mixed = _softmax(scores) @ values
        joined = mixed.swapaxes(0, 1).reshape(x.shape[0], -1)
        out = joined @ self._tensors[f"{block}attn_output.weight"].T
        return self._norm(f"{block}post_attention_norm", out) if self._is_gemma else out

    def _feed_forward(self, index: int, x: Array) -> Array:
        block = f"blk.{index}."
        x = self._norm(f"{block}ffn_norm", x)
        gate, up, down = (
            self._tensors[f"{block}ffn_{name}.weight"].T for name in ("gate", "up", "down")
        )
        active = _gelu(x @ gate) if self._is_gemma else _silu(x @ gate)
        out = (active * (x @ up)) @ down
        return self._norm(f"{block}post_ffw_norm", out) if self._is_gemma else out

    def _norm(self, name: str, x: Array) -> Array:
        epsilon: float = self._settings["attention.layer_norm_rms_epsilon"]
        mean = np.square(x).mean(axis=-1, keepdims=True)
        return x / np.sqrt(mean + epsilon) * self._tensors[f"{name}.weight"]

    def _projected(self, name: str, x: Array, heads: int) -> Array:
        """(heads, tokens, head_dim)"""
        y = x @ self._tensors[f"{name}.weight"].T
        y = y + self._tensors.get(f"{name}.bias", np.zeros(1))
        return y.reshape(x.shape[0], heads, self._head_dim).swapaxes(0, 1)

    def _is_local(self, index: int) -> bool:
        return self._is_gemma and (index + 1) % 6 != 0

    def _seen(self, index: int, tokens: int) -> NDArray[np.bool_]:
        """Return the attention mask, (tokens, tokens): true where a row's token sees a column's."""
        back = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
        window = self._settings["attention.sliding_window"] if self._is_local(index) else tokens
        return (back >= 0) & (back < window)

    def _rotated(self, index: int, x: Array) -> Array:
        speed, size = self._speeds(index)
        angles = np.arange(x.shape[1])[:, None] * speed[None, :]
        cos, sin = np.cos(angles) * size, np.sin(angles) * size
        half = self._head_dim // 2
        if self.architecture == "llama":  # Pairs stand side by side, as the paper draws them.
            a, b = x[..., 0::2], x[..., 1::2]
            turned = np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
            return turned.reshape(x.shape)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def _speeds(self, index: int) -> tuple[Array, float]:
        """Radians a position, of each pair; and what the rotated vectors are multiplied by."""
        base = 10000.0 if self._is_local(index) else self._settings["rope.freq_base"]
        speed = base ** -(np.arange(0, self._head_dim, 2) / self._head_dim)
        if "rope_freqs.weight" in self._tensors:
            return speed / self._tensors["rope_freqs.weight"], 1.0
        kind = self._settings.get("rope.scaling.type", "none")
        if kind == "none" or self._is_local(index):
            return speed, 1.0
        factor = float(self._settings["rope.scaling.factor"])
        if kind == "linear":
            return speed / factor, 1.0
        return self._yarn(speed, base, factor), 0.1 * np.log(factor) + 1

    def _yarn(self, speed: Array, base: float, factor: float) -> Array:
        """Pairs of more than 32 turns in the old context are left, of less than one slowed."""
        context = self._settings["rope.scaling.original_context_length"]

        def place(turns: float) -> float:
            distance = np.log(context / (turns * 2 * np.pi))
            return self._head_dim * distance / (2 * np.log(base))

        first, last = max(np.floor(place(32)), 0), min(np.ceil(place(1)), self._head_dim - 1)
        slowed = np.clip((np.arange(len(speed)) - first) / (last - first), 0, 1)
        return speed * (1 - slowed) + speed / factor * slowed


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
