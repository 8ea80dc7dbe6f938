"""One row's grammar at work: which tokens may come next, step by step."""

# pyright: basic
import logging

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher

from adapters.errors import BackendError, GenerationError

logger = logging.getLogger(__name__)


class GrammarProcessor:
    """A `LogitsProcessor`. It raises nothing: what goes wrong is told in `error`."""

    def __init__(self, matcher: LLMatcher) -> None:
        """`matcher` is this row's own, at its beginning."""
        self._matcher = matcher
        self._begun = False
        self._ended = False
        self.error: BackendError | None = None

    @property
    def complete(self) -> bool:
        """Whether the tokens seen so far are a whole answer; the one that was drawn last is seen
        with the next call."""
        return self._ended or (self.error is None and self._matcher.is_accepting())

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._ended or self.error is not None:
            return logits
        try:
            # The forward pass runs while the grammar is asked.
            mx.async_eval(logits)
            # Calls are counted and not tokens: a cached prompt is in `tokens` too.
            if self._begun:
                self._consume(int(tokens[-1].item()))  # pyright: ignore[reportArgumentType]
            self._begun = True
            return logits if self._ended or self.error is not None else self._masked(logits)
        except Exception:
            logger.exception("a grammar failed")
            self.error = GenerationError("The grammar failed while it was enforced.")
            return logits

    def _consume(self, token: int) -> None:
        if self._matcher.is_stopped() and not self._matcher.is_error():
            # Only the end can follow, and it has come: a step that was begun too many.
            self._ended = True
        elif not self._matcher.consume_token(token):
            self._fail()

    def _masked(self, logits: mx.array) -> mx.array:
        allowed = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._fail()
            return logits
        return mx.where(_unpack(allowed, logits.shape[-1]), logits, -mx.inf)

    def _fail(self) -> None:
        logger.warning("a grammar gave up: %s", self._matcher.stop_reason())
        self.error = GenerationError(
            "The grammar grew too complex for this answer, or allows no way on.", lasting=True
        )


def _unpack(allowed: bytes, vocabulary: int) -> mx.array:
    """(1, vocabulary) booleans from 32 tokens a word; rows past the tokenizer's last are False."""
    words = mx.array(np.frombuffer(allowed, dtype=np.uint32))
    bits = (words[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    known = bits.reshape(1, -1)[:, :vocabulary].astype(mx.bool_)
    missing = vocabulary - known.shape[-1]
    return mx.pad(known, [(0, 0), (0, missing)]) if missing else known
