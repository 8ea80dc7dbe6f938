"""What any endpoint may ask of any backend: one request type, free of every dialect."""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class TextPart(Struct, frozen=True, tag="text"):
    text: str


class ImagePart(Struct, frozen=True, tag="image"):
    url: str
    """A `data:` URL, or one that somebody would have to fetch."""


ContentPart = TextPart | ImagePart


class ToolCall(Struct, frozen=True):
    id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""


class Message(Struct, frozen=True, kw_only=True):
    role: Role
    content: tuple[ContentPart, ...] = ()
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts, a line each: words of two parts never run together."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.content if isinstance(part, ImagePart))


class Tool(Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class NamedTool(Struct, frozen=True):
    """`tool_choice` for one function only."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


class JSONObject(Struct, frozen=True, tag="json_object"):
    """Any JSON object."""


class JSONSchema(Struct, frozen=True, tag="json_schema"):
    schema: dict[str, Any]
    strict: bool = False


ResponseFormat = JSONObject | JSONSchema


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is drawn. `None` leaves the model's own default in force."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    """Token id -> what is added to its logit."""


class GenerationRequest(Struct, frozen=True, kw_only=True):
    model: str
    """The backend's own name of the model."""
    prompt: tuple[Message, ...] | str
    """A chat, or raw text to be continued."""
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    """`None`: as many as the context has room for."""
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    top_logprobs: int | None = None
    """How many alternatives to report for each token; 0 is the token alone, `None` is no report."""


Feature = Literal[
    "prompt",
    "images",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "max_tokens",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "logprobs",
]
"""What a request can ask for beyond a plain chat, and a backend can honour or refuse."""

_ASKED: dict[Feature, Callable[[GenerationRequest], bool]] = {
    "prompt": lambda r: isinstance(r.prompt, str),
    "images": lambda r: not isinstance(r.prompt, str) and any(m.images for m in r.prompt),
    "temperature": lambda r: r.sampling.temperature is not None,
    "top_p": lambda r: r.sampling.top_p is not None,
    "top_k": lambda r: r.sampling.top_k is not None,
    "min_p": lambda r: r.sampling.min_p is not None,
    "seed": lambda r: r.sampling.seed is not None,
    "frequency_penalty": lambda r: bool(r.sampling.frequency_penalty),
    "presence_penalty": lambda r: bool(r.sampling.presence_penalty),
    "logit_bias": lambda r: bool(r.sampling.logit_bias),
    "max_tokens": lambda r: r.max_tokens is not None,
    "stop": lambda r: bool(r.stop),
    "tools": lambda r: bool(r.tools) and r.tool_choice != "none",
    "tool_choice": lambda r: bool(r.tools) and r.tool_choice not in ("auto", "none"),
    "parallel_tool_calls": lambda r: (
        bool(r.tools) and r.tool_choice != "none" and not r.parallel_tool_calls
    ),
    "response_format": lambda r: r.response_format is not None,
    "reasoning_effort": lambda r: r.reasoning_effort is not None,
    "logprobs": lambda r: r.top_logprobs is not None,
}


def needs(request: GenerationRequest) -> frozenset[Feature]:
    """The features `request` asks for.

    A neutral value (a penalty of 0, tools withheld by `tool_choice: none`) asks for nothing.
    """
    return frozenset(feature for feature, asked in _ASKED.items() if asked(request))
