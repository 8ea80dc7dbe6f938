"""Images of unusual kinds, as the processor of a model gets them."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.errors import InvalidRequestError
from adapters.mlx.vision.preprocess import Preprocessor

SIDE = 8
LEFT_BLACK = np.where(np.arange(SIDE) < SIDE // 2, 0, 255).astype(np.uint8)
"""A row: black, then white."""


class Processor:
    """Returns an image as it gets it."""

    tokenizer = SimpleNamespace()

    def __call__(self, text: list[str], images: list[Image.Image]) -> dict[str, Any]:
        return {"input_ids": [[1]], "pixel_values": np.asarray(images[0])}


def seen(image: Image.Image, form: str = "PNG", **options: Any) -> np.ndarray:
    """Return the pixels that the processor gets: (height, width, 3)."""
    file = io.BytesIO()
    image.save(file, form, **options)
    prompt = Preprocessor(Processor(), 1).read("", [file.getvalue()], lambda _text: [1])
    return prompt.inputs["pixel_values"]


def rows(row: np.ndarray) -> np.ndarray:
    return np.tile(row, (SIDE, 1))


def black_on_nothing() -> Image.Image:
    """Black on the left, transparent black on the right."""
    pixels = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    pixels[..., 3] = rows(255 - LEFT_BLACK)
    return Image.fromarray(pixels)


IMAGES = {
    "16 bits": Image.fromarray(rows(LEFT_BLACK).astype(np.uint16) * 257),
    "alpha": black_on_nothing(),
    "grey and alpha": black_on_nothing().convert("LA"),
    "palette": black_on_nothing().quantize(4),
    "1 bit": Image.fromarray(rows(LEFT_BLACK)).convert("1"),
    "grey": Image.fromarray(rows(LEFT_BLACK)),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_image_of_any_kind_is_what_it_looks_like(image: Image.Image):
    pixels = seen(image)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert (pixels == rows(LEFT_BLACK)[..., None]).all()


def test_grey_of_16_bits_keeps_its_shades():
    shades = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    assert (seen(Image.fromarray(shades))[..., 0] == shades >> 8).all()


def test_print_colours_and_turned_photos():
    assert seen(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")[0, 0].tolist() == [255, 0, 0]
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: turn right.
    assert seen(Image.new("RGB", (8, 16)), "JPEG", exif=turned).shape == (8, 16, 3)


class Encoding:
    """A processor with a tokenizer call of its own, and image tokens that no setting names."""

    class tokenizer:
        pass

    def __call__(self, text: list[str], images: list[Image.Image]) -> dict[str, Any]:
        before, after = (self.tokenizer.encode(part) for part in text[0].split("<image>"))  # pyright: ignore
        return {"input_ids": [[*before, -1, -1, -1, *after]], "pixel_values": [[0.0]]}


def test_places_of_an_image_are_the_tokens_that_the_processor_added():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")

    def encode(text: str) -> list[int]:
        return list(text.encode())

    prompt = Preprocessor(Encoding(), None).read("ab<image>c", [file.getvalue()], encode)
    assert prompt.ids == [*b"ab", -1, -1, -1, *b"c"]
    assert [span[:2] for span in prompt.spans] == [(2, 5)]


class Rows(Encoding):
    """Asks the tokenizer for one row, for rows and for arrays, as processors do."""

    def __call__(self, text: list[str], images: list[Image.Image]) -> dict[str, Any]:
        tokenizer: Any = self.tokenizer
        row = tokenizer(text[0], return_tensors=None)["input_ids"]
        assert tokenizer(text)["input_ids"] == [row]
        assert tokenizer(text[0], return_tensors="np")["input_ids"].tolist() == [row]
        return {"input_ids": np.concatenate([np.array(row), [-1]]), "pixel_values": [[0.0]]}


def test_processor_gets_rows_of_tokens_as_from_the_tokenizer_itself():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    prompt = Preprocessor(Rows(), None).read("ab", [file.getvalue()], lambda text: [*text.encode()])
    assert prompt.ids == [*b"ab", -1]


def test_prompt_for_each_image_is_refused():
    class Each(Processor):
        def __call__(self, text: list[str], images: list[Image.Image]) -> dict[str, Any]:
            return {"input_ids": [[1, 2]] * len(images), "pixel_values": [[0.0]]}

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(InvalidRequestError, match="one image at a time"):
        Preprocessor(Each(), 1).read("", [file.getvalue()] * 2, lambda _text: [1])


def test_pixels_of_several_shapes_stay_a_list():
    class Tiles(Processor):
        def __call__(self, text: list[str], images: list[Image.Image]) -> dict[str, Any]:
            tiles = [[np.zeros((3, 2, 2)), np.zeros((3, 2, 5))]]
            return {"input_ids": [[1]], "pixel_values": tiles}

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    prompt = Preprocessor(Tiles(), 1).read("", [file.getvalue()], lambda _text: [1])
    assert [tile.shape for tile in prompt.inputs["pixel_values"][0]] == [(3, 2, 2), (3, 2, 5)]
