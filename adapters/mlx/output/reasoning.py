"""The markers around the reasoning of models.

Imports neither mlx nor transformers: the catalogue reads templates with it.
"""

from typing import Any, Literal

from msgspec import Struct

from adapters.chat_template.thought_markers import HARMONY_ANSWER, HARMONY_START, MARKERS

Thinking = Literal["none", "open", "may"]
"""Reasoning before the answer: none, opened by the prompt, or up to the model."""

TAIL = 32
"""Tokens at the end of a prompt that may have the marker and the white space after it."""


class Reasoning(Struct, frozen=True):
    """The texts that open and close the reasoning of one model, and their token ids."""

    start: str
    end: str
    start_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()

    def ends_open(self, prompt: str) -> bool:
        """Return whether `prompt` ends within reasoning."""
        return prompt.rstrip().endswith(self.start)

    def skipped(self, prompt: str) -> str:
        """Return the text that follows `prompt` to skip the reasoning: an empty section."""
        if self.is_harmony:
            return HARMONY_ANSWER
        if prompt.rstrip().endswith(self.end):
            return ""
        opening = "" if self.ends_open(prompt) else f"{self.start}\n"
        return f"{opening}\n{self.end}\n\n"

    @property
    def is_harmony(self) -> bool:
        return self.start == HARMONY_START


def find_reasoning(tokenizer: Any, pair: tuple[str, str] | None) -> Reasoning | None:
    """Return the markers of the model behind mlx-lm's `tokenizer`; `None` without reasoning.

    `pair`: the template's markers, which come before a pair that the vocabulary has as tokens.
    """
    vocabulary = tokenizer.get_vocab()
    pair = pair or next(
        (pair for pair in MARKERS if pair[0] in vocabulary and pair[1] in vocabulary), None
    )
    if pair is None and tokenizer.has_thinking:
        pair = (tokenizer.think_start, tokenizer.think_end)
    return None if pair is None else Reasoning(*pair, *(_ids(tokenizer, text) for text in pair))


def is_open(reasoning: Reasoning | None, tokenizer: Any, prompt: list[int]) -> bool:
    """Return whether the rendered prompt has opened the reasoning, as some templates do."""
    return reasoning is not None and reasoning.ends_open(tokenizer.decode(prompt[-TAIL:]))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
