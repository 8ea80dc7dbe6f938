"""The part of Ollama's JSON that Tandem sends and reads.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and `api/types.go`.
"""

from typing import Annotated, Any, ClassVar, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from adapters.recommended_sampling import RecommendedSampling

Think = bool | Literal["low", "medium", "high", "max"]


class Function(Struct, kw_only=True):
    name: str
    arguments: msgspec.Raw
    """An object; from some servers a string that holds one."""


class FunctionCall(Struct, kw_only=True):
    function: Function
    id: str | UnsetType | None = UNSET


class ChatMessage(Struct, kw_only=True):
    role: str
    content: str
    images: list[str] | UnsetType = UNSET
    """Base64, without the prefix of a data URL."""
    thinking: str | UnsetType = UNSET
    tool_calls: list[FunctionCall] | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class ToolFunction(Struct, kw_only=True):
    name: str
    description: str | UnsetType = UNSET
    parameters: dict[str, Any]


class ToolDefinition(Struct, kw_only=True):
    function: ToolFunction
    type: str = "function"


Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Options(Struct, kw_only=True):
    """Absent leaves the Modelfile's value, or Ollama's default, in force.

    The names and types are those of `api/types.go`; the bounds are those that make sense to its
    engine.
    """

    temperature: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    top_p: Share | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    min_p: Share | UnsetType = UNSET
    typical_p: Share | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    repeat_penalty: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    repeat_last_n: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    """Tokens that the penalties look back; -1: the whole context."""
    stop: tuple[str, ...] | UnsetType = UNSET
    num_predict: Annotated[int, Meta(ge=-2)] | UnsetType = UNSET
    """Negative: as many as the context has room for."""
    num_keep: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    num_ctx: Positive | UnsetType = UNSET
    num_batch: Positive | UnsetType = UNSET
    num_gpu: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    """Layers on the GPU; -1 leaves it to Ollama."""
    main_gpu: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    use_mmap: bool | UnsetType = UNSET
    num_thread: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    draft_num_predict: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class Generation(Struct, kw_only=True):
    """The fields that `/api/chat` and `/api/generate` share."""

    path: ClassVar[str]
    """Path of the URL that it is posted to."""
    model: str
    options: Options
    stream: bool = True
    # Without these two Ollama silently drops the beginning of a prompt that is too long.
    truncate: bool = False
    shift: bool = False
    keep_alive: float | UnsetType = UNSET
    """Seconds; negative: for ever."""
    format: Literal["json"] | dict[str, Any] | UnsetType = UNSET
    think: Think | UnsetType = UNSET
    logprobs: bool | UnsetType = UNSET
    top_logprobs: int | UnsetType = UNSET


class ChatBody(Generation, kw_only=True):
    path: ClassVar[str] = "/api/chat"
    messages: list[ChatMessage]
    tools: list[ToolDefinition] | UnsetType = UNSET
    render_only: bool | UnsetType = field(default=UNSET, name="_debug_render_only")
    """Return the rendered prompt, and generate nothing. Older servers ignore it."""


class RawBody(Generation, kw_only=True):
    path: ClassVar[str] = "/api/generate"
    prompt: str
    raw: bool = True
    think: Think | UnsetType = False
    """Ollama's default for a model that thinks takes the text after a prompt that ends with an
    opening marker for a thought, and leaves `response` empty."""


class FillBody(RawBody, kw_only=True):
    """A request for the text between `prompt` and `suffix`, joined by the model's own template."""

    suffix: str
    raw: bool = False


class EmbedOptions(Struct):
    num_ctx: int


class EmbedBody(Struct, kw_only=True):
    path: ClassVar[str] = "/api/embed"
    model: str
    input: tuple[str, ...]
    truncate: bool = False
    dimensions: int | UnsetType = UNSET
    keep_alive: float | UnsetType = UNSET
    options: EmbedOptions | UnsetType = UNSET


class Embedded(Struct, kw_only=True):
    embeddings: tuple[tuple[float, ...], ...]
    prompt_eval_count: int = 0


class LoadBody(Struct, kw_only=True):
    """A chat without messages loads the model; with `keep_alive` 0 it unloads it."""

    path: ClassVar[str] = "/api/chat"
    model: str
    messages: tuple[ChatMessage, ...] = ()
    keep_alive: float | UnsetType = UNSET
    stream: bool = False
    options: Options | UnsetType = UNSET
    # As in a request: a runner with another `shift` is reloaded.
    shift: bool | UnsetType = UNSET


class PullBody(Struct):
    model: str


class CreateBody(Struct, kw_only=True):
    model: str
    files: dict[str, str]
    """Name -> `sha256:…` of an uploaded file."""
    parameters: RecommendedSampling
    """The model's own `PARAMETER`s."""


