"""Positions of rows with images, which take fewer positions than tokens, as in Qwen's models.

Beside the caches of the layers, a row has one of these: so it follows the row through batches,
copies and snapshots.
"""

# pyright: basic
from collections.abc import Sequence
from typing import Any

import mlx.core as mx


class RowPositions:
    """The shift between a token's place in the prompt and its position, for each row."""

    def __init__(self, shifts: mx.array | None = None) -> None:
        """`shifts`: (rows,) int32; 0 for a prompt without images."""
        self.shifts = mx.zeros((1,), dtype=mx.int32) if shifts is None else shifts

    def of(self, layers: Sequence[Any], tokens: int) -> mx.array:
        """Return the positions of the next `tokens` of each row, (3, rows, tokens): time, height
        and width of text are the same."""
        offset = next(layer.offset for layer in layers if hasattr(layer, "offset"))
        starts = self.shifts + (offset if isinstance(offset, mx.array) else int(offset))
        positions = starts[:, None] + mx.arange(tokens, dtype=mx.int32)[None]
        return mx.broadcast_to(positions[None], (3, *positions.shape))

    # The interface of mlx-lm's caches.

    @property
    def state(self) -> mx.array:
        return self.shifts

    @property
    def nbytes(self) -> int:
        return 0

    def is_trimmable(self) -> bool:
        return True

    def trim(self, count: int) -> int:
        return count

    @classmethod
    def merge(cls, rows: Sequence["RowPositions"]) -> "RowPositions":
        return cls(mx.concatenate([row.shifts for row in rows]))

    def extend(self, other: "RowPositions") -> None:
        self.shifts = mx.concatenate([self.shifts, other.shifts])

    def filter(self, keep: Any) -> None:
        self.shifts = self.shifts[keep if isinstance(keep, mx.array) else mx.array(keep)]

    def extract(self, row: int) -> "RowPositions":
        return RowPositions(self.shifts[row : row + 1])
