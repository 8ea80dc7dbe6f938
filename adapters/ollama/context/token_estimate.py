"""How many tokens a prompt will have, before Ollama says so.

The template is Ollama's to render. What is counted are the texts in it: exactly, where the
model's vocabulary can be read, and by their bytes otherwise. What the template adds, and what an
image comes to, is learned from `prompt_eval_count`. Too small an estimate costs a second try,
never a cut prompt.
"""

import asyncio
import math
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Struct

from adapters.ollama.wire import ChatBody, ChatMessage, RawBody

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES_PER_TOKEN = 3.0
"""To begin with. Three bytes are three letters of English, and one character of Chinese."""
_LEAST_BYTES_PER_TOKEN = 1.0
_MARGIN = 1.1
_SHARE = 0.3
"""How much the last answer counts against those before it."""
_OVERHEAD = 12.0
"""Tokens that a template puts around a message, to begin with."""
_IMAGE = 1024
"""Tokens of an image, to begin with: few models make more of one, and many a tenth."""
_LONG = 20_000
"""Characters beyond which counting leaves the event loop."""
_TELLING = 200
"""Bytes below which a prompt tells more of its template than of its text."""


class Texts(Struct, frozen=True):
    """What of a body becomes tokens."""

    texts: tuple[str, ...]
    messages: int
    """0 for a raw text, around which nothing is put."""
    images: int
    doubtful: tuple[str, ...] = ()
    """A template may leave them out, or say them shorter: earlier thoughts, calls, tools."""

    @property
    def bytes(self) -> int:
        return sum([len(text.encode(errors="replace")) for text in self._all])

    @property
    def characters(self) -> int:
        return sum([len(text) for text in self._all])

    @property
    def _all(self) -> tuple[str, ...]:
        return self.texts + self.doubtful


class Count(Struct, frozen=True):
    tokens: int
    """Rather too many than too few."""
    least: int = 0
    """It has at least as many; 0 where that is not known."""
    exact: bool = False
    counted: int = 0
    """Tokens of the texts alone, or their bytes where no vocabulary is known."""


class TokenCounter:
    """Counts for one model; it knows what that model's answers have taught."""

    def __init__(self, tokenizer: "Tokenizer | None" = None) -> None:
        self._tokenizer = tokenizer
        self._bytes_per_token = _BYTES_PER_TOKEN
        self._overhead = _OVERHEAD
        self._image: float | None = None

    async def count(self, texts: Texts) -> Count:
        if self._tokenizer is None:
            return self._estimate(texts)
        if texts.characters < _LONG:
            return self._tokenized(self._tokenizer, texts)
        return await asyncio.to_thread(self._tokenized, self._tokenizer, texts)

    def learn(self, texts: Texts, count: Count, prompt_tokens: int) -> None:
        """`prompt_tokens` is what Ollama has counted where `count` was foreseen."""
        if prompt_tokens <= 0:
            return
        if texts.images:
            self._learn_image(texts, count, prompt_tokens)
        elif self._tokenizer is not None:
            self._learn_overhead(texts, prompt_tokens - count.counted)
        elif count.counted >= _TELLING:
            self._bytes_per_token += _SHARE * (
                max(count.counted / prompt_tokens, _LEAST_BYTES_PER_TOKEN) - self._bytes_per_token
            )

    def _learn_overhead(self, texts: Texts, tokens: int) -> None:
        self._overhead = _nearer(self._overhead, max(tokens, 0) / (texts.messages + 1))

    def _learn_image(self, texts: Texts, count: Count, prompt_tokens: int) -> None:
        """What is no text is its images': a text that was only guessed must be the smaller part."""
        known = self._tokenizer is not None
        words = count.counted / (1 if known else self._bytes_per_token) + self._template(texts)
        tokens = prompt_tokens - words
        if known or tokens > words:
            seen = max(tokens, 0) / texts.images
            self._image = seen if self._image is None else _nearer(self._image, seen)

    def _estimate(self, texts: Texts) -> Count:
        size = texts.bytes
        tokens = size / self._bytes_per_token * _MARGIN
        return Count(tokens=int(tokens + self._around(texts)), counted=size)

    def _tokenized(self, tokenizer: "Tokenizer", texts: Texts) -> Count:
        raw = not texts.messages
        certain = sum(len(tokenizer.encode(t, add_special_tokens=raw)) for t in texts.texts)
        if raw and len(texts.texts) == 1 and not texts.images:
            return Count(tokens=certain, least=certain, exact=True, counted=certain)
        doubtful = sum(len(tokenizer.encode(t, add_special_tokens=False)) for t in texts.doubtful)
        counted = certain + doubtful
        # A token may reach over the end of a text into the template.
        least = max(certain - 2 * len(texts.texts), 0)
        return Count(tokens=counted + self._around(texts), least=least, counted=counted)

    def _around(self, texts: Texts) -> int:
        image = _IMAGE if self._image is None else self._image
        return int(self._template(texts)) + math.ceil(image * texts.images) + 1

    def _template(self, texts: Texts) -> float:
        return self._overhead * (texts.messages + 1)


def _nearer(known: float, seen: float) -> float:
    """Up at once and down slowly: too much costs nothing."""
    return known + (1.0 if seen > known else _SHARE) * (seen - known)


def texts_of(body: ChatBody | RawBody) -> Texts:
    if isinstance(body, RawBody):
        images = getattr(body, "images", UNSET)
        suffix = getattr(body, "suffix", UNSET)
        texts = tuple(text for text in (body.prompt, suffix) if isinstance(text, str) and text)
        return Texts(texts, messages=0, images=len(images) if images else 0)
    doubtful = [text for message in body.messages for text in _doubtful(message)]
    if body.tools:
        doubtful.append(msgspec.json.encode(body.tools).decode())
    return Texts(
        tuple([message.content for message in body.messages]),
        messages=len(body.messages),
        images=sum([len(message.images) for message in body.messages if message.images]),
        doubtful=tuple(doubtful),
    )


def _doubtful(message: ChatMessage) -> list[str]:
    texts: list[str] = []
    if message.thinking:
        texts.append(message.thinking)
    if message.tool_calls:
        texts.append(msgspec.json.encode(message.tool_calls).decode())
    return texts