class PullLine(Struct, kw_only=True):
    status: str = ""
    digest: str | None = None
    completed: int | None = None
    """Bytes of the file with `digest`; it may be absent for 0."""
    total: int | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        return self.status == "success"


class Logprob(Struct, kw_only=True):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: "tuple[Logprob, ...] | None" = None


class AnswerMessage(Struct, kw_only=True, gc=False):
    # Ollama omits empty fields; servers that use the classes of its own client write null.
    content: str | None = None
    thinking: str | None = None
    tool_calls: tuple[FunctionCall, ...] | None = None


class Line(Struct, kw_only=True, gc=False):
    """One line of an answer: a chat's (`message`), a raw text's (`response`), or an error.

    Not tracked by the garbage collector: one read may bring a thousand, and none has a cycle.
    """

    message: AnswerMessage | None = None
    response: str | None = None
    thinking: str | None = None
    error: str | None = None
    done: bool | None = None
    done_reason: str | None = None
    logprobs: tuple[Logprob, ...] | None = None
    prompt_eval_count: int | None = None
    """Tokens of the prompt, with those from a cache; absent means 0."""
    eval_count: int | None = None
    load_duration: int | None = None
    """This and what follows: nanoseconds, on the last line."""
    prompt_eval_duration: int | None = None
    eval_duration: int | None = None


class DebugInfo(Struct, kw_only=True):
    rendered_template: str = ""


class Rendering(Struct, kw_only=True):
    """The response to `render_only`."""

    debug_info: DebugInfo | None = field(default=None, name="_debug_info")
    """`None` from a server that does not render."""
    message: AnswerMessage | None = None
    """The answer to a body that has no `render_only`."""


class ErrorBody(Struct):
    error: str


class RunnerError(Struct, kw_only=True):
    """The error of llama-server, which Ollama puts as text into its own `error`."""

    message: str
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class RunnerErrorBody(Struct):
    error: RunnerError


class Version(Struct):
    version: str


class Details(Struct, kw_only=True):
    format: str = ""
    """`gguf`, or `safetensors` for Ollama's own MLX runner."""
    parent_model: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int | None = None
    embedding_length: int | None = None


class Tag(Struct, kw_only=True):
    name: str
    digest: str = ""
    size: int | None = None
    """Bytes on disk; in `/api/ps` those in memory, and 0 where there is no GPU."""
    modified_at: str = ""
    """RFC 3339, nanoseconds."""
    details: Details | None = None
    capabilities: tuple[str, ...] | None = None
    context_length: int | None = None
    """In `/api/ps` only, as the fields below: the context it is loaded with."""
    size_vram: int = 0
    """The part of `size` in a GPU's memory."""
    expires_at: str = ""
    """Time of its unloading; each use moves it. RFC 3339, nanoseconds."""


class Tags(Struct):
    models: tuple[dict[str, Any], ...] | None = None
    servers: tuple[str, ...] = ()
    """Ids of a Tandem in Ollama's place and of the servers of Tandem behind it."""

    @property
    def known(self) -> list[Tag]:
        """The entries that can be read: a bad one must not hide the others."""
        return [tag for entry in self.models or () if (tag := _to_tag(entry)) is not None]


def _to_tag(entry: dict[str, Any]) -> Tag | None:
    # The official client reads `model`, and null for an absent field.
    fields = {"name": entry.get("model")} | _without_nulls(entry)
    try:
        return msgspec.convert(fields, Tag)
    except msgspec.ValidationError:
        return None


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nulls(cast(dict[str, Any], value)) if isinstance(value, dict) else value
        for key, value in fields.items()
        if value is not None
    }


class ShowBody(Struct):
    model: str
    verbose: bool = False
    """True: with the vocabulary and the tensors."""


class Show(Struct, kw_only=True):
    modelfile: str = ""
    parameters: str = ""
    """A line for each `PARAMETER` of the Modelfile."""
    template: str = ""
    """The template that renders chats: in Go, or the weights' own, in Jinja."""
    capabilities: tuple[str, ...] | None = None
    model_info: dict[str, Any] = {}


class ShownVocabulary(Struct, kw_only=True):
    """The part of a verbose `/api/show` that has the vocabulary, not decoded yet."""

    model_info: dict[str, Raw] = {}


class Tensor(Struct, kw_only=True):
    name: str
    type: str = ""
    shape: tuple[int, ...] | None = None


class FullShow(Show, kw_only=True):
    """The answer with the texts for people, which are not kept."""

    license: str = ""
    system: str = ""
    tensors: tuple[Tensor, ...] | None = None


class DeleteBody(Struct):
    model: str


class CopyBody(Struct):
    source: str
    destination: str
