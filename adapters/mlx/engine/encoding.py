"""Encoding: the images of one prompt, a piece at a time, before the prompt is read."""

# pyright: basic
from collections.abc import Callable

from adapters.mlx.engine.decode import Cache
from adapters.mlx.engine.prefill import Prefill
from adapters.mlx.jobs import Pieces
from adapters.mlx.vision.protocol import Embedded, ImagePrompt, Vision


class Encoding:
    def __init__(
        self,
        prefill: Prefill,
        vision: Vision,
        images: ImagePrompt,
        empty_cache: Callable[[], Cache],
    ) -> None:
        """`prefill` waits until its images are encoded."""
        self.prefill = prefill
        self._pieces = self._encode(vision, images, empty_cache)

    def advance(self) -> bool:
        """Do the next piece; true after the last, when the prompt can be read.

        Raises whatever the model raises.
        """
        for _ in self._pieces:
            return False
        return True

    def close(self) -> None:
        """Give up: the pieces that are left are not computed."""
        self._pieces.close()

    def _encode(
        self, vision: Vision, images: ImagePrompt, empty_cache: Callable[[], Cache]
    ) -> Pieces[None]:
        prefill = self.prefill
        embedded: Embedded = yield from vision.embed(images, prefill.group.prompt, prefill.done)
        if embedded.whole and prefill.done:
            # A part of an image in the cache has not seen the rest of it.
            prefill.restart(empty_cache())
        prefill.see(embedded)
