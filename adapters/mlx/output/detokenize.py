"""Turn tokens into text: characters are never split, stop strings are never shown."""

# pyright: basic
import codecs
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ordered
from typing import Any, Protocol

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer


class Detokenizer(Protocol):
    """Decodes one answer, token by token."""

    def add(self, token: int) -> str:
        """Return the text that `token` adds; "" while a character is still incomplete."""
        ...

    def finish(self) -> str:
        """Return the rest, without a character that is incomplete."""
        ...


class TokenBytes(dict[int, bytes]):
    def __init__(self, look_up: Callable[[int], bytes]) -> None:
        self._look_up = look_up

    def __missing__(self, token: int) -> bytes:
        self[token] = own = self._look_up(token)
        return own


class Vocabulary:
    """The bytes behind the token ids of one model, looked up once each."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Those with a role: others, as Mistral's `[INST]`, are text for mlx-lm and mlx-vlm, too.
        self._special = frozenset(tokenizer.all_special_ids)
        self._added = {token: text for text, token in tokenizer.get_added_vocab().items()}
        self.token_bytes = TokenBytes(self._look_up)
        """The same as `bytes_of`; a lookup costs no call once a token was seen."""
        self.control_tokens: dict[str, int] = {
            str(tokenizer.convert_ids_to_tokens(token)): token for token in self._special
        }
        """Text -> id of the tokens that are not text: turn markers, ends, and the like."""
        added = tokenizer.added_tokens_decoder.items()
        self.marker_tokens: dict[int, str] = {
            token: own.content for token, own in added if own.special and own.content
        }
        """Id -> text of the tokens with a name that ordinary text may spell without a meaning,
        with a role or not. Others, as Qwen's `<tool_call>`, are text for the tokenizer too."""
        # mlx-lm has read the decoder out of tokenizer.json already: its choice is the answer.
        sample = tokenizer.detokenizer
        self._byte_level = isinstance(sample, BPEStreamingDetokenizer)
        self._pieces = isinstance(sample, SPMStreamingDetokenizer)
        self._trim = bool(getattr(sample, "trim_space", False))

    def detokenizer(
        self, seen: frozenset[str] = frozenset(), before: Ordered[int] = ()
    ) -> Detokenizer:
        """Create the decoder of one answer; the control tokens `seen` are decoded too.

        `before`: the last tokens of a text that the answer continues. Without them SentencePiece's
        space before the first word is not part of the answer.
        """
        silent = self._special - {self.control_tokens.get(text) for text in seen}
        if not (self._byte_level or self._pieces):
            return WindowDetokenizer(self._tokenizer, silent, before)
        shown = {self.control_tokens[text]: text.encode() for text in seen}
        return ByteDetokenizer(self, trim_space=self._trim and not before, shown=shown)

    def drops_space(self, tokens: Iterable[int], before: Ordered[int]) -> bool:
        """Return whether one of `tokens` loses its space as the first of an answer."""
        return any(
            self.bytes_of(token) == b" " + self.detokenizer(before=before).add(token).encode()
            for token in tokens
        )

    def find_control_tokens(self, texts: tuple[str, ...]) -> frozenset[str]:
        """Return the control tokens that occur in any of `texts`."""
        return frozenset(
            control for control in self.control_tokens if any(control in text for text in texts)
        )

    def text_of(self, token: int) -> str:
        """Return the token as OpenAI writes it in logprobs: U+FFFD where it is part of a character,
        the name of a control token, which has no bytes."""
        if token in self._special:
            return str(self._tokenizer.convert_ids_to_tokens(token))
        return self.bytes_of(token).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """Return UTF-8, maybe part of a character; b"" for a control token."""
        return self.token_bytes[token]

    def _look_up(self, token: int) -> bytes:
        if token in self._special:
            return b""
        text = self._added.get(token)
        if text is not None and not self._pieces:
            return text.encode()
        text = text or self._tokenizer.convert_ids_to_tokens(token)
        if text is None:  # The weights may have more rows than the vocabulary has tokens.
            return b""
        if self._byte_level:
            return byte_level(text)
        # SentencePiece: `▁` is a space (also in Gemma's added tokens), `<0x0A>` a byte.
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes((int(text[3:5], 16),))
        return text.replace("\u2581", " ").encode()


def byte_level(token: str) -> bytes:
    """Return the bytes of a token of a byte-level vocabulary, as that of GPT-2 and of Whisper."""
    return b"".join(
        bytes((_BYTE_OF[char],)) if char in _BYTE_OF else char.encode() for char in token
    )


_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHER_BYTES = sorted(set(range(256)) - set(_PRINTABLE))
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(_OTHER_BYTES)
}
"""GPT-2's mapping of characters to bytes: printable ones stand for themselves."""


class ByteDetokenizer:
    def __init__(
        self, vocabulary: Vocabulary, *, trim_space: bool, shown: dict[int, bytes]
    ) -> None:
        self._bytes = vocabulary.token_bytes
        self._shown = shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # SentencePiece writes a space before the first word, which is not part of the text.
        self._trim_space = trim_space

    def add(self, token: int) -> str:
        own = self._shown.get(token) or self._bytes[token]
        text = self._decoder.decode(own)
        return self._trimmed(text) if self._trim_space else text

    def finish(self) -> str:
        return ""  # The decoder holds back nothing but a part of a character.

    def _trimmed(self, text: str) -> str:
        if text:
            self._trim_space = False
        return text.removeprefix(" ")


class WindowDetokenizer:
    """Decodes tokens beside those before them, for decoders that look at neighbours.

    A decoder takes away the space before the first word that it sees, which is the indentation of
    a line where each line is decoded by itself.
    """

    def __init__(self, tokenizer: Any, silent: frozenset[int], before: Ordered[int]) -> None:
        self._decode = tokenizer.decode
        self._silent = silent
        self._known = [*before]
        self._new: list[int] = []

    def add(self, token: int) -> str:
        if token in self._silent:
            return ""
        self._new.append(token)
        text = self._text_of_new()
        if text.endswith("\ufffd") and len(self._new) < _MOST_HELD:
            return ""
        self._known, self._new = self._new, []
        return text

    def finish(self) -> str:
        return self._text_of_new().rstrip("\ufffd") if self._new else ""

    def _text_of_new(self) -> str:
        known = self._decode(self._known)
        return self._decode([*self._known, *self._new])[len(known) :]


_MOST_HELD = 64
"""Tokens that are held back while their end is part of a character. A character has four at most,
but a tokenizer decodes bytes that are no character in another way beside those before them."""
