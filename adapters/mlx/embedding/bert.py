"""BERT, RoBERTa and XLM-RoBERTa; parameters are named as in the files on the hub.

Source: https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/1907.11692
"""

# pyright: basic
from dataclasses import dataclass

import mlx.core as mx
from mlx import nn
from mlx_lm.models.base import BaseModelArgs

from adapters.mlx.embedding.layers import activation, attend, global_mask, split_heads

_PREFIXES = ("bert.", "roberta.", "model.", "0.auto_model.", "auto_model.")
_HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "embeddings.position_ids")
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


@dataclass
class ModelArgs(BaseModelArgs):
    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pad_token_id: int = 0
    position_embedding_type: str | None = "absolute"

    def __post_init__(self) -> None:
        if self.position_embedding_type not in (None, "absolute"):
            raise ValueError(f"{self.position_embedding_type!r} positions are not supported")


class Embeddings(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(args.vocab_size, args.hidden_size)
        self.position_embeddings = nn.Embedding(args.max_position_embeddings, args.hidden_size)
        self.token_type_embeddings = nn.Embedding(args.type_vocab_size, args.hidden_size)
        self.LayerNorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self._padding = None if args.model_type == "bert" else args.pad_token_id

    def __call__(self, ids: mx.array) -> mx.array:
        types = self.token_type_embeddings(mx.zeros_like(ids))
        positions = self.position_embeddings(self._positions(ids))
        return self.LayerNorm(self.word_embeddings(ids) + types + positions)

    def _positions(self, ids: mx.array) -> mx.array:
        if self._padding is None:
            return mx.broadcast_to(mx.arange(ids.shape[1]), ids.shape)
        # RoBERTa's positions start after that of the padding token, which padding keeps.
        real = (ids != self._padding).astype(mx.int32)
        return mx.cumsum(real, axis=1) * real + self._padding


class SelfAttention(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.query = nn.Linear(args.hidden_size, args.hidden_size)
        self.key = nn.Linear(args.hidden_size, args.hidden_size)
        self.value = nn.Linear(args.hidden_size, args.hidden_size)
        self._heads = args.num_attention_heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        parts = (self.query, self.key, self.value)
        queries, keys, values = (split_heads(part(x), self._heads) for part in parts)
        return attend(queries, keys, values, mask)


class Output(nn.Module):
    def __init__(self, width: int, args: ModelArgs) -> None:
        super().__init__()
        self.dense = nn.Linear(width, args.hidden_size)
        self.LayerNorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.self = SelfAttention(args)
        self.output = Output(args.hidden_size, args)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.dense = nn.Linear(args.hidden_size, args.intermediate_size)
        self._activation = activation(args.hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        return self._activation(self.dense(x))


class Layer(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.intermediate = Intermediate(args)
        self.output = Output(args.intermediate_size, args)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.layer = [Layer(args) for _ in range(args.num_hidden_layers)]


class Model(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.embeddings = Embeddings(args)
        self.encoder = Encoder(args)

    def __call__(self, ids: mx.array, real: mx.array) -> mx.array:
        """(rows, tokens) ids and a mask, false for padding -> (rows, tokens, hidden)."""
        x, mask = self.embeddings(ids), global_mask(real)
        for layer in self.encoder.layer:
            x = layer(x, mask)
        return x

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        named = {_parameter_name(name): array for name, array in weights.items()}
        return {name: array for name, array in named.items() if not name.startswith(_HEADS)}


def _parameter_name(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    stem, dot, last = name.rpartition(".")
    return f"{stem}{dot}{_OLD_NAMES.get(last, last)}"
