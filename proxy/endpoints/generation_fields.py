"""Fields that chats and completions share: sampling, limits, and extensions of other servers.

vLLM's `guided_*` and `repetition_penalty`, LM Studio's `ttl`, Ollama's `keep_alive` and `options`
(https://github.com/ollama/ollama/blob/main/docs/modelfile.md) have the meaning of their servers.
"""

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Lark,
    Message,
    Regex,
    ResponseFormat,
    Sampling,
    TokenIds,
)
from proxy.endpoints.wire_types import (
    Choices,
    LogitBias,
    Penalty,
    Probability,
    Seed,
    StopList,
    StopString,
    StreamOptions,
    Temperature,
    TokenCount,
    TokenLimit,
    TopK,
    as_tuple,
)
from proxy.http.body import whole_numbers
from proxy.keep_alive import KeepAlive, to_keep_alive

RepetitionPenalty = Annotated[float, Meta(gt=0, le=10)]
RepeatLastN = Annotated[int, Meta(ge=-1)]
Pattern = Annotated[str, Meta(min_length=1)]
Choice = Annotated[list[str], Meta(min_length=1)]
Scalar = bool | int | float | str | None
Prompt = tuple[Message, ...] | str | TokenIds


class Options(Struct, kw_only=True, omit_defaults=True):
    """Ollama's options. Others are unknown fields, as to Ollama itself, which ignores them."""

    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    min_p: Any = None
    seed: Any = None
    stop: Any = None
    num_predict: Any = None
    num_ctx: Any = None
    repeat_penalty: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    repeat_last_n: Any = None
    typical_p: Any = None
    tfs_z: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    num_keep: Any = None
    num_batch: Any = None
    num_gpu: Any = None
    main_gpu: Any = None
    num_thread: Any = None
    use_mmap: Any = None
    draft_num_predict: Any = None

    def set(self) -> dict[str, Any]:
        """Return the options that have a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class StructuredOutputs(Struct, kw_only=True):
    """vLLM's `structured_outputs`, which has replaced its `guided_*` fields."""

    json: dict[str, Any] | str | None = None
    regex: Pattern | None = None
    choice: Choice | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None


class GenerationFields(Struct, kw_only=True):
    model: str
    n: Choices | None = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None
    """Ollama's name for the same."""
    num_predict: TokenLimit | None = None
    """Ollama's name for `max_tokens`."""
    n_predict: TokenLimit | None = None
    """llama.cpp's name for it."""
    repeat_last_n: RepeatLastN | None = None
    logit_bias: LogitBias | None = None
    stop: StopString | StopList | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    backend: str | None = None
    """The name of the backend that must answer."""

    format: Literal["json", ""] | dict[str, Any] | None = None
    """Ollama's name for `response_format`: `json`, or a schema."""
    json_schema: dict[str, Any] | str | None = None
    """llama.cpp's."""
    guided_json: dict[str, Any] | str | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choice | None = None
    guided_grammar: Pattern | None = None
    structured_outputs: StructuredOutputs | None = None

    num_ctx: TokenCount | None = None
    keep_alive: KeepAlive | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
    options: Options | None = None

    # Ollama's options as fields; `_OWN` has their types.
    typical_p: Scalar = None
    tfs_z: Scalar = None
    mirostat: Scalar = None
    mirostat_tau: Scalar = None
    mirostat_eta: Scalar = None
    num_keep: Scalar = None
    num_batch: Scalar = None
    num_gpu: Scalar = None
    main_gpu: Scalar = None
    num_thread: Scalar = None
    use_mmap: Scalar = None
    draft_num_predict: Scalar = None


F = TypeVar("F", bound=GenerationFields)

OLLAMA_ONLY = (
    "typical_p",
    "tfs_z",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "num_keep",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "use_mmap",
    "draft_num_predict",
)

_ollama_only = attrgetter(*OLLAMA_ONLY)
_RENAMED = {
    "repeat_penalty": "repetition_penalty",
    "num_predict": "max_tokens",
    "n_predict": "max_tokens",
}
"""Another server's name of a field -> the field with the same meaning."""
_unsettled = attrgetter(*_RENAMED, "options", *OLLAMA_ONLY)
_NOTHING = (None,) * (len(_RENAMED) + 1 + len(OLLAMA_ONLY))

_SHARED: dict[str, tuple[str, Any]] = {
    "temperature": ("temperature", Annotated[float, Meta(ge=0)]),
    "top_p": ("top_p", Probability),
    "top_k": ("top_k", TopK),
    "min_p": ("min_p", Probability),
    "seed": ("seed", Seed),
    "stop": ("stop", StopString | StopList),
    "num_predict": ("max_tokens", TokenLimit),
    "num_ctx": ("num_ctx", TokenCount),
    "repeat_penalty": ("repetition_penalty", RepetitionPenalty),
    "repeat_last_n": ("repeat_last_n", RepeatLastN),
    "frequency_penalty": ("frequency_penalty", Penalty),
    "presence_penalty": ("presence_penalty", Penalty),
}
"""Ollama's option -> the field of the request with the same meaning, and its type."""
_OWN: dict[str, Any] = {
    "typical_p": Probability,
    "num_keep": Annotated[int, Meta(ge=-1)],
    "num_batch": TokenCount,
    "num_gpu": Annotated[int, Meta(ge=-1)],
    "main_gpu": Annotated[int, Meta(ge=0)],
    "num_thread": Annotated[int, Meta(ge=0)],
    "use_mmap": bool,
    "draft_num_predict": Annotated[int, Meta(ge=0)],
}
"""Ollama's other options and their types, which are checked also where they have no effect."""

