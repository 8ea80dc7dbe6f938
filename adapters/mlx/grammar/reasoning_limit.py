"""Logits processor that ends the reasoning of an answer when its budget is spent."""

# pyright: basic
import mlx.core as mx

from adapters.errors import BackendError
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.reasoning import Reasoning


class ReasoningLimit:
    """A `LogitsProcessor` of one sequence, to be called after that of a grammar.

    It counts the tokens of the reasoning, and once there are `budget` of them forces the tokens of
    the marker that ends it. Reading a token waits for the step that draws it, as a grammar does:
    only rows with a budget pay for that, and only until their answer begins.
    """

    def __init__(
        self, reasoning: Reasoning, budget: int, vocabulary: Vocabulary, is_open: bool
    ) -> None:
        """`is_open`: the prompt has opened the reasoning already."""
        self.error: BackendError | None = None
        self._reasoning = reasoning
        self._budget = budget
        self._vocabulary = vocabulary
        self._is_open = is_open
        self._is_over = False
        """No reasoning can follow."""
        self._started = False
        self._text = ""
        """The answer since the last marker."""
        self._due: list[int] = []
        """Tokens of the end marker that have yet to be drawn."""

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._is_over:
            return logits
        # The first call has no new token.
        if self._started:
            self._read(int(tokens[-1].item()))  # pyright: ignore[reportArgumentType]
        self._started = True
        if self._is_open and self._budget <= 0 and not self._due:
            self._due = list(self._reasoning.end_ids)
        return self._only(self._due[0], logits) if self._due else logits

    def _only(self, token: int, logits: mx.array) -> mx.array:
        """Leave `token` alone; where a grammar forbids it, as within a character, change nothing:
        the next place is tried."""
        if logits[0, token].item() == -mx.inf:
            return logits
        return mx.where(mx.arange(logits.shape[-1]) == token, logits, -mx.inf)

    def _read(self, token: int) -> None:
        self._text += self._vocabulary.text_of(token)
        if not self._is_open:
            self._look_for_start()
            return
        self._budget -= 1
        forced = bool(self._due) and token == self._due[0]
        self._due = self._due[1:] if forced else []
        if (forced and not self._due) or self._reasoning.end in self._text:
            self._is_open, self._text, self._due = False, "", []
            # Models with channels may open theirs again; others reason once.
            self._is_over = not self._reasoning.is_harmony

    def _look_for_start(self) -> None:
        start, text = self._reasoning.start, self._text.lstrip()
        if start in text:
            self._is_open, self._text = True, ""
        elif not (self._reasoning.is_harmony or start.startswith(text)):
            self._is_over = True  # The answer has begun without reasoning.
