"""OpenAI's CreateCompletionRequest and extensions -> a `GenerationRequest` for each prompt."""

from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import GenerationRequest, TokenIds
from proxy.endpoints.generation_fields import (
    GenerationFields,
    check_stream_options,
    only_one,
    sent_as,
    settle,
    to_guided,
    to_limit,
    to_request,
)
from proxy.endpoints.wire_types import TokenId, TokenLimit

_MAX_TOKENS = 16
"""OpenAI's default."""
_MAX_PROMPTS = 64

Ids = Annotated[list[TokenId], Meta(min_length=1)]


class CompletionRequest(GenerationFields, kw_only=True):
    max_tokens: TokenLimit | None = None
    """0 with `echo`: the prompt is read and nothing generated."""
    prompt: str | Annotated[list[str | TokenId | Ids], Meta(min_length=1)] | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None


OTHER_NAMES = {
    "messages": "prompt",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "stop_sequences": "stop",
}
"""Fields of the APIs of chats that completions have under other names."""


def to_generation_requests(body: CompletionRequest) -> list[GenerationRequest]:
    """Translate the body to a request for each prompt; the model keeps its public name.

    Raises:
        UnsupportedParameterError: `best_of` differs from `n`: answers are not ranked.
        InvalidRequestError: fields conflict.
    """
    check_stream_options(body)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnsupportedParameterError(
            "'best_of' must equal 'n': answers are not ranked.", param="best_of"
        )
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError("'max_tokens' of 0 needs 'echo' to be true.", param="max_tokens")
    settled = settle(body)
    is_empty = settled.max_tokens == 0 and settled.echo
    limit = 0 if is_empty else to_limit(settled.max_tokens, body, _MAX_TOKENS)
    return [
        replace(
            to_request(settled, prompt, limit),
            suffix=settled.suffix or None,
            echo=bool(settled.echo),
            response_format=only_one(to_guided(settled)),
            top_logprobs=settled.logprobs,
        )
        for prompt in to_prompts(body.prompt)
    ]


def to_prompts(prompt: str | list[Any] | None) -> list[str | TokenIds]:
    """Read a text, several texts, the tokens of a text, or those of several texts.

    An absent prompt is the empty one, which begins a document if the backend can do that.
    """
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    if any(type(item) is not type(prompt[0]) for item in prompt):
        raise InvalidRequestError("'prompt' mixes texts and tokens: send one kind.", param="prompt")
    if isinstance(prompt[0], int):
        return [TokenIds(tuple(prompt))]
    if len(prompt) > _MAX_PROMPTS:
        raise InvalidRequestError(
            f"'prompt' has {len(prompt)} prompts; send at most {_MAX_PROMPTS}.", param="prompt"
        )
    return [item if isinstance(item, str) else TokenIds(tuple(item)) for item in prompt]


def to_param(feature: str | None, body: CompletionRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    names = {
        "tokens": "prompt",
        "messages": "prompt",
        "top_logprobs": "logprobs",
        "echo_logprobs": "echo",
        "empty_answer": "max_tokens",
    }
    return names.get(feature) or sent_as(feature, body) if feature is not None else None
