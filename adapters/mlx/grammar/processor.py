"""Logits processor that masks the tokens a grammar does not allow."""

# pyright: basic
import logging

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher

from adapters.errors import BackendError, GenerationError, UnsupportedParameterError

logger = logging.getLogger(__name__)


class GrammarProcessor:
    """A `LogitsProcessor` of one sequence. It never raises: a failure is stored in `error`."""

    def __init__(self, matcher: LLMatcher) -> None:
        """`matcher` is used by this sequence only and is in its initial state."""
        self._matcher = matcher
        self._started = False
        self._ended = False
        self._allowed = b""
        """The mask for the token that the next call consumes, 8 tokens a byte."""
        self.error: BackendError | None = None

    @property
    def complete(self) -> bool:
        """True if the tokens so far are a complete answer, without the last sampled one, which
        the next call consumes."""
        return self._ended or (self.error is None and self._matcher.is_accepting())

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._ended or self.error is not None:
            return logits
        try:
            # The forward pass runs while the grammar computes the mask.
            mx.async_eval(logits)
            # The first call has no new token: `tokens` has the prompt, as far as it was cached.
            if self._started:
                self._consume(int(tokens[-1].item()))  # pyright: ignore[reportArgumentType]
            self._started = True
            return logits if self._ended or self.error is not None else self._masked(logits)
        except Exception:
            logger.exception("a grammar failed")
            self.error = GenerationError("The grammar failed while it was enforced.")
            return logits

    def _consume(self, token: int) -> None:
        if self._matcher.is_stopped() and not self._matcher.is_error():
            # The answer was complete before this token, which a step started too early has sampled.
            self._ended = True
        elif not self._matcher.consume_token(token):
            # The unknown token is allowed where a required text has no token, then refused.
            self._fail(is_unwritable=bool(self._allowed[token // 8] >> token % 8 & 1))

    def _masked(self, logits: mx.array) -> mx.array:
        self._allowed = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._fail(is_unwritable="NoExtension" in self._matcher.get_error())
            return logits
        return mx.where(_unpack(self._allowed, logits.shape[-1]), logits, -mx.inf)

    def _fail(self, *, is_unwritable: bool) -> None:
        logger.warning("a grammar gave up: %s", self._matcher.stop_reason())
        if is_unwritable:
            self.error = UnsupportedParameterError(
                "The grammar requires a character here that this model's vocabulary cannot write."
            )
        else:
            self.error = GenerationError(
                "The grammar became too complex for this answer, or allows no further token.",
                lasting=True,
            )


def _unpack(allowed: bytes, vocabulary: int) -> mx.array:
    """Unpack 32 tokens a word to (1, vocabulary) booleans, false beyond the tokenizer's tokens."""
    words = mx.array(np.frombuffer(allowed, dtype=np.uint32))
    bits = (words[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    known = bits.reshape(1, -1)[:, :vocabulary].astype(mx.bool_)
    missing = vocabulary - known.shape[-1]
    return mx.pad(known, [(0, 0), (0, missing)]) if missing else known
