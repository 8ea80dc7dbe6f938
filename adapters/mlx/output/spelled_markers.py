"""Tell control tokens from ordinary text that spells their names.

Readers of answers see text, in which `<|end|>` may be the token that ends a message or six ordinary
tokens of a sentence about it. Tokenizers keep them apart: text is never trained to end a turn.
"""

from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.tool_calls.output_pieces import Piece

_BREAK = "\ufdd0"
"""Put into a spelled name. A noncharacter, which Unicode keeps for internal use
(https://www.unicode.org/faq/private_use.html#nonchar1)."""


class SpelledMarkers:
    """Breaks spelled names in the text that a reader gets, and mends them in what it returns.

    The break comes before the last character of a name, so that no text has to be held back.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = vocabulary.marker_tokens
        self._names = tuple(self._tokens.values())
        self._lasts = frozenset(name[-1] for name in self._names)
        self._longest = max(map(len, self._names), default=0)
        self._tail = ""

    def hide(self, token: int, text: str) -> str:
        """Return `text`, which `token` added to the answer, for the reader."""
        if token in self._tokens:
            self._tail = ""
            return text
        return "".join(map(self._hidden, text.replace(_BREAK, "\ufffd")))

    def _hidden(self, char: str) -> str:
        self._tail = self._tail[-self._longest :] + char
        is_name = char in self._lasts and self._tail.endswith(self._names)
        return _BREAK + char if is_name else char

    def reveal(self, piece: Piece) -> Piece:
        """Return a piece of the reader with the text as the model wrote it."""
        if _BREAK not in piece.source and _BREAK not in piece.text:
            return piece
        source, text = (part.replace(_BREAK, "") for part in (piece.source, piece.text))
        return Piece(piece.kind, source, text)
