"""The prompts of a benchmark: of two lengths, and each of them new."""

from typing import Literal

Length = Literal["short", "long"]

_DAYS = 12
"""In a long prompt, of about 45 tokens each."""


def question(length: Length, key: str) -> str:
    """A question like all others of that length; `key` makes it one that was never asked before,
    from its beginning on, so that no engine has read any of it."""
    task = "Write a long story about what the keeper of the lighthouse saw next, in detail."
    if length == "short":
        return f"Note {key}: the harbour was quiet that morning, and the boats lay still. {task}"
    days = " ".join(_day(number, key) for number in range(1, _DAYS + 1))
    return f"Note {key}, the log of a harbour. {days} {task}"


def _day(number: int, key: str) -> str:
    return (
        f"On day {number} of log {key} the wind came from the west, {number + 2} boats lay along "
        "the pier, and gulls walked between the ropes and the empty crates until the evening bell."
    )
