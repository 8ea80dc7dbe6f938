"""Proof, when a model is loaded, that its images are read as its library reads them.

A library that lists a model may still compute it wrongly: features beyond the last one are whatever
memory has there, and embeddings that are more than tokens cannot be read by the engine. So two
pictures are read, and what was found is kept by the model's files and the version of the library.
"""

# pyright: basic
import io
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache
from msgspec import Struct

from adapters.errors import BackendError, GenerationError
from adapters.mlx.engine.admission import leaves
from adapters.mlx.engine.decode import Cache
from adapters.mlx.engine.prefix_disk import fingerprint
from adapters.mlx.jobs import Pieces
from adapters.mlx.kept_results import keep_result, read_result
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.prompt.chat import render_text, tokenize
from adapters.mlx.vision.protocol import Embedded, ImagePrompt, Vision
from adapters.request import GenerationRequest, ImagePart, Message, TextPart

logger = logging.getLogger(__name__)
_FOLDER = "proven-images/1"
"""The number is that of this proof: results of another one are not used."""
_SIZES = ((224, 224), (448, 224))
"""Width and height of the pictures, in pixels: many models divide one that is not square."""
_SAME = 0.05
"""Largest relative difference of arrays that the same operations give. Estimated: they are equal to
the last bit on a CPU; a mask or a scale that is wrong changes them by a multiple of it."""


class ImageProof(Struct, frozen=True):
    """The result of the proof for one model."""

    blind: str
    """Why it reads none; empty if it does."""
    is_causal: bool
    """False if tokens of a text attend to the last one."""


def seeing(loaded: LoadedModel) -> Pieces[LoadedModel]:
    """Return the model, without its vision if that cannot be trusted.

    Raises:
        GenerationError: the engine cannot read its texts either.
    """
    if loaded.vision is None:
        return loaded
    key = fingerprint(loaded.files, f"{mx.default_device()} {loaded.library}")
    known = read_result(_FOLDER, key, ImageProof)
    if known is None:
        known = ImageProof((yield from _fault(loaded, loaded.vision)), _is_causal(loaded))
        keep_result(_FOLDER, key, known)
    if not known.is_causal:
        raise GenerationError(
            "Its prompts are read together with the token after them, which is not supported.",
            lasting=True,
        )
    if not known.blind:
        return loaded
    logger.warning("%s takes no images: %s", loaded.name, known.blind)
    note = f"It takes no images: {known.blind}."
    return replace(loaded, vision=None, blind=known.blind, notes=(*loaded.notes, note))


def _fault(loaded: LoadedModel, vision: Vision) -> Pieces[str]:
    """Return what is wrong with images of this model; empty if nothing is."""
    try:
        with mx.stream(generation_stream):
            if not _reads_embeddings(loaded, vision):
                return f"{loaded.library} reads its own embeddings of a text as another text"
            yield
            for width, height in _SIZES:
                prompt = _prompt(loaded, vision, _picture(width, height))
                yield
                with _checked_gathers():
                    embedded = yield from vision.embed(prompt, prompt.ids, 0)
                if not _ends_in_text(loaded.model, prompt, embedded):
                    return "its prompts are read together with the token after them"
                yield
    except GeneratorExit:
        raise
    except BackendError as error:
        return str(error).removesuffix(".")
    except Exception as error:
        logger.debug("an image cannot be read: %s", error, exc_info=True)
        return f"{loaded.library} fails on one: {type(error).__name__}: {error}"[:300]
    return ""


def _is_causal(loaded: LoadedModel) -> bool:
    """
    Raises:
        GenerationError: mlx-vlm fails on a text.
    """
    try:
        return _reads_forward(loaded)
    except Exception as error:
        raise GenerationError(
            f"{loaded.library} fails on a text: {type(error).__name__}: {error}"[:300], lasting=True
        ) from error


def _reads_forward(loaded: LoadedModel) -> bool:
    tokens = [*loaded.tokenizer.encode("Some text", add_special_tokens=False)] * 2
    one, other = make_prompt_cache(loaded.model), make_prompt_cache(loaded.model)
    with mx.stream(generation_stream):
        loaded.model(mx.array([tokens]), cache=one)
        loaded.model(mx.array([[*tokens[:-1], tokens[0]]]), cache=other)
        return _are_same(*(_keys_before(cache, len(tokens) - 1) for cache in (one, other)))


