"""OpenAI's CreateCompletionRequest and our extensions -> a `GenerationRequest` for each prompt."""

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
_MOST_PROMPTS = 64

Ids = Annotated[list[TokenId], Meta(min_length=1)]


class CompletionRequest(GenerationFields, kw_only=True):
    max_tokens: TokenLimit | None = None
    """0 for a prompt that is only read, which `echo` shows."""
    prompt: str | Annotated[list[str | TokenId | Ids], Meta(min_length=1)] | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None


def to_generation_requests(body: CompletionRequest) -> list[GenerationRequest]:
    """One for each prompt, with the public model name still in them.

    Raises:
        UnsupportedParameterError: `best_of` other than `n`: nobody ranks answers.
        InvalidRequestError: fields that contradict each other.
    """
    check_stream_options(body)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnsupportedParameterError(
            "'best_of' other than 'n' is not supported.", param="best_of"
        )
    _require_a_text(body)
    settled = settle(body)
    limit = _to_limit(settled, body)
    return [_to_request(settled, prompt, limit) for prompt in to_prompts(body.prompt)]


def _to_request(
    body: CompletionRequest, prompt: str | TokenIds, limit: int | None
) -> GenerationRequest:
    return replace(
        to_request(body, prompt, limit),
        suffix=body.suffix or None,
        echo=bool(body.echo),
        response_format=only_one(to_guided(body)),
        top_logprobs=body.logprobs,
    )


def _require_a_text(body: CompletionRequest) -> None:
    """
    Raises:
        InvalidRequestError: neither prompt nor answer would be shown.
    """
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError("'max_tokens' of 0 goes with 'echo' only.", param="max_tokens")


def _to_limit(body: CompletionRequest, sent: CompletionRequest) -> int | None:
    is_empty = body.max_tokens == 0 and body.echo
    return 0 if is_empty else to_limit(body.max_tokens, sent, _MAX_TOKENS)


def to_prompts(given: str | list[Any] | None) -> list[str | TokenIds]:
    """A text, texts, a text's tokens, or several texts' tokens.

    No prompt is the empty one: OpenAI begins a document then, and so does a backend that can.
    """
    if given is None or isinstance(given, str):
        return [given or ""]
    if any(type(each) is not type(given[0]) for each in given):
        raise InvalidRequestError("'prompt' mixes texts and tokens.", param="prompt")
    if isinstance(given[0], int):
        return [TokenIds(tuple(given))]
    if len(given) > _MOST_PROMPTS:
        raise InvalidRequestError(f"'prompt' has more than {_MOST_PROMPTS}.", param="prompt")
    return [each if isinstance(each, str) else TokenIds(tuple(each)) for each in given]


def to_param(feature: str | None, body: CompletionRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    names = {
        "tokens": "prompt",
        "prompt": "prompt",
        "top_logprobs": "logprobs",
        "echo_logprobs": "echo",
        "empty_answer": "max_tokens",
    }
    return names.get(feature) or sent_as(feature, body) if feature is not None else None