_SENT_AS: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_completion_tokens", "max_tokens", "num_predict", "n_predict"),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "keep_alive": ("keep_alive", "ttl"),
    "response_format": (
        "response_format",
        "format",
        "json_schema",
        "guided_json",
        "structured_outputs",
    ),
    "guided_regex": ("guided_regex", "guided_choice", "structured_outputs"),
    "guided_grammar": ("guided_grammar", "structured_outputs"),
    "options": OLLAMA_ONLY,
    "tools": ("tools", "functions"),
    "tool_choice": ("tool_choice", "function_call"),
    "reasoning_effort": (
        "reasoning_effort",
        "reasoning",
        "think",
        "enable_thinking",
        "chat_template_kwargs",
    ),
}
"""A feature of the contract -> the fields of a body that request it."""


def settle(body: F) -> F:
    """Resolve aliases in `body`; its `options` keep only options that no other field has.

    Raises:
        InvalidRequestError: two fields of the same meaning conflict, or an option is invalid.
        UnsupportedParameterError: a former option of Ollama is switched on.
    """
    if _unsettled(body) == _NOTHING:  # as nearly always
        return body
    body = _renamed(body)
    options = _effective(body.options.set() if body.options is not None else {}, "options.")
    changes: dict[str, Any] = {}
    for name in options.keys() & _SHARED.keys():
        field, kind = _SHARED[name]
        value = _option(f"options.{name}", options[name], kind)
        for flat in _SENT_AS.get(field, (field,)):
            _require_equal(body, flat, value, f"options.{name}")
        changes[field] = value
    return replace(body, **changes, options=_only_ollamas(body, options))


def _renamed(body: F) -> F:
    """
    Raises:
        InvalidRequestError: a field and the one that it is renamed to conflict.
    """
    changes: dict[str, Any] = {}
    for name, field in _RENAMED.items():
        if (value := getattr(body, name)) is not None:
            for flat in _SENT_AS[field]:
                _require_equal(body, flat, value, name)
            changes[field] = value
    return replace(body, **changes) if changes else body


def _option(param: str, value: Any, kind: Any) -> Any:
    """
    Raises:
        InvalidRequestError: `value`, which `param` has, is not of the type `kind`.
    """
    try:
        return msgspec.convert(whole_numbers(value), kind)
    except msgspec.ValidationError as exc:
        raise InvalidRequestError(f"'{param}': {exc}.", param=param) from exc


def _require_equal(body: Any, field: str, value: Any, param: str) -> None:
    """
    Raises:
        InvalidRequestError: `field` of `body` differs from `value`, which `param` has.
    """
    other = getattr(body, field, None)
    if other is not None and other != value:
        raise InvalidRequestError(f"'{param}' conflicts with '{field}'.", param=param)


def _effective(options: dict[str, Any], path: str) -> dict[str, Any]:
    """Leave out former options that are switched off by their values: clients send defaults.

    Raises:
        UnsupportedParameterError: one is not switched off; `param` is its name after `path`.
    """
    off = {name for name, value in _OFF.items() if options.get(name) == value}
    if "mirostat" in off:
        off |= {"mirostat_tau", "mirostat_eta"}
    effective = {name: value for name, value in options.items() if name not in off}
    for name in FORMER_OPTIONS:
        if name in effective:
            param = f"{path}{name}"
            raise UnsupportedParameterError(
                f"'{param}' is not supported: Ollama has dropped it, and no engine has it.",
                param=param,
            )
    return effective


FORMER_OPTIONS = ("tfs_z", "mirostat", "mirostat_tau", "mirostat_eta")
"""Options that Ollama had. Source: https://github.com/ollama/ollama/pull/10581"""
_OFF = {"mirostat": 0, "tfs_z": 1}


def _only_ollamas(body: GenerationFields, options: dict[str, Any]) -> Options:
    """Merge the fields of `OLLAMA_ONLY` with the options that no other field has."""
    pairs = zip(OLLAMA_ONLY, _ollama_only(body), strict=True)
    fields = _effective({name: value for name, value in pairs if value is not None}, "")
    for name in fields.keys() & options.keys():
        _require_equal(body, name, options[name], f"options.{name}")
    own = {
        name: _option(f"options.{name}", value, _OWN[name])
        for name, value in options.items()
        if name not in _SHARED
    }
    return Options(
        **own | {name: _option(name, value, _OWN[name]) for name, value in fields.items()}
    )


