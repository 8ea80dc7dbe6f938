"""One loaded embedding model: tokenizes on any thread, computes vectors on the engine thread."""

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
from adapters.mlx.embedding.files import EmbeddingFiles, read_embedding_files
from adapters.mlx.embedding.layers import activation, normalize, pool
from adapters.mlx.jobs import Pieces, beside
from adapters.mlx.models.dequantize import unpack
from adapters.mlx.models.load import explained, read_weights, should_unpack
from adapters.mlx.models.load_progress import Loading
from adapters.mlx.models.rope_settings import add_older_names, names_of
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

_LEAST_TOKENS = 3
"""The beginning, a token of the text, and the end."""

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

    def to_ids(
        self,
        inputs: Sequence[str | TokenIds],
        *,
        truncate: bool = False,
        num_ctx: int | None = None,
    ) -> list[list[int]]:
        """Tokenize; special tokens are added to texts, not to ids. Slow: not for the event loop.

        `truncate`: cut an input that is too long, before its last special tokens. `num_ctx`: tokens
        that an input may have, if the model takes more.

        Raises:
            InvalidRequestError: an input has no token, or an id is not in the vocabulary.
            ContextLengthError: an input is longer than the model's limit.
        """
        ids = [self._to_ids(index, value) for index, value in enumerate(inputs)]
        limits = [each for each in (self.files.max_tokens, num_ctx) if each is not None]
        limit = min(limits, default=None)
        if truncate and limit is not None:
            self._require_room(limit)
            return [self._cut(row, limit) for row in ids]
        for index, row in enumerate(ids):
            if limit is not None and len(row) > limit:
                error = ContextLengthError(
                    f"'{self.name}' reads at most {limit} tokens; input {index} has {len(row)}.",
                    param="input",
                )
                error.limit, error.prompt_tokens = limit, len(row)
                raise error
        return ids

    def _require_room(self, limit: int) -> None:
        """Refuse a limit that leaves no room for a token of the text."""
        if limit < _LEAST_TOKENS:
            error = ContextLengthError(
                f"The input after truncation exceeds maximum context length: {limit} tokens.",
                param="input",
            )
            error.limit = limit
            raise error

    def embed(self, ids: list[list[int]]) -> list[tuple[float, ...]]:
        """Compute the vectors of one batch, on the engine thread."""
        width = max(map(len, ids))
        padded = mx.array([row + [self.padding] * (width - len(row)) for row in ids])
        real = mx.arange(width)[None] < mx.array([[len(row)] for row in ids])
        vectors = pool(self.model(padded, real), real, self.files.pooling)
        for dense in self.dense:
            vectors = dense(vectors)
        if self.files.normalize:
            vectors = normalize(vectors)
        rows: Any = vectors.astype(mx.float32).tolist()
        return [tuple(row) for row in rows]

    def _cut(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        special = set(self.tokenizer.all_special_ids)
        end = next((at for at in range(len(ids), 0, -1) if ids[at - 1] not in special), 0)
        last = ids[end:]
        return ids[: limit - len(last)] + last

    def _to_ids(self, index: int, value: str | TokenIds) -> list[int]:
        ids = list(value.ids) if isinstance(value, TokenIds) else self._encode(value)
        if not ids:  # An empty text has the special tokens of the model, if it has any.
            raise InvalidRequestError(f"Input {index} is empty.", param="input")
        if unknown := [token for token in ids if not 0 <= token < self.vocabulary]:
            raise InvalidRequestError(
                f"{unknown[0]} is not a token of this model; its vocabulary has {self.vocabulary}.",
                param="input",
            )
        return ids

    def _encode(self, text: str) -> list[int]:
        text = self.files.prefix + (text.lower() if self.files.lower_case else text)
        # No warning from the library: inputs that are too long are rejected by `to_ids`.
        return self.tokenizer(text, verbose=False)["input_ids"]


def load_embedder(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading
) -> Pieces[Embedder]:
    """Load the model in `path`, on the engine thread.

    Raises:
        GenerationError: the model cannot be run here; the message says why.
        BackendUnavailableError: no request waits for it any more.
    """
    with explained(path, loading.name):
        files = read_embedding_files(path, json.loads((path / "config.json").read_bytes()))
        model, config = mlx_lm_utils.load_model(path, lazy=True, get_model_classes=_classes)
        packed = unpack(model) if should_unpack(model, dequantize) else []
        yield from read_weights([model], packed, loading)
        tokenizer = yield from beside(lambda: AutoTokenizer.from_pretrained(path))
        return Embedder(
            name=loading.name,
            model=model,
            tokenizer=tokenizer,
            dense=tuple(_dense(path / folder) for folder in files.dense) or _dense_of_model(path),
            files=files,
            vocabulary=config["vocab_size"],
            padding=config.get("pad_token_id") or 0,
        )


def _classes(config: dict[str, Any]) -> tuple[Any, Any]:
    name, model, args = _CLASSES[config["model_type"]]
    module = import_module(name)
    arguments = getattr(module, args)
    add_older_names(config, names_of(arguments), {})
    return getattr(module, model), arguments


def _dense(folder: Path) -> Dense:
    """Load a Dense module of Sentence Transformers from its own folder."""
    config = json.loads((folder / "config.json").read_bytes())
    weights: Any = mx.load(str(folder / "model.safetensors"))
    matrix, bias = weights["linear.weight"], weights.get("linear.bias")
    mx.eval(matrix, bias)
    function = activation(config.get("activation_function", "Tanh").rpartition(".")[2].lower())
    return lambda x: function(x @ matrix.T.astype(x.dtype) + (0 if bias is None else bias))


def _dense_of_model(path: Path) -> tuple[Dense, ...]:
    """Load Dense modules that a conversion to MLX stored among the model's weights."""
    weights: dict[str, Any] = {}
    for file in path.glob("model*.safetensors"):
        arrays: Any = mx.load(str(file))
        weights |= {name: array for name, array in arrays.items() if name.startswith("dense.")}
    indices = sorted({int(name.split(".")[1]) for name in weights})
    layers = [_linear(weights, f"dense.{index}.") for index in indices]
    mx.eval([layer.parameters() for layer in layers])
    return tuple(layers)


def _linear(weights: dict[str, Any], prefix: str) -> nn.Module:
    arrays = {n.removeprefix(prefix): array for n, array in weights.items() if n.startswith(prefix)}
    if "scales" in arrays:
        raise ValueError("quantised dense layers are not supported")
    rows, columns = arrays["weight"].shape
    layer = nn.Linear(columns, rows, bias="bias" in arrays)
    layer.load_weights(list(arrays.items()))
    return layer
