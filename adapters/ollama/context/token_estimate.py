"""Estimate the tokens of a prompt before it is sent.

Ollama renders the template. Its texts are counted: exactly where the model's vocabulary can be
read, and by their bytes otherwise. The tokens of the template and of an image are learned from
`prompt_eval_count`. Too small an estimate costs a second attempt, never a cut prompt.
"""

import asyncio
import math
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Struct

from adapters.ollama.wire import ChatBody, RawBody
from adapters.request import utf8_size

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES_PER_TOKEN = 3.0
"""Initial value. Three bytes are three letters of English, and one character of Chinese."""
_LEAST_BYTES_PER_TOKEN = 1.0
_MARGIN = 1.1
_SHARE = 0.3
"""Weight of the last answer against those before it."""
_OVERHEAD = 12.0
"""Initial value of the tokens that a template puts around a message."""
_TOOLS = 300.0
"""Initial value of the tokens of the words that a template puts around tools: a template in
Qwen's manner has about 90, that of Qwen3-Coder 240."""
_IMAGE = 1024
"""Initial value of the tokens of an image: few models use more, and many a tenth."""
_LONG = 20_000
"""Characters beyond which counting leaves the event loop."""
_TELLING = 200
"""Bytes below which a prompt is mostly its template."""


class Texts(Struct, frozen=True):
    """The parts of a body that become tokens."""

    texts: tuple[str, ...]
    messages: int
    """0 for a raw text, which has no template."""
    images: int
    doubtful: tuple[str, ...] = ()
    """Texts that a template may leave out or shorten: earlier reasoning, calls, tools."""

    @property
    def bytes(self) -> int:
        return sum(map(utf8_size, self._all))

    @property
    def characters(self) -> int:
        return sum([len(text) for text in self._all])

    @property
    def _all(self) -> tuple[str, ...]:
        return self.texts + self.doubtful


class Count(Struct, frozen=True):
    tokens: int
    """An estimate on the high side."""
    least: int = 0
    """A lower bound; 0 where there is none."""
    exact: bool = False
    text_size: int = 0
    """Tokens of the texts alone, or their bytes where no vocabulary is known."""


class TokenCounter:
    """Counts tokens for one model, and learns from its answers."""

    def __init__(self, tokenizer: "Tokenizer | None" = None) -> None:
        self._tokenizer = tokenizer
        self._bytes_per_token = _BYTES_PER_TOKEN
        self._overhead = _OVERHEAD
        """Tokens of the template for each message."""
        self._tools = _TOOLS
        """Tokens of the template in prompts with tools, calls or reasoning, however many messages
        they have."""
        self._image: float | None = None

    async def count(self, texts: Texts) -> Count:
        if self._tokenizer is None:
            size = texts.bytes
            tokens = size / self._bytes_per_token * _MARGIN
            return Count(tokens=int(tokens + self._around(texts)), text_size=size)
        if texts.characters < _LONG:
            return self._tokenized(self._tokenizer, texts)
        return await asyncio.to_thread(self._tokenized, self._tokenizer, texts)

    def learn(self, texts: Texts, count: Count, prompt_tokens: int) -> None:
        """Correct the estimates: Ollama has counted `prompt_tokens`, against `count`."""
        if prompt_tokens <= 0:
            return
        if texts.images:
            # Tokens that are not text belong to the images; an estimated text must be the smaller
            # part.
            known = self._tokenizer is not None
            words = count.text_size / (1 if known else self._bytes_per_token)
            words += self._template(texts)
            tokens = prompt_tokens - words
            if known or tokens > words:
                seen = max(tokens, 0) / texts.images
                self._image = seen if self._image is None else _nearer(self._image, seen)
        elif self._tokenizer is not None:
            rest = max(prompt_tokens - count.text_size, 0)
            if texts.doubtful:
                around_tools = rest - self._overhead * (texts.messages + 1)
                self._tools = _nearer(self._tools, max(around_tools, 0))
            else:
                self._overhead = _nearer(self._overhead, rest / (texts.messages + 1))
        elif count.text_size >= _TELLING:
            self._bytes_per_token += _SHARE * (
                max(count.text_size / prompt_tokens, _LEAST_BYTES_PER_TOKEN) - self._bytes_per_token
            )

    def _tokenized(self, tokenizer: "Tokenizer", texts: Texts) -> Count:
        raw = not texts.messages
        certain = sum(len(tokenizer.encode(t, add_special_tokens=raw)) for t in texts.texts)
        if raw and len(texts.texts) == 1 and not texts.images:
            return Count(tokens=certain, least=certain, exact=True, text_size=certain)
        doubtful = sum(len(tokenizer.encode(t, add_special_tokens=False)) for t in texts.doubtful)
        text_size = certain + doubtful
        # A token may reach over the end of a text into the template.
        least = max(certain - 2 * len(texts.texts), 0)
        return Count(tokens=text_size + self._around(texts), least=least, text_size=text_size)

    def _around(self, texts: Texts) -> int:
        image = _IMAGE if self._image is None else self._image
        return int(self._template(texts)) + math.ceil(image * texts.images) + 1

    def _template(self, texts: Texts) -> float:
        around_tools = self._tools if texts.doubtful else 0
        return self._overhead * (texts.messages + 1) + around_tools


def _nearer(known: float, seen: float) -> float:
    """Move `known` up at once and down slowly: too high an estimate costs nothing."""
    return known + (1.0 if seen > known else _SHARE) * (seen - known)


def texts_of(body: ChatBody | RawBody) -> Texts:
    if isinstance(body, RawBody):
        images = getattr(body, "images", UNSET)
        suffix = getattr(body, "suffix", UNSET)
        texts = tuple(text for text in (body.prompt, suffix) if isinstance(text, str) and text)
        return Texts(texts, messages=0, images=len(images) if images else 0)
    doubtful = [message.thinking for message in body.messages if message.thinking]
    calls = [message.tool_calls for message in body.messages if message.tool_calls]
    doubtful += [msgspec.json.encode(group).decode() for group in calls]
    if body.tools:
        doubtful.append(msgspec.json.encode(body.tools).decode())
    return Texts(
        tuple([message.content for message in body.messages]),
        messages=len(body.messages),
        images=sum([len(message.images) for message in body.messages if message.images]),
        doubtful=tuple(doubtful),
    )
