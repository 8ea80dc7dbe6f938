"""Ollama's prompt -> a `GenerationRequest`.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import GenerationRequest, Message, TextPart
from proxy.endpoints.generation_fields import settle, to_request
from proxy.endpoints.ollama.fields import (
    DEFAULT_SAMPLING,
    OllamaFields,
    check_logprobs,
    field_of,
    generation_fields,
    to_image,
    to_num_predict,
    to_reasoning_effort,
    to_response_format,
    to_top_logprobs,
)
from proxy.endpoints.ollama.generate.context import from_context
from proxy.images import image_at, path_of_image

Number = Annotated[int, Meta(ge=0)]


class OllamaGenerateRequest(OllamaFields, kw_only=True):
    """The body of Ollama's `/api/generate`."""

    prompt: str | None = None
    """Without text or images the model is loaded, or unloaded with a `keep_alive` of 0."""
    suffix: str | None = None
    """Text after the gap to be filled."""
    images: list[str] | None = None
    """In base64."""
    system: str | None = None
    template: str | None = None
    """Refused: the model's own template renders the prompt."""
    context: Annotated[list[Number], Meta(max_length=2_000_000)] | None = None
    """That of an earlier answer, to go on with its conversation."""
    raw: bool | None = None
    """The prompt is continued as it is, without the model's template."""

    @property
    def is_empty(self) -> bool:
        return not (self.prompt or self.images or self.suffix)

    @property
    def is_text(self) -> bool:
        """True if the prompt is text to continue, and not a turn of a conversation."""
        return bool(self.raw or self.suffix)


def to_generation_request(body: OllamaGenerateRequest) -> GenerationRequest:
    """Translate the body; the model keeps its public name.

    Raises:
        UnsupportedParameterError: no backend can honour a field.
        InvalidRequestError: fields conflict, or an option is invalid.
    """
    _refuse_impossible(body)
    check_logprobs(body)
    settled = settle(generation_fields(body))
    prompt = body.prompt or "" if body.is_text else to_messages(body)
    return replace(
        to_request(settled, prompt, to_num_predict(settled)),
        suffix=body.suffix or None,
        response_format=to_response_format(body.format),
        reasoning_effort=to_reasoning_effort(body),
        top_logprobs=to_top_logprobs(body),
        default_sampling=DEFAULT_SAMPLING,
    )


def to_messages(body: OllamaGenerateRequest) -> tuple[Message, ...]:
    """Join the conversation so far, the system prompt and the prompt."""
    before = from_context(body.context) if body.context else ()
    if body.system is not None:
        own = Message(role="system", content=(TextPart(body.system),))
        before = (own, *(message for message in before if message.role != "system"))
    text = (TextPart(body.prompt),) if body.prompt else ()
    return *before, Message(role="user", content=(*text, *map(to_image, body.images or [])))


def to_param(feature: str | None, body: OllamaGenerateRequest) -> str | None:
    """A field of the contract -> the name of the field that the client sent."""
    if feature is None:
        return None
    path = path_of_image(feature, _image_paths(body)) if not body.is_text else None
    names = {"messages": "prompt", "images": "images", "suffix": "suffix"}
    return path or names.get(feature) or field_of(feature, body)


def _image_paths(body: OllamaGenerateRequest) -> dict[str, str]:
    """Map each image's path in the contract to the client's path."""
    last = len(to_messages(body)) - 1
    return {
        image_at(last, bool(body.prompt) + place): f"images[{place}]"
        for place, _ in enumerate(body.images or [])
    }


def _refuse_impossible(body: OllamaGenerateRequest) -> None:
    if body.template:
        raise UnsupportedParameterError(
            "'template' is not supported: the model's own template renders the prompt. Send "
            "'raw' with a prompt that you have rendered.",
            param="template",
        )
    if body.is_text:
        kind = "raw" if body.raw else "suffix"
        for field in ("system", "context", "images"):
            if getattr(body, field):
                raise InvalidRequestError(
                    f"'{field}' conflicts with '{kind}': the prompt is not a conversation.",
                    param=field,
                )
