"""Logprobs as events report them: text, bytes, natural logarithms."""

import codecs
from collections import deque
from collections.abc import Sequence as Ordered

from msgspec.structs import replace

from adapters.events import TokenLogprob
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.sequence import Sampled


def to_logprob(vocabulary: Vocabulary, sampled: Sampled) -> TokenLogprob:
    """Convert a token of the answer; a control token is not part of the text and has no bytes."""
    top = tuple(_to_entry(vocabulary, token, logprob) for token, logprob in sampled.top)
    return _to_entry(vocabulary, sampled.token, sampled.logprob or 0.0, top)


def to_prompt_logprobs(
    vocabulary: Vocabulary, prompt: Ordered[int], read: Ordered[Sampled], text: str
) -> tuple[TokenLogprob, ...]:
    """Convert all tokens of `prompt`; `read` lacks the first. `text` is the prompt as shown."""
    first = TokenLogprob(
        token=vocabulary.text_of(prompt[0]),
        logprob=0.0,
        bytes=tuple(vocabulary.bytes_of(prompt[0])),
        is_first=True,
    )
    places = Places(text)
    return tuple(map(places.shown, (first, *(to_logprob(vocabulary, token) for token in read))))


def without_space(entry: TokenLogprob) -> TokenLogprob:
    """Take SentencePiece's space before the first word, which is not part of the text, off a token
    and off those that were likely in its place."""
    own = entry.bytes or ()
    is_spaced = own[:1] == (*b" ",)
    return replace(
        entry,
        token=entry.token.removeprefix(" ") if is_spaced else entry.token,
        bytes=own[1:] if is_spaced else own,
        top=tuple(map(without_space, entry.top)),
    )


class Places:
    """Assigns to each token of a prompt, in order, its part of the text that is shown."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = 0

    def shown(self, entry: TokenLogprob) -> TokenLogprob:
        """Return the next token as the text has it. A control token is in the text by its name, or
        was added by the tokenizer."""
        if not entry.bytes and self._text.startswith(entry.token, self._read):
            entry = replace(entry, bytes=tuple(entry.token.encode()))
        own = bytes(entry.bytes or ())
        if self._read == 0 and own.startswith(b" ") and not self._text.startswith(" "):
            entry = without_space(entry)
        self._read += len(self._decoder.decode(bytes(entry.bytes or ())))
        return entry


def _to_entry(
    vocabulary: Vocabulary, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    return TokenLogprob(
        token=vocabulary.text_of(token),
        logprob=logprob,
        bytes=tuple(vocabulary.bytes_of(token)),
        top=top,
    )


class TokenLedger:
    """Assigns tokens to the characters that they wrote: each is reported once, with its text.

    A token begins at a place in the text and may have no characters of its own: the first bytes
    of an emoji, for example, are reported with the token that completes it.
    """

    def __init__(self) -> None:
        self._written = 0
        """Characters of the model's text with their tokens added."""
        self._read = 0
        """Characters of it that were sorted into content and other text."""
        self._content = 0
        """Characters of content so far."""
        self._shown = 0
        self._open: deque[tuple[int, int, TokenLogprob]] = deque()
        """Begin and end in the model's text."""
        self._kept: deque[tuple[int, TokenLogprob]] = deque()
        """Begin in the content."""

    def add(self, entry: TokenLogprob, length: int) -> None:
        self._open.append((self._written, self._written + length, entry))
        self._written += length

    def drop(self, length: int) -> None:
        """Skip the next `length` characters: they are not content."""
        self._read += length
        while self._open and self._open[0][1] <= self._read and self._open[0][0] < self._read:
            self._open.popleft()

    def keep(self, length: int) -> None:
        """Count the next `length` characters as content, and the tokens after them that have no
        text: control tokens, for example."""
        until = self._read + length
        while self._open and (self._open[0][0] < until or self._open[0][1] == until):
            begin, _, entry = self._open.popleft()
            self._kept.append((self._content + max(begin - self._read, 0), entry))
        self._read, self._content = until, self._content + length

    def take(self, length: int, *, last: bool) -> tuple[TokenLogprob, ...]:
        """Return the tokens of the next `length` characters of content; of all that is left if
        `last`."""
        self._shown += length
        taken: list[TokenLogprob] = []
        while self._kept and (last or self._kept[0][0] < self._shown):
            taken.append(self._kept.popleft()[1])
        return tuple(taken)
