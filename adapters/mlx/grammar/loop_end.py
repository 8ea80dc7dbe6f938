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
    allows that; the answer goes on behind it.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        """`ends`: the tokens that end an answer."""
        self.error: BackendError | None = None
        self._tokenizer = tokenizer
        quote, *self._brackets = (_token_of(tokenizer, text) for text in '"]}')
        self._closing_tokens = [token for token in (quote, *self._brackets, *ends) if token >= 0]
        self._line_break = tokenizer.encode("\n", add_special_tokens=False)[-1]
        self._recent: deque[int] = deque(maxlen=_LOOP)
        self._until_look = _LOOP
        self._started = False
        self._is_closing = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        # The first call has no new token.
        if self._started:
            self._note(int(tokens[-1].item()))  # pyright: ignore[reportArgumentType]
        self._started = True
        return self._closing(logits) if self._is_closing else logits

    def _note(self, token: int) -> None:
        if self._is_closing and token in self._brackets:
            self._go_on()
        self._recent.append(token)
        self._until_look -= 1
        if self._until_look <= 0 and not self._is_closing:
            self._until_look = _BETWEEN_LOOKS
            self._is_closing = _repeats([*self._recent])
            if self._is_closing:
                logger.info("A value in JSON repeats itself, and is closed.")

    def _closing(self, logits: mx.array) -> mx.array:
        """Leave the tokens that close something, if the grammar allows any of them."""
        if logits[0, self._line_break].item() != -mx.inf:
            self._go_on()  # A line break is possible in thoughts and prose, never in JSON.
            return logits
        if self._tokenizer.decode([self._recent[-1]]).endswith("\\"):
            return logits  # A quote would be one of the text.
        closing = mx.full(logits.shape, -mx.inf, logits.dtype)
        closing[:, self._closing_tokens] = logits[:, self._closing_tokens]
        if mx.max(closing).item() == -mx.inf:
            self._go_on()
            return logits
        return closing

    def _go_on(self) -> None:
        self._is_closing = False
        self._until_look = _LOOP


def _token_of(tokenizer: Any, text: str) -> int:
    """Return the token that is `text`, or -1."""
    token = tokenizer.convert_tokens_to_ids(text)
    return token if tokenizer.convert_ids_to_tokens(token) == text else -1


def _repeats(tokens: list[int]) -> bool:
    return any(tokens[turn:] == tokens[:-turn] for turn in range(1, _LONGEST_TURN + 1))
