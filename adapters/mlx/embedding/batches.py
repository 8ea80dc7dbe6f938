"""Which inputs are read together: neighbours in length, so that little of a batch is padding."""

from collections.abc import Sequence

Batch = tuple[int, ...]
"""Places of inputs, longest first."""

_MAX_PADDING = 0.25
"""The share of a batch that may be padding; past that another batch costs less."""


def to_batches(lengths: Sequence[int], max_tokens: int, max_rows: int = 64) -> list[Batch]:
    """Places 0 … len(lengths) - 1, each once. A batch is at most `max_tokens`, padding included;
    an input longer than that is a batch of its own."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batches: list[list[int]] = []
    for place in order:
        last = [lengths[each] for each in batches[-1]] if batches else []
        if 0 < len(last) < max_rows and _fits(last, lengths[place], max_tokens):
            batches[-1].append(place)
        else:
            batches.append([place])
    return [tuple(batch) for batch in batches]


def _fits(batch: list[int], length: int, max_tokens: int) -> bool:
    area = batch[0] * (len(batch) + 1)
    padding = area - sum(batch) - length
    return area <= max_tokens and padding <= _MAX_PADDING * area
