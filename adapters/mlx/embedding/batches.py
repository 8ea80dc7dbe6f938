"""Batches of inputs of similar length."""

from collections.abc import Sequence

_BATCH_ROWS = 64
_MAX_PADDING = 0.25
"""Largest share of padding in a batch; above it a further batch costs less."""


def to_batches(
    lengths: Sequence[int], max_tokens: int, max_rows: int = _BATCH_ROWS
) -> list[tuple[int, ...]]:
    """Group inputs of similar length: indices into `lengths`, each once, longest first.

    A batch has at most `max_tokens`, padding included; a longer input is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        last = [lengths[row] for row in batches[-1]] if batches else []
        area = last[0] * (len(last) + 1) if last else 0
        padding = area - sum(last) - lengths[index]
        has_space = area <= max_tokens and padding <= _MAX_PADDING * area
        if 0 < len(last) < max_rows and has_space:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [tuple(batch) for batch in batches]
