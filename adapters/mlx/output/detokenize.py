"""From tokens to text: characters are never split, stop strings never leak."""

# pyright: basic
import codecs
from typing import Any, Protocol

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer


class Detokenizer(Protocol):
    """The text of one answer, token by token."""

    def add(self, token: int) -> str:
        """What `token` adds to the text; "" while a character is still incomplete."""
        ...

    def finish(self) -> str:
        """What is left; an incomplete character becomes U+FFFD."""
        ...


class Vocabulary:
    """The bytes behind the token ids of one model, looked up once each."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._added = {token: text for text, token in tokenizer.get_added_vocab().items()}
        self._bytes: dict[int, bytes] = {}
        self.control_tokens = {str(text): token for text, token in _control_tokens(tokenizer)}
        """Text -> id of those that are nobody's text: turn markers, ends, and the like."""
        # mlx-lm has read the decoder out of tokenizer.json already: its choice is the answer.
        sample = tokenizer.detokenizer
        self._byte_level = isinstance(sample, BPEStreamingDetokenizer)
        self._pieces = isinstance(sample, SPMStreamingDetokenizer)
        self._trim = bool(getattr(sample, "trim_space", False))

    def detokenizer(self, seen: frozenset[str] = frozenset()) -> Detokenizer:
        """`seen` are the control tokens whose text comes out all the same, for a reader."""
        silent = self._special - {self.control_tokens.get(text) for text in seen}
        if not (self._byte_level or self._pieces):
            return WholeDetokenizer(self._tokenizer.detokenizer, silent)
        shown = {self.control_tokens[text]: text.encode() for text in seen}
        return ByteDetokenizer(self, trim_space=self._trim, shown=shown)

    def find_control_tokens(self, texts: tuple[str, ...]) -> frozenset[str]:
        """The control tokens that `texts` are made of, in whole or in part."""
        return frozenset(
            control for control in self.control_tokens if any(control in text for text in texts)
        )

    def text_of(self, token: int) -> str:
        """As OpenAI writes a token in logprobs: U+FFFD where it is part of a character, and its
        name where it is a control token, which has no bytes."""
        if token in self._special:
            return str(self._tokenizer.convert_ids_to_tokens(token))
        return self.bytes_of(token).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """UTF-8, maybe part of a character; b"" for a control token, which is nobody's text."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._look_up(token)
        return found

    def _look_up(self, token: int) -> bytes:
        if token in self._special:
            return b""
        if token in self._added:
            return self._added[token].encode()
        text = self._tokenizer.convert_ids_to_tokens(token)
        if text is None:  # The weights may have more rows than the vocabulary has tokens.
            return b""
        return _from_byte_level(text) if self._byte_level else _from_piece(text)


def _control_tokens(tokenizer: Any) -> list[tuple[str, int]]:
    return [(tokenizer.convert_ids_to_tokens(token), token) for token in tokenizer.all_special_ids]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's way to write bytes as characters: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF = _byte_alphabet()


def _from_byte_level(text: str) -> bytes:
    return b"".join(
        bytes((_BYTE_OF[char],)) if char in _BYTE_OF else char.encode() for char in text
    )


def _from_piece(text: str) -> bytes:
    """A SentencePiece piece: `▁` is a space, `<0x0A>` a byte."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes((int(text[3:5], 16),))
    return text.replace("\u2581", " ").encode()


class ByteDetokenizer:
    def __init__(
        self, vocabulary: Vocabulary, *, trim_space: bool, shown: dict[int, bytes]
    ) -> None:
        self._vocabulary = vocabulary
        self._shown = shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # SentencePiece writes a space before the first word, which belongs to no text.
        self._trim_space = trim_space

    def add(self, token: int) -> str:
        found = self._shown.get(token) or self._vocabulary.bytes_of(token)
        return self._trimmed(self._decoder.decode(found))

    def finish(self) -> str:
        return self._trimmed(self._decoder.decode(b"", final=True))

    def _trimmed(self, text: str) -> str:
        if self._trim_space and text:
            self._trim_space = False
            return text.removeprefix(" ")
        return text


class WholeDetokenizer:
    """For decoders that look at neighbours: mlx-lm's, which decodes the line anew each time."""

    def __init__(self, detokenizer: Any, silent: frozenset[int]) -> None:
        self._detokenizer = detokenizer
        self._silent = silent

    def add(self, token: int) -> str:
        if token in self._silent:
            return ""
        self._detokenizer.add_token(token)
        return self._detokenizer.last_segment

    def finish(self) -> str:
        self._detokenizer.finalize()
        return self._detokenizer.last_segment


class StopMatcher:
    """Finds stop strings in text that comes in pieces."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """What can be shown now, and the stop string that ends the answer, if one is complete.

        Held back is the longest end that may become a stop string. Of several complete ones the
        one that begins first counts, and of two that begin together the longer.
        """
        held = self._held + text
        found = [(at, -len(word), word) for word in self._stop if (at := held.find(word)) >= 0]
        if found:
            at, _, word = min(found)
            self._held = ""
            return held[:at], word
        keep = max((_overlap(held, word) for word in self._stop), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], None

    def flush(self) -> str:
        """What was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """How many characters at the end of `text` are the beginning of `word`."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)