def _prompt(loaded: LoadedModel, vision: Vision, picture: bytes) -> ImagePrompt:
    content = (TextPart("What is"), ImagePart(""), TextPart("here?"))
    messages = (Message(role="user", content=content),)
    rendered = render_text(loaded, GenerationRequest(model="", prompt=messages), messages)

    def encode(text: str) -> list[int]:
        return tokenize(loaded, text, is_hidden=rendered.is_hidden)

    return vision.read(rendered.text, [picture], encode)


def _picture(width: int, height: int) -> bytes:
    """Return a PNG of shades from one corner to the other."""
    from PIL import Image

    file = io.BytesIO()
    shades = Image.linear_gradient("L").resize((width, height))
    Image.merge("RGB", (shades, shades.rotate(180), shades)).save(file, "PNG")
    return file.getvalue()


def _reads_embeddings(loaded: LoadedModel, vision: Vision) -> bool:
    """Compare a text as tokens with the same text as embeddings: both are read by the same layers,
    and only embeddings can have images between them."""
    tokens = loaded.tokenizer.encode("A text without any image.", add_special_tokens=False)
    plain, embedded = make_prompt_cache(loaded.model), make_prompt_cache(loaded.model)
    loaded.model(mx.array([tokens]), cache=plain)
    inputs = vision.embed_text(tokens)
    loaded.model(mx.array([tokens]), cache=embedded, **inputs)
    return _are_same(_keys(plain), _keys(embedded))


def _ends_in_text(model: Any, prompt: ImagePrompt, embedded: Embedded) -> bool:
    """Read the prompt, twice if it is read in one pass: no token may attend to the last one, which
    is read later, beside the tokens of other answers."""
    read = len(prompt.ids) - 1
    cache = _read(model, prompt.ids, embedded.inputs(0, read + embedded.whole))
    if not embedded.whole:
        return True
    inputs = dict(embedded.inputs(0, read + 1))
    states = inputs["inputs_embeds"]
    inputs["inputs_embeds"] = mx.concatenate([states[:, :-1], states[:, :1]], axis=1)
    other = _read(model, prompt.ids, inputs)
    return _are_same(_keys_before(cache, read), _keys_before(other, read))


def _read(model: Any, ids: list[int], inputs: dict[str, Any]) -> Cache:
    cache = make_prompt_cache(model)
    count = inputs["inputs_embeds"].shape[1]
    mx.eval(model(mx.array([ids[:count]]), cache=cache, **inputs))
    return cache


def _keys(cache: Cache) -> list[mx.array]:
    return [layer.keys for layer in leaves(cache) if getattr(layer, "keys", None) is not None]


def _keys_before(cache: Cache, place: int) -> list[mx.array]:
    return [keys[..., :place, :] for keys in _keys(cache)]


def _are_same(expected: list[mx.array], actual: list[mx.array]) -> bool:
    for one, other in zip(expected, actual, strict=True):
        distance = mx.linalg.norm((one - other).astype(mx.float32))
        size = mx.maximum(mx.linalg.norm(one.astype(mx.float32)), 1e-9)
        relative: Any = (distance / size).item()
        if not relative <= _SAME:
            return False
    return True


@contextmanager
def _checked_gathers() -> Generator[None]:
    """Raise `IndexError` for an index past the end, which MLX reads as whatever memory has there.

    It holds for arrays of all threads; the others compute what they always do.
    """
    gather: Any = mx.array.__getitem__

    def checked(array: mx.array, index: Any) -> mx.array:
        if isinstance(index, mx.array) and index.dtype != mx.bool_ and index.size:
            last: Any = mx.max(index).item()
            if last >= array.shape[0]:
                raise IndexError(f"an image has {array.shape[0]} features for {last + 1} places")
        return gather(array, index)

    mx.array.__getitem__ = checked
    try:
        yield
    finally:
        mx.array.__getitem__ = gather
