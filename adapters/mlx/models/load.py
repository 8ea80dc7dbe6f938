"""Load a model folder into memory. Runs on the engine's thread only."""

# pyright: basic
import gc
import logging
import re
import sys
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.utils import load_adapters

from adapters.chat_template.template import ChatTemplate
from adapters.errors import BackendError, GenerationError
from adapters.mlx.device import unpacks
from adapters.mlx.grammar.compiler import GrammarCompiler
from adapters.mlx.jobs import Pieces, beside
from adapters.mlx.models.catalog import context_length, read_config
from adapters.mlx.models.dequantize import Packed, unpack
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.models.rope_settings import classes_of
from adapters.mlx.models.tokenizer import open_tokenizer
from adapters.mlx.models.transformers_settings import (
    unread,
    unread_short_factors,
    unread_window,
    with_output,
)
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.reasoning import Reasoning, find_reasoning
from adapters.mlx.output.tool_calls import ToolSyntax
from adapters.mlx.prompt.control_tokens import ControlTokens
from adapters.mlx.prompt.learned import Learned
from adapters.mlx.prompt.template import read_template
from adapters.mlx.vision.protocol import Vision
from adapters.mlx.vision.support import sight_of
from adapters.recommended_sampling import read_generation_config
from adapters.request import Sampling

logger = logging.getLogger(__name__)
NO_EXTRAS = Extras()
_ABSOLUTE = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?/(?:[^\s'\":,/]+/)+([^\s'\":,/]*)")
_REASON_LENGTH = 400
"""Characters: mlx-lm names each parameter that is missing, which may be thousands."""


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
    """True if rows of a batch have the text that they have alone; else one answer at a time."""
    sampling: Sampling
    """The defaults that the model's authors recommend, if any."""
    reasoning: Reasoning | None
    """The reasoning markers of a reasoning model."""
    syntax: ToolSyntax | None
    """The syntax of its tool calls; `None` if its template supports no tools."""
    grammars: GrammarCompiler
    control: ControlTokens
    template: ChatTemplate | None = None
    """`None`: the model is not for chats."""
    learned: Learned | None = None
    """Facts that the template shows."""
    files: tuple[Path, ...] = ()
    """The files it was loaded from."""
    draft: Any = None
    """A smaller model with the same vocabulary for speculative decoding."""
    reads_together: bool = False
    """True if prompts may be read in one pass, padded at their end."""
    kv_bits: int | None = None
    """Bits of quantised keys and values; `None`: they are not quantised."""
    takes_snapshots: bool = False
    """True if its caches cannot be cut to fewer tokens: the prefix cache keeps whole states."""
    notes: tuple[str, ...] = ()
    """See `Model.notes`."""
    vision: Vision | None = None
    """Reads images; `None` for a model that does not."""
    vision_thread: ThreadPoolExecutor | None = None
    """The thread that decodes and scales images."""
    blind: str = ""
    """Why a model of a library for images reads none."""
    library: str = ""
    """Name and version of the library of the model, if it is not mlx-lm."""
    start: tuple[int, ...] = ()
    """Tokens before each chat, which its template may write itself."""

    def close(self) -> None:
        """Stop its threads."""
        self.grammars.close()
        if self.vision_thread is not None:
            self.vision_thread.shutdown(wait=False, cancel_futures=True)


def load_folder(
    path: Path,
    dequantize: Literal["auto", "always", "never"],
    loading: Loading,
    extras: Extras = NO_EXTRAS,
) -> Pieces[LoadedModel]:
    """Load a model for text generation. `engine/proof.py` says afterwards what it can do.

    Raises:
        GenerationError: the files are not a model that mlx-lm can run; says why.
        BackendUnavailableError: the load was cancelled.
    """
    with explained(path, loading.name, *extras.folders):
        return (yield from _load(path, dequantize, loading, extras))


_PLAIN = (nn.Linear, nn.Embedding, nn.RMSNorm, nn.LayerNorm, SwitchLinear)
"""Layers that are not quantised."""


@contextmanager
def explained(path: Path, name: str, *parts: Path) -> Generator[None]:
    """Turn the failures of a load into a GenerationError; arrays read so far are freed.

    `parts`: further folders of the model. Everything that a model's code may raise is turned,
    `SystemExit` too.

    Raises:
        GenerationError: says why, without any path of the machine.
    """
    try:
        yield
    except GeneratorExit:
        raise
    except BackendError as error:
        # The frames of its traceback hold the weights.
        raise error.with_traceback(None) from None
    except BaseException as error:
        logger.exception("loading %s failed", name)
        named = {path: name} | {part: part.name for part in parts}
        raise GenerationError(
            f"The model '{name}' could not be loaded: {type(error).__name__}: "
            f"{without_paths(str(error), named)}",
            lasting=True,
        ) from error


def without_paths(text: str, named: Mapping[Path, str]) -> str:
    """Return `text` as one short line, folders replaced by their names in `named`, and every other
    absolute path by its last part."""
    for path, name in named.items():
        text = text.replace(str(path), name)
    line = _ABSOLUTE.sub(r"\1", " ".join(text.split()))
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}…"


