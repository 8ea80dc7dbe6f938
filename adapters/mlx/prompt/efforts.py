"""Find out which levels of reasoning effort a chat template takes."""

from collections.abc import Iterator
from typing import get_args

from adapters.chat_template.plan import Plan
from adapters.chat_template.probing import Probe, Probing
from adapters.request import Message, ReasoningEffort, TextPart

USUAL: dict[ReasoningEffort, ReasoningEffort] = {"minimal": "low", "xhigh": "high"}
"""Levels in place of others: most templates with levels have the three of gpt-oss."""
LEFT_OUT = ""
"""In place of a level: the template has none, and is told none."""
_LEVELS: tuple[ReasoningEffort, ...] = get_args(ReasoningEffort)
"""Levels in their order, `none` first."""
_ASK = Message(role="user", content=(TextPart("Quokka"),))


def find_efforts(plan: Plan) -> Probing[dict[str, str]]:
    """Return the level that each effort is told as, for efforts that the template refuses: the
    nearest one that it takes, the higher of two, or `LEFT_OUT`."""
    found: dict[str, str] = {}
    for effort in _LEVELS:
        for level in _candidates(effort):
            told = None if level == LEFT_OUT else level
            text = yield Probe((_ASK,), form=plan.form, thinking=effort != "none", effort=told)
            if isinstance(text, str):
                if level != USUAL.get(effort, effort):
                    found[effort] = level
                break
    return found


def _candidates(effort: ReasoningEffort) -> Iterator[str]:
    yield USUAL.get(effort, effort)
    if effort != "none":
        place = _LEVELS.index(effort)
        yield from sorted(
            _LEVELS[1:],
            key=lambda level: (abs(_LEVELS.index(level) - place), -_LEVELS.index(level)),
        )
    yield LEFT_OUT
