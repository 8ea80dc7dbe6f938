"""The interface between the engine and a library that reads images. Nothing here imports one.

A model of mlx-lm with vision of its own can be served too: `read` and `embed` are all that prompt
and scheduler call, and the model itself takes what `embed` returns as keywords.
"""

# pyright: basic
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from adapters.mlx.jobs import Pieces

_KEY = 1 << 31
"""Keys of image tokens begin here: no vocabulary has as many tokens."""

_WORK = 8
"""Bytes for each byte of pixels. Estimated: for a patch of 1,176 numbers Qwen2.5-VL's encoder has
1,280 in each of the states of a layer, and three times 3,420 in its feed-forward."""


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt with images, tokenized and preprocessed; no array of MLX yet."""

    ids: list[int]
    """Token ids; each image has as many placeholders as the model has features for it."""
    inputs: Mapping[str, Any]
    """Arrays of numpy by the names that the model expects, such as `pixel_values`."""
    spans: tuple[tuple[int, int, bytes], ...]
    """For each image, in order: its first token, the one after its last, a hash of its bytes."""

    @property
    def end(self) -> int:
        """Return the place after the last token of an image."""
        return max(end for _, end, _ in self.spans)

    @property
    def nbytes(self) -> int:
        """Estimate the bytes of the arrays and of what an encoder makes of them, a layer at a
        time."""
        return _WORK * sum(getattr(value, "nbytes", 0) for value in self.inputs.values())

    def keys(self, ids: list[int]) -> list[int]:
        """Return `ids`, which begin like `self.ids`, with a hash of its image and of its place in
        it for each placeholder: two prompts share keys as far as they show the same images."""
        keys = list(ids)
        for start, end, digest in self.spans:
            for place in range(start, end):
                name = digest + (place - start).to_bytes(4, "little")
                keys[place] = _KEY | int.from_bytes(blake2b(name, digest_size=4).digest()) >> 1
        return keys


class Embedded(NamedTuple):
    """A prompt as the language model reads it."""

    inputs: Callable[[int, int], dict[str, Any]]
    """Keywords of the model for the tokens from one place to another."""
    shift: int = 0
    """Difference between the position of a later token and its place in the prompt."""
    whole: bool = False
    """True if the model reads the prompt in one pass only."""


class Vision(Protocol):
    """Reads images for one loaded model."""

    library: str
    """Name and version of the library, which decide what is computed."""
    end_tokens: frozenset[int]
    """Tokens that end an answer by the library's account."""

    def read(
        self, text: str, images: list[bytes], encode: Callable[[str], list[int]]
    ) -> ImagePrompt:
        """Preprocess a rendered prompt; takes up to seconds. Not for two threads at once.

        `text` has a placeholder for each of `images`, which are files in PNG, JPEG, GIF or WebP;
        `encode` tokenizes text after placeholders were expanded.

        Raises:
            InvalidRequestError: an image cannot be decoded, or the model does not take it.
        """
        ...

    def embed_text(self, ids: list[int]) -> dict[str, Any]:
        """Return the keywords of the model for a text: its embeddings."""
        ...

    def embed(self, prompt: ImagePrompt, ids: list[int], cached: int) -> Pieces[Embedded]:
        """Run the encoder, on the engine's thread, about a layer for each piece.

        `ids`: the complete prompt; `cached`: how many of its tokens are in the cache already.
        """
        ...
