"""The requirements of a request: features, prompt size, and length of the answer."""

import msgspec
from msgspec import Struct

from adapters.request import (
    EmbeddingRequest,
    Feature,
    GenerationRequest,
    Message,
    TextPart,
    TokenIds,
    needs,
    utf8_size,
)

_IMAGE = 1024
"""Tokens of an image, roughly; the exact number depends on the model."""
_NO_TEXT: frozenset[Feature] = frozenset({"images", "tokens"})


class Requirements(Struct, frozen=True, kw_only=True):
    features: frozenset[Feature] = frozenset()
    prompt_bytes: int = 0
    """All text of the prompt, as UTF-8."""
    prompt_tokens: int = 0
    """Estimated tokens of all parts that are not text."""
    messages: int = 0
    """0 for raw text, to which no template is applied."""
    n: int = 1
    max_tokens: int | None = None


def to_requirements(request: GenerationRequest | EmbeddingRequest) -> Requirements:
    features = needs(request)
    if isinstance(request, EmbeddingRequest):
        return Requirements(features=features)
    features -= request.wishes
    messages = request.prompt if isinstance(request.prompt, tuple) else ()
    nbytes = utf8_size(request.prompt) if isinstance(request.prompt, str) else 0
    if request.suffix:
        nbytes += utf8_size(request.suffix)
    if request.tools and request.tool_choice != "none":
        nbytes += len(msgspec.json.encode(request.tools))
    return Requirements(
        features=features,
        prompt_bytes=nbytes + sum(map(_message_bytes, messages)),
        prompt_tokens=0 if features.isdisjoint(_NO_TEXT) else _other_tokens(request),
        messages=len(messages),
        n=request.n,
        max_tokens=request.max_tokens,
    )


def _message_bytes(message: Message) -> int:
    nbytes = sum([utf8_size(part.text) for part in message.content if isinstance(part, TextPart)])
    for call in message.tool_calls:
        nbytes += utf8_size(call.name) + utf8_size(call.arguments)
    return nbytes + utf8_size(message.reasoning) if message.reasoning else nbytes


def _other_tokens(request: GenerationRequest) -> int:
    match request.prompt:
        case TokenIds(ids=ids):
            return len(ids)
        case str():
            return 0
        case messages:
            return _IMAGE * sum([len(message.images) for message in messages])
