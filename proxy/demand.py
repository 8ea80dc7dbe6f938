"""What a request takes of whoever answers it, as far as that can be told before."""

import msgspec
from msgspec import Struct

from adapters.request import (
    EmbeddingRequest,
    Feature,
    GenerationRequest,
    Message,
    TokenIds,
    needs,
)

_IMAGE = 1024
"""Tokens of an image, roughly; each model has a number of its own."""


class Demand(Struct, frozen=True, kw_only=True):
    features: frozenset[Feature] = frozenset()
    prompt_bytes: int = 0
    """UTF-8, of everything in the prompt that is text."""
    prompt_tokens: int = 0
    """Of everything in it that is none."""
    messages: int = 0
    """0 for raw text, around which no template puts anything."""
    n: int = 1
    max_tokens: int | None = None


def to_demand(request: GenerationRequest | EmbeddingRequest) -> Demand:
    if isinstance(request, EmbeddingRequest):
        return Demand(features=needs(request))
    texts = _texts(request)
    return Demand(
        features=needs(request),
        prompt_bytes=sum(len(text.encode(errors="replace")) for text in texts),
        prompt_tokens=_other_tokens(request),
        messages=len(request.prompt) if isinstance(request.prompt, tuple) else 0,
        n=request.n,
        max_tokens=request.max_tokens,
    )


def _texts(request: GenerationRequest) -> list[str]:
    texts = [request.suffix] if request.suffix else []
    if isinstance(request.prompt, str):
        texts.append(request.prompt)
    elif isinstance(request.prompt, tuple):
        texts.extend(text for message in request.prompt for text in _texts_of(message))
    if request.tools and request.tool_choice != "none":
        texts.append(msgspec.json.encode(request.tools).decode())
    return texts


def _texts_of(message: Message) -> list[str]:
    calls = (text for call in message.tool_calls for text in (call.name, call.arguments))
    return [message.text, message.reasoning or "", *calls]


def _other_tokens(request: GenerationRequest) -> int:
    match request.prompt:
        case TokenIds(ids=ids):
            return len(ids)
        case str():
            return 0
        case messages:
            return _IMAGE * sum(len(message.images) for message in messages)
