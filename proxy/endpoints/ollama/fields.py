"""Fields that Ollama's chat and generate share, and their meaning in the contract.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from adapters import request as contract
from adapters.errors import InvalidRequestError
from proxy.endpoints.generation_fields import (
    SCHEMA_PATH,
    GenerationFields,
    Options,
    sent_as,
)
from proxy.keep_alive import KeepAlive

JSON = dict[str, Any]
_CUT = ("truncate", "shift")
DEFAULT_SAMPLING = contract.Sampling(temperature=0.8, top_k=40, top_p=0.9)
"""Source: `DefaultOptions` in Ollama's `api/types.go`."""


class OllamaFields(Struct, kw_only=True):
    model: str
    stream: bool | None = None
    """True by default."""
    format: Literal["json", ""] | JSON | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: KeepAlive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncate: bool | None = None
    shift: bool | None = None
    """`truncate` and `shift` have no effect: nothing of a prompt is ever cut."""
    backend: str | None = None
    """Tandem's own: the name of the backend that must answer."""


def ignored_cuts(body: OllamaFields) -> tuple[str, ...]:
    """Name the wishes for a cut prompt, which is refused where it is too long."""
    return tuple(name for name in _CUT if getattr(body, name))


def check_logprobs(body: OllamaFields) -> None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
        )


def generation_fields(body: OllamaFields) -> GenerationFields:
    """The fields that all dialects share."""
    return GenerationFields(model=body.model, options=body.options, keep_alive=body.keep_alive)


def to_num_predict(settled: GenerationFields) -> int | None:
    """Read the limit of the answer: 0 and less is none, as in Ollama."""
    limit = settled.max_tokens
    return limit if limit is not None and limit > 0 else None


def to_top_logprobs(body: OllamaFields) -> int | None:
    return (body.top_logprobs or 0) if body.logprobs else None


def to_response_format(form: str | JSON | None) -> contract.ResponseFormat | None:
    match form:
        case None | "":
            return None
        case str():
            return contract.JSONObject()
        case _:
            return contract.JSONSchema(form)


def to_reasoning_effort(body: OllamaFields) -> contract.ReasoningEffort | None:
    match body.think:
        case None:
            return None
        case "max":
            return "xhigh"
        case str(level):
            return level
        case enabled:
            return "medium" if enabled else "none"


def field_of(feature: str, body: OllamaFields) -> str:
    """Return the field of the body that requests `feature` of the contract."""
    if feature.startswith(SCHEMA_PATH):
        return f"format{feature.removeprefix(SCHEMA_PATH)}"
    names = {
        "logprobs": "top_logprobs" if body.top_logprobs else "logprobs",
        "response_format": "format",
        "reasoning_effort": "think",
    }
    return names.get(feature) or sent_as(feature, generation_fields(body))


def to_image(data: str) -> contract.ImagePart:
    """Read an image in base64."""
    return contract.ImagePart(f"data:;base64,{data}")
