"""Structs that two or more endpoints share."""

from typing import Annotated

from msgspec import Meta, Struct

from proxy.record import Record

Temperature = Annotated[float, Meta(ge=0, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenCountOrZero = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenLimit = Annotated[int, Meta(ge=-2, le=2**31 - 1)]
"""Tokens of an answer; negative: no limit. Local servers read -1 so, and Ollama -2 as well."""
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""Tokens to draw from; 0 and -1: all, as in Ollama, llama.cpp and vLLM."""
Choices = Annotated[int, Meta(ge=1, le=8)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
StopList = Annotated[list[StopString], Meta(max_length=64)]
"""OpenAI takes 4. Local servers have no limit, and Continue sends 9 to 14."""
LogitBias = Annotated[dict[TokenId, Bias], Meta(max_length=1024)]


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PromptTokensDetails(Struct):
    cached_tokens: int


class CompletionTokensDetails(Struct):
    reasoning_tokens: int


class Usage(Struct, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def to_usage(record: Record) -> Usage:
    """Translate the counts of a complete answer; a detail that the engine does not report is 0.

    Clients read the details of OpenAI's answers without a look whether they are there.
    """
    usage = record.usage
    assert usage is not None  # noqa: S101 - a complete answer has choices.
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens or 0),
        completion_tokens_details=CompletionTokensDetails(usage.reasoning_tokens or 0),
    )


def as_tuple(stop: str | list[str] | None) -> tuple[str, ...]:
    """Normalise `stop`."""
    match stop:
        case None:
            return ()
        case str():
            return (stop,)
        case _:
            return tuple(stop)
