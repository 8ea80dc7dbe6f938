"""Encoding: the images of one prompt, a piece at a time, before the prompt is read."""

# pyright: basic

from adapters.mlx.engine.prefill import Prefill
from adapters.mlx.vision.protocol import Embedded, ImagePrompt, Vision


class Encoding:
    def __init__(self, prefill: Prefill, vision: Vision, images: ImagePrompt) -> None:
        """`prefill` waits until its images are encoded."""
        self.prefill = prefill
        self._images = images
        self._pieces = vision.embed(images, prefill.group.prompt, prefill.done)

    def advance(self) -> bool:
        """Do the next piece; true after the last, when the prompt can be read.

        Raises whatever the model raises.
        """
        try:
            next(self._pieces)
        except StopIteration as ended:
            self._end(ended.value)
            return True
        return False

    def close(self) -> None:
        """Give up: the pieces that are left are not computed."""
        self._pieces.close()

    def _end(self, embedded: Embedded) -> None:
        self.prefill.see(embedded)