def read_weights(models: list[Any], packed: list[Packed], loading: Loading) -> Pieces[None]:
    """Read weights into memory, array by array; unpack `packed`, which belong to `models`.

    Raises:
        BackendUnavailableError: the load was cancelled.
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
    return [array for parameters in named for _, array in parameters]


def _load(
    path: Path, dequantize: Literal["auto", "always", "never"], loading: Loading, extras: Extras
) -> Pieces[LoadedModel]:
    sampling = recommended_sampling(path, loading.name)
    sees = not extras.folders and sight_of(path, read_config(path) or {}) == "supported"
    model, config, packed = _open(path, dequantize, sees=sees)
    yield
    if extras.lora is not None:
        # New layers are in training mode, with dropout.
        model = load_adapters(model, str(extras.lora)).eval()
    draft = None
    if extras.draft is not None:
        draft, _, also_packed = _open(extras.draft, dequantize, sees=False)
        packed += also_packed
    reading_tokenizer = beside(lambda: _read_tokenizer(path, config, extras.draft))
    next(reading_tokenizer)  # It goes on while weights are read.
    models = [m for m in (model, draft) if m is not None]
    yield from read_weights(models, packed, loading)
    texts = yield from reading_tokenizer
    loaded = LoadedModel(
        name=loading.name,
        model=model,
        tokenizer=texts.tokenizer,
        vocabulary=texts.vocabulary,
        context_length=context_length(config),
        end_tokens=texts.end_tokens,
        batchable=False,
        sampling=sampling,
        reasoning=texts.reasoning,
        syntax=texts.syntax,
        grammars=GrammarCompiler(texts.tokenizer, texts.end_tokens),
        control=texts.control,
        template=texts.template,
        learned=texts.learned,
        files=(*model_files(path), *(model_files(extras.lora) if extras.lora else ())),
        draft=draft,
        notes=_notes_of(config, model),
    )
    return (yield from _with_vision(loaded, path)) if sees else loaded


def _notes_of(config: dict[str, Any], model: Any) -> tuple[str, ...]:
    """Return what the model's code leaves out of its `config.json`."""
    module = sys.modules[type(model).__module__]
    notes = unread(config, module) if module.__name__.startswith("mlx_lm.models.") else ()
    if (short := unread_short_factors(config, model)) is not None:
        notes += (f"Up to {short} tokens its text is another one: mlx-lm has no short factors.",)
    window = unread_window(config, model)
    if window is None:
        return notes
    past = f"Past {window} tokens its text is another one: mlx-lm has no sliding window for it."
    return (*notes, past)


