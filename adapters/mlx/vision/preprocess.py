"""Images and a rendered prompt through the processor of a model: pixels, and tokens in their place.

The processors are mlx-vlm's or, where it has none for a model, those of transformers.
"""

# pyright: basic
import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby, takewhile
from typing import Any

import numpy as np
from mlx_vlm.models.base import BaseImageProcessor
from mlx_vlm.utils import prepare_inputs
from PIL import Image, ImageOps
from transformers.tokenization_utils_base import BatchEncoding

from adapters.errors import InvalidRequestError
from adapters.mlx.vision.protocol import ImagePrompt

Encode = Callable[[str], list[int]]
_TOKENS = ("input_ids", "attention_mask")
"""Outputs of a processor that say no more than the tokens."""


class Preprocessor:
    """The processor of one model. Not for two threads at once."""

    def __init__(self, processor: Any, image_token: int | None) -> None:
        """`image_token`: the id of the placeholder; `None` if the model's settings name none."""
        self._processor = processor
        self._image_token = image_token

    def read(self, text: str, images: list[bytes], encode: Encode) -> ImagePrompt:
        """See `Vision.read`."""
        self._require_places(text, len(images))
        pictures = [_decode(image) for image in images]
        try:
            outputs = dict(self._process(text, pictures, encode))
        except Exception as error:
            raise _refused(error) from error
        rows = np.atleast_2d(np.asarray(outputs["input_ids"]))
        if len(rows) > 1:  # A prompt for each image, as Molmo's.
            raise _refused(ValueError("the model reads one image at a time"))
        ids = [int(token) for token in rows[0]]
        inputs = {name: _to_numpy(value) for name, value in outputs.items() if name not in _TOKENS}
        if "images" in inputs:
            inputs["pixel_values"] = inputs.pop("images")
        digests = [sha256(image).digest() for image in images]
        places = [place for place, token in enumerate(ids) if token == self._image_token]
        places = places or _added(ids, encode(text))
        return ImagePrompt(ids, inputs, tuple(_spans(places or range(len(ids)), digests)))

    def _require_places(self, text: str, count: int) -> None:
        """
        Raises:
            InvalidRequestError: the template leaves images out, in messages of a certain role for
                example.
        """
        marks = [getattr(self._processor, name, None) for name in ("image_token", "boi_token")]
        shown = [text.count(mark) for mark in marks if isinstance(mark, str) and mark]
        if shown and count not in shown:
            raise InvalidRequestError(
                f"The model's chat template shows {max(shown)} of {count} images: send images in "
                "messages of the user.",
                param="images",
            )

    def _process(self, text: str, pictures: list[Any], encode: Encode) -> Mapping[str, Any]:
        own = getattr(self._processor, "image_processor", None)
        if isinstance(own, BaseImageProcessor):
            # The older kind has no placeholders to expand.
            if len(pictures) > 1:
                raise ValueError("the model reads one image at a time")
            return prepare_inputs(
                self._processor, pictures, prompts=text, image_token_index=self._image_token
            )
        processor = copy.copy(self._processor)
        if own is None and not hasattr(processor, "tokenizer"):
            raise ValueError("mlx-vlm has no processor for the images of this model")
        processor.tokenizer = _Tokenizer(processor.tokenizer, encode)
        # Without further keywords: some processors pass those of tokens on to images.
        return getattr(processor, "process", processor)(text=[text], images=pictures)


class _Tokenizer:
    """A tokenizer that encodes with a function, for the processor of images."""

    def __init__(self, tokenizer: Any, encode: Encode) -> None:
        self._tokenizer = tokenizer
        self._encode = encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> BatchEncoding:
        rows = [self._encode(each) for each in ([text] if isinstance(text, str) else text)]
        encoded = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        if options.get("return_token_type_ids"):
            encoded["token_type_ids"] = [[0] * len(row) for row in rows]
        kind = options.get("return_tensors")
        if isinstance(text, str) and kind is None:  # A row, as from the tokenizer itself.
            encoded = {name: rows[0] for name, rows in encoded.items()}
        return BatchEncoding(encoded, tensor_type=kind)

    def encode(self, text: str, **_options: Any) -> list[int]:
        return self._encode(text)


def _decode(data: bytes) -> Image.Image:
    """Decode to three colours, turned as its EXIF data say."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _refused(error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Put what is transparent on white, as Ollama does: black text on nothing would be invisible on
    black, which `convert` alone makes of it. It cuts off all above 255, too."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB")


def _refused(error: Exception) -> InvalidRequestError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InvalidRequestError(f"The model cannot read the images: {reason}", param="images")


def _to_numpy(value: Any) -> Any:
    """Return an array of numpy, which any thread may use; lists of arrays of several shapes stay
    lists."""
    if isinstance(value, (list, tuple)):
        parts = [_to_numpy(part) for part in value]
        if any(not isinstance(part, (np.ndarray, int, float)) for part in parts):
            return parts
        return np.array(parts) if len({np.shape(part) for part in parts}) == 1 else parts
    return value if value is None or isinstance(value, (str, int, float)) else np.array(value)


def _added(ids: list[int], plain: list[int]) -> range:
    """Return the places of the tokens that a processor has added to those of the text, `plain`."""
    start = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, plain, strict=False))
    )
    rest = zip(reversed(ids[start:]), reversed(plain[start:]), strict=False)
    return range(start, len(ids) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest)))


def _spans(places: Sequence[int], digests: list[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield the places of each image. Where they cannot be told apart, all are one."""
    runs = [
        [place for _, place in run]
        for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    ]
    if len(runs) == len(digests):
        for run, digest in zip(runs, digests, strict=True):
            yield run[0], run[-1] + 1, digest
    elif digests:
        yield places[0], places[-1] + 1, sha256(b"".join(digests)).digest()
