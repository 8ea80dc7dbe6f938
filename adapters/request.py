"""What any endpoint may ask of any backend: one request type, free of every dialect."""

from collections.abc import Callable, Iterable
from operator import attrgetter
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
        return "\n".join([part.text for part in self.content if isinstance(part, TextPart)])

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple([part for part in self.content if isinstance(part, ImagePart)])

    @property
    def has_images(self) -> bool:
        return ImagePart in map(type, self.content)


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


class Regex(Struct, frozen=True, tag="regex"):
    """The whole answer matches `pattern`; vLLM's `guided_regex`."""

    pattern: str


class Lark(Struct, frozen=True, tag="lark"):
    """The whole answer is derived from `grammar`, in Lark's notation; vLLM's `guided_grammar`."""

    grammar: str


ResponseFormat = JSONObject | JSONSchema | Regex | Lark


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is drawn. `None` leaves the model's own default in force."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    """Divides the logits of tokens that the prompt or the answer has; 1 changes nothing."""
    logit_bias: dict[int, float] | None = None
    """Token id -> what is added to its logit."""


class TokenIds(Struct, frozen=True):
    """Text as the model's own token ids."""

    ids: tuple[int, ...]


class GenerationRequest(Struct, frozen=True, kw_only=True):
    model: str
    """The backend's own name of the model."""
    prompt: tuple[Message, ...] | str | TokenIds
    """A chat, or raw text to be continued."""
    suffix: str | None = None
    """Text that follows the gap to be filled after a raw prompt."""
    echo: bool = False
    """The answer begins with the raw prompt itself; reported token by token where `top_logprobs`
    asks for a report."""
    n: int = 1
    """How many answers; a seed is that of the first, the next has seed + 1, and so on."""
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    """`None`: as many as the context has room for; 0, for `echo` alone: none."""
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    top_logprobs: int | None = None
    """How many alternatives to report for each token; 0 is the token alone, `None` is no report."""
    num_ctx: int | None = None
    """The most tokens that prompt and answer may have together; `None` leaves it to the backend."""
    keep_alive: float | None = None
    """Seconds the model stays loaded after the answer; negative: for ever, 0: not at all."""
    options: dict[str, Any] = {}
    """What only one engine knows, by its own names: Ollama's `mirostat`, `num_gpu`, …"""
    client: str = ""
    """Who asks, as a digest: caches are kept apart by it, and turns are shared out."""
    patience: float | None = None
    """Seconds in which the answer must begin, as another backend could give it; a model that has to
    be loaded first may take longer. `None`: nobody else can, so what the backend is set up for."""
    whole: bool = False
    """Nothing of the answer is given away before all of it is there: it may be `Restarted`."""


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    model: str
    """The backend's own name of the model."""
    inputs: tuple[str | TokenIds, ...]
    dimensions: int | None = None
    """Cut the vectors to so many components, and scale them to length 1 again."""
    keep_alive: float | None = None
    elsewhere: bool = False
    """Another backend has the same weights: a server that hangs need not be waited for."""


Feature = Literal[
    "embeddings",
    "prompt",
    "tokens",
    "suffix",
    "echo",
    "echo_logprobs",
    "empty_answer",
    "images",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "max_tokens",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "guided_regex",
    "guided_grammar",
    "reasoning_effort",
    "logprobs",
    "num_ctx",
    "keep_alive",
    "options",
]
"""What a request can ask for beyond a plain chat, and a backend can honour or refuse.

`tools` is a tool the model may call or not, `tool_choice` one that it must call. `echo_logprobs` is
what the model thought of the prompt, `empty_answer` an answer of no more than that.
"""