def _with_vision(loaded: LoadedModel, path: Path) -> Pieces[LoadedModel]:
    from adapters.mlx.vision.load import MLXVLMVision, read_processor, with_placeholders

    processor = yield from beside(lambda: read_processor(path))
    vision = MLXVLMVision(loaded.model, processor)
    learned = loaded.learned
    if loaded.template is not None and learned is not None:
        learned = with_placeholders(loaded.template, learned, vision.placeholder)
    start = tuple(loaded.tokenizer.encode(""))
    ends = loaded.end_tokens | vision.end_tokens
    return replace(
        loaded,
        end_tokens=ends,
        grammars=GrammarCompiler(loaded.tokenizer, ends),
        vision=vision,
        library=vision.library,
        control=ControlTokens(
            loaded.tokenizer, (vision.placeholder,) if vision.placeholder else ()
        ),
        vision_thread=ThreadPoolExecutor(1, thread_name_prefix="mlx-images"),
        learned=learned,
        start=start if start == (loaded.tokenizer.bos_token_id,) else (),
    )


class Tokenization(NamedTuple):
    """The tokenizer of a model and what derives from it: reading takes a second, and no array."""

    tokenizer: Any
    vocabulary: Vocabulary
    end_tokens: frozenset[int]
    reasoning: Reasoning | None
    syntax: ToolSyntax | None
    control: ControlTokens
    template: ChatTemplate | None
    learned: Learned | None


def _read_tokenizer(path: Path, config: dict[str, Any], draft: Path | None) -> Tokenization:
    tokenizer: Any = open_tokenizer(path, config.get("eos_token_id"))
    own = tokenizer.get_vocab() if draft is not None else None
    if draft is not None and own != open_tokenizer(draft).get_vocab():
        raise GenerationError("The draft model's vocabulary differs from its base's.", lasting=True)
    template, learned = read_template(path, tokenizer)
    return Tokenization(
        tokenizer,
        Vocabulary(tokenizer),
        frozenset(tokenizer.eos_token_ids),
        find_reasoning(tokenizer, learned.markers if learned is not None else None),
        learned.syntax if learned is not None else None,
        ControlTokens(tokenizer),
        template,
        learned,
    )


def _open(
    path: Path, dequantize: Literal["auto", "always", "never"], *, sees: bool
) -> tuple[Any, dict[str, Any], list[Packed]]:
    """Return the model with lazy weights, its configuration, and the weights to unpack; `sees`:
    the model of mlx-vlm, which reads images too."""
    if sees:
        from adapters.mlx.vision.load import open_model

        model, config = open_model(path), mlx_lm_utils.load_config(path)
    else:
        model, config = mlx_lm_utils.load_model(
            path,
            lazy=True,
            model_config=with_output(path, read_config(path) or {}),
            get_model_classes=classes_of,
        )
    _require_floats(model)
    packed = unpack(model) if should_unpack(model, dequantize) else []
    return model, config, packed


def _require_floats(model: Any) -> None:
    """Refuse integers in a layer that computes with its weights as they are. MLX reads numbers of
    8 bits (`F8_E4M3`) as integers too, and mlx-lm does not compare types.

    Raises:
        GenerationError: names the weights.
    """
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None) if type(layer) in _PLAIN else None
        if weight is not None and not mx.issubdtype(weight.dtype, mx.floating):
            raise GenerationError(
                f"The weights '{name}.weight' have 8-bit numbers or integers without a scale that "
                "mlx-lm reads. Convert the original model with 'mlx_lm.convert'.",
                lasting=True,
            )


def model_files(path: Path) -> tuple[Path, ...]:
    """Return the files that decide what the model computes."""
    return tuple(
        sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors", ".py"))
    )


def should_unpack(model: Any, dequantize: Literal["auto", "always", "never"]) -> bool:
    return unpacks(mlx_lm_utils.get_total_parameters(model), dequantize)


def recommended_sampling(path: Path, name: str) -> Sampling:
    """Return the sampling that the `generation_config.json` of the model `name` recommends.

    Raises:
        GenerationError: a value has a wrong type or size.
    """
    try:
        config = read_generation_config(path)
    except (ValueError, RecursionError) as error:
        raise GenerationError(
            f"The model '{name}' could not be loaded: its generation_config.json is wrong: "
            f"{error}.",
            lasting=True,
        ) from error
    return Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k if config.top_k is not None and config.top_k > 0 else None,
        min_p=config.min_p,
    )


def free_memory() -> None:
    """Free the memory of models without references."""
    gc.collect()
    mx.clear_cache()
