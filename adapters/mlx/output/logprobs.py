"""Tokens as the contract reports them: text, bytes, natural logprobs."""

import codecs
from collections.abc import Sequence as Ordered

from adapters.events import TokenLogprob
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.sequence import Sampled


def to_logprob(vocabulary: Vocabulary, sampled: Sampled) -> TokenLogprob:
    """A token of the answer: a control token has no bytes, as it is nobody's text there."""
    top = tuple(_to_entry(vocabulary, token, logprob) for token, logprob in sampled.top)
    return _to_entry(vocabulary, sampled.token, sampled.logprob or 0.0, top)


def to_prompt_logprobs(
    vocabulary: Vocabulary, prompt: Ordered[int], read: Ordered[Sampled], text: str
) -> tuple[TokenLogprob, ...]:
    """All tokens of `prompt`, of which `read` has all but the first; `text` is what it shows as."""
    first = TokenLogprob(token=vocabulary.text_of(prompt[0]), logprob=0.0, is_first=True)
    entries = [first, *(to_logprob(vocabulary, each) for each in read)]
    places = Places(text)
    return tuple(
        TokenLogprob(
            token=entry.token,
            logprob=entry.logprob,
            bytes=places.bytes_of(vocabulary.bytes_of(token), entry.token),
            top=entry.top,
            is_first=entry.is_first,
        )
        for entry, token in zip(entries, prompt, strict=True)
    )


class Places:
    """What each token of a prompt, in order, has of the text that was sent or is shown for it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = 0

    def bytes_of(self, own: bytes, name: str) -> tuple[int, ...]:
        """A control token may be written by its name, or was put there by the tokenizer."""
        if not own and self._text.startswith(name, self._read):
            own = name.encode()
        # SentencePiece writes a space before the first word, which belongs to no text.
        if self._read == 0 and own.startswith(b" ") and not self._text.startswith(" "):
            own = own[1:]
        self._read += len(self._decoder.decode(own))
        return tuple(own)


def _to_entry(
    vocabulary: Vocabulary, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    return TokenLogprob(
        token=vocabulary.text_of(token),
        logprob=logprob,
        bytes=tuple(vocabulary.bytes_of(token)),
        top=top,
    )
