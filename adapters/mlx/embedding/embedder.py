"""A model that embeds, in memory: texts to ids anywhere, ids to vectors on the engine's thread."""

# pyright: basic
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from mlx import nn
from mlx_lm import utils as mlx_lm_utils
from transformers import AutoTokenizer

from adapters.errors import ContextLengthError, InvalidRequestError
from adapters.mlx.embedding.activations import activation
from adapters.mlx.embedding.files import EmbeddingFiles, read_embedding_files
from adapters.mlx.embedding.pooling import normalized, pool
from adapters.mlx.jobs import Pieces, beside
from adapters.mlx.models.dequantize import unpack
from adapters.mlx.models.load import explained, read_weights, should_unpack
from adapters.mlx.models.load_progress import Loading
from adapters.request import TokenIds

_CLASSES = {
    "bert": ("adapters.mlx.embedding.bert", "Model", "ModelArgs"),
    "roberta": ("adapters.mlx.embedding.bert", "Model", "ModelArgs"),
    "xlm-roberta": ("adapters.mlx.embedding.bert", "Model", "ModelArgs"),
    "camembert": ("adapters.mlx.embedding.bert", "Model", "ModelArgs"),
    "modernbert": ("adapters.mlx.embedding.modernbert", "Model", "ModelArgs"),
    "qwen3": ("adapters.mlx.embedding.decoders", "Qwen3", "Qwen3Args"),
    "gemma3_text": ("adapters.mlx.embedding.decoders", "Gemma3", "Gemma3Args"),
}

Dense = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Embedder:
    name: str
    model: Any
    tokenizer: Any
    dense: tuple[Dense, ...]
    files: EmbeddingFiles
    vocabulary: int
    padding: int

    def to_ids(self, inputs: Sequence[str | TokenIds]) -> list[list[int]]:
        """Special tokens are added to texts, not to ids. May take long: not for the event loop.

        Raises:
            InvalidRequestError: an input is empty, or an id is none of this model.
            ContextLengthError: an input is longer than the model reads.
        """
        ids = [self._to_ids(place, each) for place, each in enumerate(inputs)]
        for place, each in enumerate(ids):
            self._require_room(place, len(each))
        return ids

    def embed(self, ids: list[list[int]]) -> list[tuple[float, ...]]:
        """One batch, on the engine's thread."""
        width = max(map(len, ids))
        padded = mx.array([each + [self.padding] * (width - len(each)) for each in ids])
        real = mx.arange(width)[None] < mx.array([[len(each)] for each in ids])
        vectors = pool(self.model(padded, real), real, self.files.pooling)
        for dense in self.dense:
            vectors = dense(vectors)
        if self.files.normalize:
            vectors = normalized(vectors)
        rows: Any = vectors.astype(mx.float32).tolist()
        return [tuple(row) for row in rows]

    def _to_ids(self, place: int, given: str | TokenIds) -> list[int]:
        if not (given.ids if isinstance(given, TokenIds) else given):
            raise InvalidRequestError(f"Input {place} is empty.", param="input")
        if isinstance(given, TokenIds):
            return self._checked(given.ids)
        text = given.lower() if self.files.lower_case else given
        # verbose: what is too long is refused here, and needs no warning of the library's.
        return self.tokenizer(self.files.prefix + text, verbose=False)["input_ids"]

    def _checked(self, ids: tuple[int, ...]) -> list[int]:
        if unknown := [each for each in ids if not 0 <= each < self.vocabulary]:
            raise InvalidRequestError(
                f"{unknown[0]} is no token of this model, which has {self.vocabulary}.",
                param="input",
            )
        return list(ids)

    def _require_room(self, place: int, tokens: int) -> None:
        limit = self.files.max_tokens
        if limit is not None and tokens > limit:
            raise ContextLengthError(
                f"'{self.name}' reads {limit} tokens at most; input {place} has {tokens}.",
                param="input",
            )


def load_embedder(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading
) -> Pieces[Embedder]:
    """On the engine's thread.

    Raises:
        GenerationError: the files are not a model that can be run here; says why.
        BackendUnavailableError: nobody waits for it any more.
    """
    with explained(path, loading.name):
        return (yield from _load(path, dequantize, loading))


def _load(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading
) -> Pieces[Embedder]:
    files = read_embedding_files(path, json.loads((path / "config.json").read_bytes()))
    model, config = mlx_lm_utils.load_model(path, lazy=True, get_model_classes=_classes)
    packed = unpack(model) if should_unpack(model, dequantize) else []
    yield from read_weights([model], packed, loading)
    tokenizer = yield from beside(lambda: AutoTokenizer.from_pretrained(path))
    return Embedder(
        name=loading.name,
        model=model,
        tokenizer=tokenizer,
        dense=tuple(_dense(path / folder) for folder in files.dense) or _packed_dense(path),
        files=files,
        vocabulary=config["vocab_size"],
        padding=config.get("pad_token_id") or 0,
    )


def _classes(config: dict[str, Any]) -> tuple[Any, Any]:
    module, model, args = _CLASSES[config["model_type"]]
    found = import_module(module)
    return getattr(found, model), getattr(found, args)


def _dense(folder: Path) -> Dense:
    """A matrix of Sentence Transformers', kept in a folder of its own."""
    said = json.loads((folder / "config.json").read_bytes())
    weights: Any = mx.load(str(folder / "model.safetensors"))
    matrix, bias = weights["linear.weight"], weights.get("linear.bias")
    mx.eval(matrix, bias)
    shape = activation(said.get("activation_function", "Tanh").rpartition(".")[2].lower())
    return lambda x: shape(x @ matrix.T.astype(x.dtype) + (0 if bias is None else bias))


def _packed_dense(path: Path) -> tuple[Dense, ...]:
    """Where a conversion to MLX has put the matrices beside the model's own weights."""
    weights: dict[str, Any] = {}
    for file in path.glob("model*.safetensors"):
        found: Any = mx.load(str(file))
        weights |= {name: array for name, array in found.items() if name.startswith("dense.")}
    places = sorted({int(name.split(".")[1]) for name in weights})
    layers = [_linear(weights, f"dense.{place}.") for place in places]
    mx.eval([layer.parameters() for layer in layers])
    return tuple(layers)


def _linear(weights: dict[str, Any], prefix: str) -> nn.Module:
    mine = {n.removeprefix(prefix): array for n, array in weights.items() if n.startswith(prefix)}
    if "scales" in mine:
        raise ValueError("its dense layers are packed, which is not known here")
    rows, columns = mine["weight"].shape
    layer = nn.Linear(columns, rows, bias="bias" in mine)
    layer.load_weights(list(mine.items()))
    return layer
