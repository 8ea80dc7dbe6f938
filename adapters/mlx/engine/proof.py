"""Proof, when a model is loaded, of what the engine may do with it.

Methods on a cache prove nothing: mlx-lm's gemma2 has caches that merge, and gives the rows of a
batch each other's mask. So a few tokens are computed both ways, as rows of a batch and alone, and
compared. What differs is judged by the noise of the weights' own type: the same tokens alone,
summed in another order. A wrong mask is off by orders of magnitude.

The result is kept by the model's files and the versions of mlx and mlx-lm.
"""

# pyright: basic
import copy
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import mlx.core as mx
import msgspec
from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache
from mlx_lm.models.cache import (
    CacheList,
    KVCache,
    QuantizedKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
)
from msgspec import Struct

from adapters.config import MLXConfig
from adapters.mlx.engine.admission import is_bounded, leaves
from adapters.mlx.engine.decode import Cache, merge
from adapters.mlx.engine.prefix_disk import fingerprint
from adapters.mlx.jobs import Pieces
from adapters.mlx.kept_results import keep_result, read_result
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.vision.positions import RowPositions

logger = logging.getLogger(__name__)
T = TypeVar("T")
Rows = list[list[mx.array]]
"""Logits by row and step, (vocabulary,) in float32."""

_PROMPTS = (3, 8, 5)
"""Tokens of the prompts; rows of a batch take them in turn."""
_STEPS = 2
_MOST_ROWS = 64
_FOLDER = "proven/1"
"""The number is that of this proof: results of another one are not used."""
_NOISE = 8.0
"""A batch may differ so many times as much as the same row alone in another order. Noise of tens of
layers is no constant; a wrong mask is off by 100 and more."""
_FLOOR = 2.0**10
"""The least noise, in units of the type's rounding error: a short sum may happen to have none."""
_QUANTISED = 0.75
"""The largest relative difference by quantised caches: 4 bits of noise, not another computation."""
_LONG = 4096
"""Tokens in caches of models that choose the tokens they attend to: more than they choose."""


class Proven(Struct, frozen=True):
    """Abilities that were shown by computing."""

    batches: bool
    """Rows in a batch have the logits that they have alone."""
    reads_together: bool
    """Prompts may be read in one pass, padded at their end."""
    quantises: dict[str, bool] = {}
    """Caches may be quantised to the bits that are the key."""


def proven(loaded: LoadedModel, config: MLXConfig) -> Pieces[LoadedModel]:
    """Return the model with what it may do, found by computing or by an earlier proof."""
    key = _key_of(loaded, config)
    known = read_result(_FOLDER, key, Proven)
    result = known or (yield from prove(loaded.model))
    bits = config.kv_bits
    if bits is not None and str(bits) not in result.quantises:
        able = attempt(lambda: quantises(loaded.model, bits))
        yield
        result = msgspec.structs.replace(
            result, quantises={**result.quantises, str(bits): bool(able)}
        )
    if result != known:
        keep_result(_FOLDER, key, result)
    return _with(loaded, result, config)


def prove(model: Any) -> Pieces[Proven]:
    """Compare the logits of rows in batches with those of the same rows alone.

    The rows alone in another order of computation show the noise that is to be expected.
    """
    caches = make_prompt_cache(model)
    if not all(hasattr(cache, "merge") for cache in caches):
        return Proven(False, False)
    prompts = [_tokens(start, length) for start, length in enumerate(_PROMPTS)]
    alone = attempt(lambda: [_alone(model, prompt) for prompt in prompts])
    yield
    slow = attempt(lambda: [_alone(model, prompt, size=1) for prompt in prompts])
    yield
    if alone is None or slow is None:
        return Proven(False, False)
    limit = _limit(alone, slow)
    batches = True
    for count in _counts(model):
        rows = attempt(lambda count=count: _batched(model, prompts, count))
        batches = batches and rows is not None and _agree(_cycled(alone, count), rows, limit)
        yield
    if batches and any(_chooses(cache) for cache in caches):
        batches = bool(attempt(lambda: _agrees_when_long(model, limit)))
        yield
    together = batches and has_plain_caches(model)
    if together:
        rows = attempt(lambda: _read_together(model, prompts))
        together = rows is not None and _agree(alone, rows, limit)
        yield
    return Proven(batches, together)