_ASKED: dict[str, dict[Feature, Callable[[GenerationRequest], bool]]] = {
    "prompt": {
        "prompt": lambda r: isinstance(r.prompt, str),
        "tokens": lambda r: isinstance(r.prompt, TokenIds),
        "images": lambda r: isinstance(r.prompt, tuple) and any(m.has_images for m in r.prompt),
    },
    "suffix": {"suffix": lambda r: r.suffix is not None},
    "echo": {
        "echo": lambda r: r.echo,
        "echo_logprobs": lambda r: r.echo and r.top_logprobs is not None,
    },
    "n": {"n": lambda r: r.n > 1},
    "sampling": {
        "temperature": lambda r: r.sampling.temperature is not None,
        "top_p": lambda r: r.sampling.top_p is not None,
        "top_k": lambda r: r.sampling.top_k is not None,
        "min_p": lambda r: r.sampling.min_p is not None,
        "seed": lambda r: r.sampling.seed is not None,
        "frequency_penalty": lambda r: bool(r.sampling.frequency_penalty),
        "presence_penalty": lambda r: bool(r.sampling.presence_penalty),
        "repetition_penalty": lambda r: r.sampling.repetition_penalty not in (None, 1),
        "logit_bias": lambda r: bool(r.sampling.logit_bias),
    },
    "max_tokens": {
        "max_tokens": lambda r: r.max_tokens is not None,
        "empty_answer": lambda r: r.max_tokens == 0,
    },
    "stop": {"stop": lambda r: bool(r.stop)},
    "tools": {
        "tools": lambda r: bool(r.tools) and r.tool_choice == "auto",
        "tool_choice": lambda r: bool(r.tools) and r.tool_choice not in ("auto", "none"),
        "parallel_tool_calls": lambda r: (
            bool(r.tools) and r.tool_choice != "none" and not r.parallel_tool_calls
        ),
    },
    "response_format": {
        "response_format": lambda r: isinstance(r.response_format, (JSONObject, JSONSchema)),
        "guided_regex": lambda r: isinstance(r.response_format, Regex),
        "guided_grammar": lambda r: isinstance(r.response_format, Lark),
    },
    "reasoning_effort": {"reasoning_effort": lambda r: r.reasoning_effort not in (None, "none")},
    "top_logprobs": {"logprobs": lambda r: r.top_logprobs is not None},
    "num_ctx": {"num_ctx": lambda r: r.num_ctx is not None},
    "keep_alive": {"keep_alive": lambda r: r.keep_alive is not None},
    "options": {"options": lambda r: bool(r.options)},
}
"""By the field that asks: most requests leave most of them as they are."""

_NOTHING = GenerationRequest(model="", prompt=())
_asking = attrgetter(*_ASKED)
_LEFT = tuple(zip(_ASKED.values(), _asking(_NOTHING), strict=True))
_BY_FEATURE = {feature: asked for asks in _ASKED.values() for feature, asked in asks.items()}


def needs(request: GenerationRequest | EmbeddingRequest) -> frozenset[Feature]:
    """The features `request` asks for.

    A neutral value (a penalty of 0, tools withheld by `tool_choice: none`) asks for nothing, nor
    does a `reasoning_effort` of none: every backend answers without reasoning where it is told to.
    """
    if isinstance(request, EmbeddingRequest):
        return _needs_of_embedding(request)
    asking = [
        asks for value, (asks, left) in zip(_asking(request), _LEFT, strict=True) if value != left
    ]
    return frozenset(
        [feature for asks in asking for feature, asked in asks.items() if asked(request)]
    )


def first_needed(
    features: Iterable[Feature], request: GenerationRequest | EmbeddingRequest
) -> Feature | None:
    """The first of `features` that `needs` has; found with less work, where they are few."""
    if isinstance(request, EmbeddingRequest):
        needed = needs(request)
        return next((feature for feature in features if feature in needed), None)
    for feature in features:
        if feature in _BY_FEATURE and _BY_FEATURE[feature](request):
            return feature
    return None


def _needs_of_embedding(request: EmbeddingRequest) -> frozenset[Feature]:
    """`dimensions` is no feature: whoever embeds can cut a vector."""
    asked: dict[Feature, bool] = {
        "embeddings": True,
        "tokens": any(isinstance(each, TokenIds) for each in request.inputs),
        "keep_alive": request.keep_alive is not None,
    }
    return frozenset(feature for feature, is_asked in asked.items() if is_asked)
