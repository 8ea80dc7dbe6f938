"""Streamed answers of OpenAI's completion APIs, as far as chat and text have them in common."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from adapters.events import Event, TextDelta
from proxy.endpoints.generation_fields import GenerationFields
from proxy.endpoints.wire_types import Usage, to_usage
from proxy.errors import Failure
from proxy.http.event_stream import Put, around_text, sse
from proxy.record import Record

encode = msgspec.json.Encoder().encode
_PADDED_TO = 16


def padding(length: int) -> str:
    """Return what obfuscation adds to `length` characters: random ones, to a multiple of 16."""
    return secrets.token_hex(_PADDED_TO)[: -length % _PADDED_TO]


class ChunkRenderer(ABC):
    """Encodes an answer in chunks: texts, finish reasons, usage on request, `[DONE]`.

    A subclass encodes its own chunks.
    """

    def __init__(
        self, body: GenerationFields, prefix: str, choices: int, record: Record, put: Put
    ) -> None:
        """`prefix` begins the answer's id; `choices` counts those of all prompts."""
        self._put = put
        self._record = record
        self._id, self._created = record.identify(prefix)
        self._model = body.model
        self._unfinished = choices
        options = body.stream_options
        self._wants_usage = bool(options and options.include_usage)
        self._obfuscates = bool(options and options.include_obfuscation)
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """Choice -> the bytes around a text."""

    def write(self, event: Event, /) -> bool:
        # Nearly all events:
        if type(event) is TextDelta and event.logprobs is None and not self._obfuscates:
            around = self._around.get(event.choice)
            if around is None:
                around = self._around[event.choice] = around_text(self._text, event.choice)
            before, after = around
            return self._put(before + encode(event.text) + after)
        return self._put(self._render(event))

    def error(self, failure: Failure, /) -> bytes:
        return sse(encode(failure.body))

    def _end(self, last: bytes) -> bytes:
        """Complete `last`, the last chunks of a choice, at the end of the whole answer."""
        self._unfinished -= 1
        if self._unfinished:
            return last
        if self._wants_usage:
            # OpenAI sends usage in a last chunk with empty choices.
            last += self._chunk([], to_usage(self._record))
        return last + sse(b"[DONE]")

    def _sse(self, chunk: Struct) -> bytes:
        """Encode a chunk, as long as its neighbours where the request asks for it."""
        data = encode(chunk)
        if self._obfuscates:
            data = b'%b,"obfuscation":"%b"}' % (data[:-1], padding(len(data)).encode())
        return sse(data)

    @abstractmethod
    def _render(self, event: Event) -> bytes:
        """Encode any event; empty where the API has nothing for it."""

    @abstractmethod
    def _text(self, text: str, choice: int) -> bytes:
        """Encode the chunk of a text of `choice`."""

    @abstractmethod
    def _chunk(self, choices: Sequence[Any], usage: Usage | None = None) -> bytes:
        """Encode one chunk; `usage` is given for the last only."""