def attempt(compute: Callable[[], T]) -> T | None:
    """Return what `compute` returns; `None` if the model's code raises anything."""
    try:
        with mx.stream(generation_stream):
            return compute()
    except GeneratorExit:
        raise
    except BaseException as error:
        logger.debug("a model cannot do that: %s", error, exc_info=True)
        return None


def quantises(model: Any, bits: int) -> bool:
    """Return whether a layer has caches that can be quantised, and the model computes much the same
    with them."""
    prompt = _tokens(0, max(_PROMPTS))
    expected = _alone(model, prompt)
    cache = make_prompt_cache(model)
    model(mx.array([prompt[: len(prompt) // 2]]), cache=cache)
    maybe_quantize_kv_cache(cache, 0, 64, bits)
    if not any(isinstance(layer, QuantizedKVCache) for layer in cache):
        return False
    model(mx.array([prompt[len(prompt) // 2 : -1]]), cache=cache)
    row = [_step(model, [token], cache)[0] for token in (prompt[-1], *_following(prompt))]
    return all(_difference(a, b) < _QUANTISED for a, b in zip(expected, row, strict=True))


def has_plain_caches(model: Any) -> bool:
    """Return whether every layer has keys and values, one per token: padding can be cut off."""
    return all(type(cache) in (KVCache, RowPositions) for cache in make_prompt_cache(model))


def speculates(loaded: LoadedModel) -> bool:
    """Return whether wrong guesses of a draft model can be trimmed off the caches, however long
    they are: a window that is full has nothing to go back to."""
    caches = [make_prompt_cache(model) for model in (loaded.model, loaded.draft)]
    return all(
        can_trim_prompt_cache(cache) and not any(map(is_bounded, leaves(cache))) for cache in caches
    )


def _with(loaded: LoadedModel, result: Proven, config: MLXConfig) -> LoadedModel:
    notes = [*loaded.notes]
    kv_bits, draft = config.kv_bits, loaded.draft
    if kv_bits is not None and not result.quantises.get(str(kv_bits)):
        kv_bits = None
        notes.append("Its keys and values are not quantised: its caches cannot be.")
    if draft is not None and kv_bits is not None:
        draft = None
        notes.append("Its draft is not used: wrong guesses stay in quantised caches.")
    elif draft is not None and not speculates(loaded):
        draft = None
        notes.append(
            "Its draft is not used: wrong guesses cannot be removed from sliding windows or states."
        )
    if not result.batches:
        notes.append("It answers one request at a time: mlx-lm computes its batches differently.")
    for note in notes:
        logger.info("%s: %s", loaded.name, note)
    return replace(
        loaded,
        draft=draft,
        kv_bits=kv_bits,
        batchable=result.batches,
        reads_together=result.reads_together,
        takes_snapshots=kv_bits is not None
        or not all(has_plain_caches(m) for m in (loaded.model, draft) if m is not None),
        notes=tuple(notes),
    )


def _key_of(loaded: LoadedModel, config: MLXConfig) -> str:
    return fingerprint(loaded.files, f"{config.dequantize} {mx.default_device()} {loaded.library}")


def _counts(model: Any) -> list[int]:
    """Return how many rows to try: also as many as a layer has heads of keys, where a mask of rows
    fits heads too and nothing raises."""
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([_tokens(0, 2)]), cache=cache))
    shapes = [layer.keys.shape for layer in leaves(cache) if hasattr(layer, "keys")]
    return sorted({2, 3} | {shape[1] for shape in shapes if 1 < shape[1] <= _MOST_ROWS})


def _tokens(start: int, count: int) -> list[int]:
    """Return ids that every vocabulary has."""
    return [(7 * start + 31 * place) % 97 + 3 for place in range(count)]


def _following(prompt: list[int]) -> list[int]:
    return _tokens(prompt[0], _STEPS)


def _alone(model: Any, prompt: list[int], size: int | None = None) -> list[mx.array]:
    """Return the logits of the steps after `prompt`, which is read `size` tokens at a time."""
    cache = _read_alone(model, prompt, size)
    return [_step(model, [token], cache)[0] for token in (prompt[-1], *_following(prompt))]


def _read_alone(model: Any, prompt: list[int], size: int | None = None) -> Cache:
    cache = make_prompt_cache(model)
    tokens = prompt[:-1]
    for start in range(0, len(tokens), size or len(tokens)):
        model(mx.array([tokens[start : start + (size or len(tokens))]]), cache=cache)
    return cache


def _step(model: Any, tokens: list[int], cache: Cache) -> list[mx.array]:
    """Return the logits after one token of each row."""
    logits = model(mx.array(tokens)[:, None], cache=cache)[:, -1, :].astype(mx.float32)
    mx.eval(logits)
    return list(logits)


def _batched(model: Any, prompts: list[list[int]], count: int) -> Rows:
    """Return the logits of `count` rows: the last one joins the others, as requests do."""
    chosen = [prompts[row % len(prompts)] for row in range(count)]
    caches = [_read_alone(model, prompt) for prompt in chosen]
    merged = merge(caches[:-1])
    for mine, theirs in zip(merged, merge(caches[-1:]), strict=True):
        mine.extend(theirs)
    return _steps(model, chosen, merged)


def _steps(model: Any, prompts: list[list[int]], cache: Cache) -> Rows:
    inputs = [(prompt[-1], *_following(prompt)) for prompt in prompts]
    steps = [_step(model, list(tokens), cache) for tokens in zip(*inputs, strict=True)]
    return [list(row) for row in zip(*steps, strict=True)]


def _read_together(model: Any, prompts: list[list[int]]) -> Rows:
    """Return the logits of rows with prompts that were read in one pass, padded at their end."""
    longest = max(map(len, prompts)) - 1
    merged = merge([make_prompt_cache(model) for _ in prompts])
    padded = [prompt[:-1] + [0] * (longest - len(prompt) + 1) for prompt in prompts]
    model(mx.array(padded), cache=merged)
    caches: list[Cache] = []
    for row, prompt in enumerate(prompts):
        caches.append([layer.extract(row) for layer in merged])
        for layer in caches[-1]:
            layer.trim(longest - len(prompt) + 1)
    return _steps(model, prompts, merge(caches))


def _chooses(cache: Any) -> bool:
    """Return whether a layer keeps what it chooses tokens by, beside keys and values: it chooses
    among more tokens than a short prompt has."""
    return isinstance(cache, CacheList) and sum(hasattr(c, "keys") for c in cache.caches) > 1


def _agrees_when_long(model: Any, limit: float) -> bool:
    """Compare a row beside a longer one with the same row alone, in caches of made-up content."""
    short = [_grown(cache, _LONG - 77) for cache in _read_alone(model, _tokens(0, 8))]
    long = [_grown(cache, _LONG) for cache in _read_alone(model, _tokens(1, 8))]
    expected = _step(model, [5], copy.deepcopy(short))
    rows = _step(model, [5, 7], merge([short, long]))
    return _difference(expected[0], rows[0]) <= limit


def _grown(cache: Any, tokens: int) -> Any:
    """Return a cache of `tokens` random tokens of the size of its own."""
    if isinstance(cache, CacheList):
        return CacheList(*(_grown(part, tokens) for part in cache.caches))
    grown = copy.deepcopy(cache)
    if not hasattr(cache, "keys"):
        return grown
    for name in ("keys", "values"):
        array = getattr(cache, name)[..., : cache.offset, :]
        shape = (*array.shape[:2], tokens, array.shape[3])
        noise = mx.random.normal(shape, array.dtype, key=mx.random.key(tokens))
        setattr(grown, name, noise * mx.sqrt(mx.mean(mx.square(array))) if array.size else noise)
    grown.offset = tokens
    return grown


def _cycled(rows: Rows, count: int) -> Rows:
    return [rows[row % len(rows)] for row in range(count)]


def _limit(alone: Rows, slow: Rows) -> float:
    """Return the largest difference that is noise."""
    noise = sorted(
        _difference(a, b)
        for one, other in zip(alone, slow, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    # The middle, not the most: an expert that is chosen by a hair is no noise of the type.
    return _NOISE * max(noise[len(noise) // 2], _FLOOR * 2.0**-24)


def _agree(expected: Rows, rows: Rows, limit: float) -> bool:
    """Return whether most steps of each row are within the limit: where experts are chosen by a
    hair a step may differ; a wrong mask changes every step of its row."""
    return all(
        sum(_difference(a, b) <= limit for a, b in zip(one, other, strict=True)) * 2 > len(one)
        for one, other in zip(expected, rows, strict=True)
    )


def _difference(expected: mx.array, actual: mx.array) -> float:
    """Return the L2 norm of the difference, over that of the expected logits around their mean."""
    spread = mx.linalg.norm(expected - mx.mean(expected))
    relative = mx.linalg.norm(expected - actual) / mx.maximum(spread, 1e-9)
    value: Any = relative.item()
    return float("inf") if math.isnan(value) else value
