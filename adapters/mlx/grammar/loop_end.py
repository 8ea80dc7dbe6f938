"""Logits processor that closes JSON in which a model repeats itself for ever."""

# pyright: basic
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import mlx.core as mx

from adapters.errors import BackendError

logger = logging.getLogger(__name__)

_LOOP = 256
"""Tokens in which nothing new came."""
_LONGEST_TURN = 16
"""Tokens of what is repeated, at most: a word, an item of a list."""
_BETWEEN_LOOKS = 16


class LoopEnd:
    """A `LogitsProcessor` of one sequence, to be called after that of a grammar.

    Small models repeat an item of a list or a word until their context is full. A value that has
    done so for 256 tokens is closed, with the list or the object around it, where the grammar
    allows that within the next turn; the answer goes on behind it.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        """`ends`: the tokens that end an answer."""
        self.error: BackendError | None = None
        self._tokenizer = tokenizer
        self._quote, *self._brackets = (_token_of(tokenizer, text) for text in '"]}')
        closing = (self._quote, *self._brackets, *ends)
        self._closing_tokens = [token for token in closing if token >= 0]
        self._line_break = tokenizer.encode("\n", add_special_tokens=False)[-1]
        self._recent: deque[int] = deque(maxlen=_LOOP)
        self._until_look = _LOOP
        self._started = False
        self._turn = ""
        """Text of what is repeated while that is being closed, or ""."""
        self._patience = 0
        """Tokens that may come before something can be closed."""

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        # The first call has no new token.
        if self._started:
            self._note(int(tokens[-1].item()))  # pyright: ignore[reportArgumentType]
        self._started = True
        return self._closing(logits) if self._turn else logits

    def _note(self, token: int) -> None:
        if self._turn:
            self._note_closing(token)
        self._recent.append(token)
        self._until_look -= 1
        if self._until_look <= 0 and not self._turn:
            self._until_look = _BETWEEN_LOOKS
            self._look()

    def _note_closing(self, token: int) -> None:
        """Stop behind a bracket that is no part of what is repeated."""
        is_repeated = self._tokenizer.decode([token]) in self._turn
        if token in self._brackets and not is_repeated:
            self._go_on()
        elif token in self._brackets or (token == self._quote and not is_repeated):
            self._patience = 0
        else:
            self._patience -= 1

    def _look(self) -> None:
        recent = [*self._recent]
        if turn := _turn(recent):
            self._turn = self._tokenizer.decode(recent[-turn:])
            self._patience = _LONGEST_TURN
            logger.info("A value in JSON repeats itself, and is closed.")

    def _closing(self, logits: mx.array) -> mx.array:
        """Leave the tokens that close something, if the grammar allows any of them."""
        if logits[0, self._line_break].item() != -mx.inf:
            self._go_on()  # A line break is possible in thoughts and prose, never in JSON.
            return logits
        text = self._tokenizer.decode([*self._recent][-4:])
        if text.endswith("\\"):
            return logits  # A quote would be one of the text.
        allowed = [token for token in self._closing_tokens if logits[0, token].item() != -mx.inf]
        if {*self._brackets} <= {*allowed}:
            # Both are possible in a text only, which a quote closes.
            allowed = [token for token in allowed if token == self._quote]
        elif text.rstrip().endswith((",", ":", "[", "{")):
            allowed = [token for token in allowed if token != self._quote]  # It would open a text.
        if not allowed:
            if self._patience <= 0:
                self._go_on()
            return logits
        closing = mx.full(logits.shape, -mx.inf, logits.dtype)
        closing[:, allowed] = logits[:, allowed]
        return closing

    def _go_on(self) -> None:
        self._turn = ""
        self._until_look = _LOOP


def _token_of(tokenizer: Any, text: str) -> int:
    """Return the token that is `text`, or -1."""
    token = tokenizer.convert_tokens_to_ids(text)
    return token if tokenizer.convert_ids_to_tokens(token) == text else -1


def _turn(tokens: list[int]) -> int:
    """Return the tokens of what is repeated, or 0."""
    turns = range(1, _LONGEST_TURN + 1)
    return next((turn for turn in turns if tokens[turn:] == tokens[:-turn]), 0)