def to_limit(limit: int | None, sent: GenerationFields, default: int | None = None) -> int | None:
    """Translate `limit`, the limit in `sent`; `None`: the answer has no limit of its own.

    Raises:
        InvalidRequestError: it is 0; `param` is the field in `sent`.
    """
    if limit == 0:
        param = sent_as("max_tokens", sent)
        raise InvalidRequestError(
            f"'{param}' is 0; use 1 or more, or -1 for no limit.", param=param
        )
    if limit is None:
        return default
    return None if limit < 0 else limit


_sampling_fields = attrgetter(*Sampling.__struct_fields__)
_DEFAULT_SAMPLING = Sampling()
_DEFAULTS = _sampling_fields(_DEFAULT_SAMPLING)


def to_sampling(body: GenerationFields) -> Sampling:
    """Read the sampling fields of a settled body, which have the names of the contract's."""
    values = _sampling_fields(body)
    if values == _DEFAULTS:
        return _DEFAULT_SAMPLING
    if body.top_k == -1:
        values = _sampling_fields(replace(body, top_k=0))
    return Sampling(**dict(zip(Sampling.__struct_fields__, values, strict=True)))


def to_request(body: GenerationFields, prompt: Prompt, max_tokens: int | None) -> GenerationRequest:
    """Build the request of a settled `body`, without the fields that shape the answer."""
    return GenerationRequest(
        model=body.model,
        prompt=prompt,
        n=body.n or 1,
        sampling=to_sampling(body),
        max_tokens=max_tokens,
        stop=as_tuple(body.stop),
        num_ctx=body.num_ctx,
        keep_alive=to_keep_alive(body.keep_alive, body.ttl),
        options=body.options.set() if body.options is not None else {},
    )


def to_guided(body: GenerationFields) -> list[tuple[str, ResponseFormat]]:
    """List the formats that fields of other servers require, each with the name of its field."""
    formats: list[tuple[str, ResponseFormat]] = []
    if isinstance(body.format, dict):
        formats.append(("format", JSONSchema(body.format)))
    elif body.format:
        formats.append(("format", JSONObject()))
    if body.json_schema is not None:
        formats.append(("json_schema", _to_schema(body.json_schema, "json_schema")))
    for kind, to_format in _GUIDES.items():
        guided = getattr(body, f"guided_{kind}", None)
        structured = getattr(body.structured_outputs, kind, None)
        for field, value in (
            (f"guided_{kind}", guided),
            (f"structured_outputs.{kind}", structured),
        ):
            if value is not None and value is not False:
                formats.append((field, to_format(value, field)))
    return formats


def only_one(formats: list[tuple[str, ResponseFormat]]) -> ResponseFormat | None:
    """Return the only format, or `None` without any.

    Raises:
        InvalidRequestError: the request has several formats.
    """
    if len(formats) > 1:
        fields = " and ".join(f"'{field}'" for field, _ in formats)
        raise InvalidRequestError(f"{fields} conflict: send one of them.", param=formats[1][0])
    return formats[0][1] if formats else None


def _to_schema(schema: dict[str, Any] | str, field: str) -> JSONSchema:
    if isinstance(schema, dict):
        return JSONSchema(schema)
    try:
        return JSONSchema(msgspec.json.decode(schema, type=dict[str, Any]))
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequestError(
            f"'{field}' must be a JSON schema: an object, or one as a string.", param=field
        ) from exc


_OPERATORS = re.compile(r"[\\.^$|?*+()\[\]{}]")


def _to_choice(texts: list[str], _field: str) -> Regex:
    return Regex("|".join(_OPERATORS.sub(r"\\\g<0>", text) for text in texts))


_GUIDES: dict[str, Callable[[Any, str], ResponseFormat]] = {
    "json": _to_schema,
    "regex": lambda pattern, _: Regex(pattern),
    "choice": _to_choice,
    "grammar": lambda grammar, _: Lark(grammar),
    "json_object": lambda _, __: JSONObject(),
}
"""Kind of vLLM's formats -> a function of the value and the name of its field."""


def check_stream_options(body: GenerationFields) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' needs 'stream' to be true.", param="stream_options"
        )


SCHEMA_PATH = "response_format.json_schema.schema"
"""The contract's path of the schema of an answer, which is OpenAI's."""


def sent_as(feature: str, body: GenerationFields) -> str:
    """Return the field of the body, as the client sent it, that requests `feature`."""
    if feature.startswith(SCHEMA_PATH):
        sent = {
            "json_schema": body.json_schema,
            "guided_json": body.guided_json,
            "structured_outputs.json": body.structured_outputs,
        }
        place = next((name for name, value in sent.items() if value is not None), SCHEMA_PATH)
        return place + feature.removeprefix(SCHEMA_PATH)
    for field in _SENT_AS.get(feature, (feature.removeprefix("options."),)):
        if getattr(body, field, None) is not None:
            return field
    for option in body.options.set() if body.options is not None else ():
        shared = _SHARED.get(option)
        if (shared is None and feature == "options") or (shared and shared[0] == feature):
            return f"options.{option}"
    return feature
