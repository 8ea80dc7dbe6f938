"""Loading a folder into memory, ready to generate. Runs on the engine's thread only."""

# pyright: basic
import gc
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache
from mlx_lm.tuner.utils import load_adapters

from adapters.errors import BackendError, GenerationError
from adapters.mlx.device import unpacks
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.jobs import Pieces, beside
from adapters.mlx.models.catalog import context_length
from adapters.mlx.models.dequantize import Packed, unpack
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.reasoning import Reasoning, find_reasoning
from adapters.mlx.output.tool_calls import ToolSyntax, find_syntax
from adapters.request import Sampling

logger = logging.getLogger(__name__)
NO_EXTRAS = Extras()


@dataclass(frozen=True)
class LoadedModel:
    name: str
    model: Any
    tokenizer: Any
    """mlx_lm.tokenizer_utils.TokenizerWrapper"""
    vocabulary: Vocabulary
    context_length: int | None
    end_tokens: frozenset[int]
    batchable: bool
    """Every layer's cache can be merged with another's; else one answer at a time."""
    recurrent: bool
    """Some layer keeps a state instead of keys and values, which padding would disturb."""
    sampling: Sampling
    """What the model's authors recommend; empty where they say nothing."""
    reasoning: Reasoning | None
    """What it thinks in, if it thinks aloud."""
    syntax: ToolSyntax | None
    """How it writes calls; None where its template knows no tools."""
    grammars: GrammarCompiler
    files: tuple[Path, ...] = ()
    """What it was loaded from."""
    draft: Any = None
    """A smaller model with the same vocabulary, whose guesses this one checks."""


def load_folder(
    path: Path,
    dequantize: Literal["auto", "always", "never"],
    loading: Loading,
    extras: Extras = NO_EXTRAS,
) -> Pieces[LoadedModel]:
    """
    Raises:
        GenerationError: the files are not a model that mlx-lm can run; says why.
        BackendUnavailableError: nobody waits for it any more.
    """
    with explained(path, loading.name):
        return (yield from _load(path, dequantize, loading, extras))


@contextmanager
def explained(path: Path, name: str) -> Generator[None]:
    """A load, whose failures become a GenerationError; what it had read is freed.

    Raises:
        GenerationError: says why, without the folder.
    """
    try:
        yield
    except BackendError as error:
        # The frames that it comes from hold the weights.
        raise error.with_traceback(None) from None
    except Exception as error:
        logger.exception("loading %s failed", name)
        reason = (str(error).splitlines() or [""])[0].replace(str(path), name)[:200]
        raise GenerationError(
            f"The model '{name}' could not be loaded: {type(error).__name__}: {reason}",
            lasting=True,
        ) from error


def read_weights(models: list[Any], packed: list[Packed], loading: Loading) -> Pieces[None]:
    """Into memory, an array at a time; those of `packed`, which belong to `models`, in pieces.

    Raises:
        BackendUnavailableError: nobody waits for it any more.
    """
    loading.begin(sum(array.nbytes for array in _weights(models)))
    while packed:
        loading.check()
        yield from packed.pop().unpack()
    for array in _weights(models):
        loading.check()
        mx.eval(array)
        loading.advance(array.nbytes)
        yield


def _weights(models: list[Any]) -> list[mx.array]:
    named: list[Any] = [tree_flatten(model.parameters()) for model in models]
    return [array for each in named for _, array in each]


def _load(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading, extras: Extras
) -> Pieces[LoadedModel]:
    model, config, packed = _open(path, dequantize)
    yield
    if extras.lora is not None:
        # New layers come in training mode, which drops some of what they say.
        model = load_adapters(model, str(extras.lora)).eval()
    draft = None
    if extras.draft is not None:
        draft, _, also_packed = _open(extras.draft, dequantize)
        packed += also_packed
    reading_words = beside(lambda: _read_words(path, config, extras.draft))
    next(reading_words)  # It has begun, and goes on while weights are read.
    models = [each for each in (model, draft) if each is not None]
    yield from read_weights(models, packed, loading)
    words = yield from reading_words
    caches = make_prompt_cache(model)
    return LoadedModel(
        name=loading.name,
        model=model,
        tokenizer=words.tokenizer,
        vocabulary=words.vocabulary,
        context_length=context_length(config),
        end_tokens=words.end_tokens,
        batchable=all(hasattr(cache, "merge") for cache in caches),
        recurrent=any(isinstance(cache, (ArraysCache, CacheList)) for cache in caches),
        sampling=recommended_sampling(path),
        reasoning=words.reasoning,
        syntax=words.syntax,
        grammars=GrammarCompiler(words.tokenizer, words.end_tokens),
        files=(*model_files(path), *(model_files(extras.lora) if extras.lora else ())),
        draft=draft,
    )


class Words(NamedTuple):
    """What is known of a model without its weights: reading it takes a second, and no array."""

    tokenizer: Any
    vocabulary: Vocabulary
    end_tokens: frozenset[int]
    reasoning: Reasoning | None
    syntax: ToolSyntax | None


def _read_words(path: Path, config: dict[str, Any], draft: Path | None) -> Words:
    tokenizer: Any = mlx_lm_utils.load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
    if draft is not None:
        _require_same_tokens(tokenizer, mlx_lm_utils.load_tokenizer(draft))
    return Words(
        tokenizer,
        Vocabulary(tokenizer),
        frozenset(tokenizer.eos_token_ids),
        find_reasoning(tokenizer),
        find_syntax(tokenizer),
    )


def _open(
    path: Path, dequantize: Literal["auto", "always", "never"]
) -> tuple[Any, dict[str, Any], list[Packed]]:
    """The model, not read yet, its configuration, and what of it is to be unpacked."""
    model, config = mlx_lm_utils.load_model(path, lazy=True)
    packed = unpack(model) if should_unpack(model, dequantize) else []
    return model, config, packed


def _require_same_tokens(tokenizer: Any, draft: Any) -> None:
    """
    Raises:
        GenerationError: a guess would mean something else to the model that checks it.
    """
    if tokenizer.get_vocab() != draft.get_vocab():
        raise GenerationError("The draft model has other tokens than its base.", lasting=True)


def model_files(path: Path) -> tuple[Path, ...]:
    """The files that decide what the model computes."""
    return tuple(
        sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors", ".py"))
    )


def should_unpack(model: Any, dequantize: Literal["auto", "always", "never"]) -> bool:
    return unpacks(mlx_lm_utils.get_total_parameters(model), dequantize)


def recommended_sampling(path: Path) -> Sampling:
    """What `generation_config.json` recommends.

    Where it recommends no sampling the model decodes greedily, which is mlx-lm's own default.
    """
    file = path / "generation_config.json"
    if not file.is_file():
        return Sampling()
    said = json.loads(file.read_bytes())
    if not said.get("do_sample"):
        return Sampling()
    return Sampling(
        temperature=said.get("temperature", 1.0), top_p=said.get("top_p"), top_k=said.get("top_k")
    )


def free_memory() -> None:
    """Give back what a model held once its last reference is gone."""
    gc.collect()
    mx.clear_cache()
