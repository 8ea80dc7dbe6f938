"""Translate Tandem's requests to Ollama's JSON: pure functions."""

import re
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from adapters.chat_template import Rewrite, rewrite
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.ollama.options import to_keep_alive, to_options
from adapters.ollama.translate.grammar_schema import GrammarSchema, SchemaRewriter
from adapters.ollama.translate.shown_tools import to_shown_parameters
from adapters.ollama.translate.tool_choice import (
    call_branches,
    chosen_tools,
    in_words,
    is_forced,
    may_call,
)
from adapters.ollama.wire import (
    ChatBody,
    ChatMessage,
    FillBody,
    Function,
    FunctionCall,
    Options,
    RawBody,
    Think,
    ToolDefinition,
    ToolFunction,
)
from adapters.request import (
    GenerationRequest,
    ImagePart,
    JSONObject,
    JSONSchema,
    Message,
    ReasoningEffort,
    Regex,
    ResponseFormat,
    TokenIds,
    Tool,
    ToolCall,
)

_T = TypeVar("_T")
Format = Literal["json"] | dict[str, Any] | UnsetType
SCHEMA_PATH = "response_format.json_schema.schema"

_CONTROL = re.compile(r"<(?=[|\uff5c][^<>\s]{1,64}>)")
"""The beginning of a control token as most models write it, such as `<|im_end|>`."""
_ZERO_WIDTH_SPACE = "\u200b"
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
NO_QUESTION = Message(role="user", content=())
_LARGE_SCHEMA = 64 * 1024
"""Bytes of schemas in JSON; as many take 25 ms."""
_BEYOND_DOUBLE = re.compile(r"\d{300}")
"""Go refuses integers beyond a double's range, which has 308 digits."""

# Levels go out as they are: a model that only knows on and off reads every level as on.
_THINK: Mapping[ReasoningEffort, Think] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
}


_SAMPLING: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
}
"""Field of `Sampling` -> Ollama's option."""
_sampling = attrgetter(*_SAMPLING)
_OPTION_NAMES = tuple(_SAMPLING.values())


def to_body(
    request: GenerationRequest,
    shows_tools: bool = True,
    rewrites: frozenset[Rewrite] = frozenset(),
) -> ChatBody | RawBody:
    """Return the body of `/api/chat`, or of `/api/generate` for a raw text.

    `num_ctx` is left out unless the request has one: it is chosen later.

    `shows_tools`: the model's template shows tools; where it does not, tools, calls and results are
    told in messages. `rewrites`: what is done with messages that the template does not take.

    Raises:
        InvalidRequestError: no message, a bad image, ….
        UnsupportedParameterError: the URL of an image, tools together with a format, ….
    """
    if request.max_tokens is not None and request.max_tokens < 1:
        # Ollama reads a num_predict of 0 as "without limit".
        raise InvalidRequestError("max_tokens must be at least 1.", param="max_tokens")
    if isinstance(request.prompt, TokenIds):
        raise UnsupportedParameterError("Ollama takes text, not tokens.", param="tokens")
    if isinstance(request.prompt, str):
        return _to_text_body(request, request.prompt)
    return _to_chat_body(request, request.prompt, shows_tools, rewrites)


def refuse_unenforced(request: GenerationRequest) -> None:
    """Refuse what `to_body` refuses, without the work for images and long texts.

    Raises:
        UnsupportedParameterError: fields, or a schema, that Ollama does not honour together.
    """
    if isinstance(request.prompt, tuple):
        _refuse_in_chat(request)
    else:
        _refuse_in_text(request)
    if not has_large_schema(request):
        to_grammar(request)


def _to_chat_body(
    request: GenerationRequest,
    messages: tuple[Message, ...],
    shows_tools: bool,
    rewrites: frozenset[Rewrite],
) -> ChatBody:
    if not messages:  # Ollama would load the model and answer nothing.
        raise InvalidRequestError(
            "'messages' is empty: there is no message to answer.", param="messages"
        )
    _refuse_in_chat(request)
    tools = _to_tools(request)
    if not shows_tools:
        messages, tools = in_words(messages, tools, forced=is_forced(request)), ()
    if rewrites:
        messages = rewrite(messages, rewrites).messages
    if messages[-1].role == "assistant" and not request.continue_final_message:
        # Most templates would continue it, and llama-server refuses several at the end.
        messages = (*messages, NO_QUESTION)
    return ChatBody(
        messages=_to_messages(messages),
        tools=[_to_tool(tool) for tool in tools] if tools else UNSET,
        think=_THINK[request.reasoning_effort] if request.reasoning_effort else UNSET,
        **_common(request),
    )


def _refuse_in_chat(request: GenerationRequest) -> None:
    if request.suffix is not None or request.echo:
        param = "echo" if request.suffix is None else "suffix"
        raise UnsupportedParameterError(f"'{param}' needs a raw prompt, not a chat.", param=param)


def _to_tools(request: GenerationRequest) -> tuple[Tool, ...]:
    """Return the tools to show."""
    if request.tool_choice == "none":
        return ()
    return chosen_tools(request) if is_forced(request) else request.tools


def to_grammar(request: GenerationRequest) -> GrammarSchema | None:
    """Return the schema that Ollama enforces for `request`; `None` without one.

    With tools, Ollama shows them and enforces the schema.

    Raises:
        InvalidRequestError: no answer fits the schema.
        UnsupportedParameterError: a strict schema, or this kind of format, cannot be enforced.
    """
    return _to_grammar(_Demand(request)) if _has_grammar(request) else None


def has_large_schema(request: GenerationRequest) -> bool:
    """True where `to_grammar` takes long enough to be called in a thread."""
    return _has_grammar(request) and _Demand(request).size > _LARGE_SCHEMA


def _has_grammar(request: GenerationRequest) -> bool:
    is_free = isinstance(request.response_format, JSONObject | None)
    return _calls_by_grammar(request) or not is_free


def _calls_by_grammar(request: GenerationRequest) -> bool:
    return isinstance(request.prompt, tuple) and (is_forced(request) or may_call(request))


class _Demand:
    """The parts that a grammar is made of; equal to another where the grammars are."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = replace(request, prompt=() if isinstance(request.prompt, tuple) else "")
        """Without the text and images that the cache has no use for."""
        called = request.tools if _calls_by_grammar(request) else ()
        tools = [(tool.name, tool.parameters, tool.strict, tool.input_format) for tool in called]
        parts = (self.request.prompt, tools, request.tool_choice, request.response_format)
        self._key = msgspec.json.encode(parts)

    @property
    def size(self) -> int:
        """Bytes of its schemas, and little else."""
        return len(self._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Demand) and self._key == other._key


@lru_cache(maxsize=16)
def _to_grammar(demand: _Demand) -> GrammarSchema:
    """Write a grammar once: a request needs it more than once, and an agent in each turn."""
    request = demand.request
    rewriter = SchemaRewriter()
    if not _calls_by_grammar(request):
        return rewriter.result(_answer_schema(request.response_format, rewriter))
    branches = call_branches(request, rewriter)
    if not is_forced(request):
        branches.append(_answer_schema(request.response_format, rewriter))
    return rewriter.result(branches[0] if len(branches) == 1 else {"anyOf": branches})


def _answer_schema(wanted: ResponseFormat | None, rewriter: SchemaRewriter) -> dict[str, Any]:
    match wanted:
        case JSONObject():
            return {"type": "object"}
        case Regex(pattern=pattern):
            # A string in JSON, which `QuotedTextReader` reads.
            own = {"type": "string", "pattern": f"^(?:{pattern})$"}
            try:
                return rewriter.rewrite(own, "guided_regex", strict=True)
            except InvalidRequestError as error:  # Its path is in a schema that no client has sent.
                error.param = "guided_regex"
                raise
        case JSONSchema(schema=schema, strict=strict):
            return rewriter.rewrite(schema, SCHEMA_PATH, strict=strict)
        case _:
            raise UnsupportedParameterError(
                "Ollama does not support this response_format.", param="response_format"
            )


def must_check_first(request: GenerationRequest) -> bool:
    """True where no part of an answer may be written before all of it was checked.

    A free call has no grammar, so only the check of the complete call is left.
    """
    if request.response_format is None and not request.tools:
        return False
    if request.tool_choice != "none" and any(tool.input_format for tool in request.tools):
        return True
    grammar = to_grammar(request)
    return grammar is not None and grammar.must_check


def _refuse_in_text(request: GenerationRequest) -> None:
    # Raw text has no template, hence neither tools nor a switch for reasoning.
    for param, is_set in (
        ("tools", request.tools and request.tool_choice != "none"),
        ("reasoning_effort", request.reasoning_effort not in (None, "none")),
    ):
        if is_set:
            raise UnsupportedParameterError(f"'{param}' needs a chat.", param=param)


def _to_text_body(request: GenerationRequest, prompt: str) -> RawBody:
    _refuse_in_text(request)
    common = _common(request)
    if request.suffix:
        return FillBody(prompt=prompt, suffix=request.suffix, **common)
    if not prompt:
        raise InvalidRequestError("Ollama cannot continue an empty text.", param="prompt")
    return RawBody(prompt=prompt, **common)


def _common(request: GenerationRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "options": _to_options(request),
        "keep_alive": UNSET if request.keep_alive is None else to_keep_alive(request.keep_alive),
        "format": _to_format(request),
        "logprobs": True if request.top_logprobs is not None else UNSET,
        "top_logprobs": request.top_logprobs or UNSET,
    }


def _or_unset(value: _T | None) -> _T | UnsetType:
    return UNSET if value is None else value


def _to_options(request: GenerationRequest) -> Options:
    """Set only what the request has: everything else is left to the Modelfile."""
    named = zip(_OPTION_NAMES, _sampling(request.sampling), strict=True)
    options = Options(
        **{name: value for name, value in named if value is not None},
        stop=stop_strings(request),
        num_predict=_or_unset(request.max_tokens),
        num_ctx=_or_unset(request.num_ctx),
    )
    return to_options(options, request.options) if request.options else options


def stop_strings(request: GenerationRequest) -> tuple[str, ...] | UnsetType:
    """Return the strings for which Ollama looks; `UNSET`: those of the Modelfile.

    They would cut the JSON of a grammar, which ends by itself: it has those of the request alone,
    and a forced call has none, since they are of texts.
    """
    forced = bool(request.tools) and is_forced(request)
    # For `names_stop`: Ollama does not tell which one has ended an answer, and cuts it off;
    # `StopReader` does.
    stop = () if forced or request.names_stop else request.stop
    return stop or (() if forced or request.response_format is not None else UNSET)


def _to_format(request: GenerationRequest) -> Format:
    if request.response_format is None and not request.tools:
        return UNSET
    if (grammar := to_grammar(request)) is not None:
        return grammar.schema
    return UNSET if request.response_format is None else "json"


def _to_tool(tool: Tool) -> ToolDefinition:
    function = ToolFunction(
        name=tool.name,
        description=_or_unset(tool.description),
        parameters=to_shown_parameters(tool.parameters or _NO_PARAMETERS),
    )
    return ToolDefinition(function=function)


def _to_messages(messages: tuple[Message, ...]) -> list[ChatMessage]:
    called: dict[str, str] = {}
    answer: list[ChatMessage] = []
    for message in messages:
        if message.tool_calls:
            called.update((call.id, call.name) for call in message.tool_calls)
        answer.append(_to_message(message, called))
    return answer


def _to_message(message: Message, called: Mapping[str, str]) -> ChatMessage:
    """`called`: call id -> name of the tool, for the calls so far."""
    return ChatMessage(
        role=message.role,
        content=_without_control(message.text),
        images=[_to_base64(image) for image in message.images] or UNSET,
        thinking=message.reasoning or UNSET,
        tool_calls=[_to_call(call) for call in message.tool_calls] or UNSET,
        # The call may have been cut away: its result has no name then.
        tool_name=_or_unset(called.get(message.tool_call_id or "", message.name))
        if message.role == "tool"
        else UNSET,
        tool_call_id=_or_unset(message.tool_call_id),
    )


def _without_control(text: str) -> str:
    """Return `text` with a character without width in what Ollama would read as a control token.

    Ollama renders a chat to one text and reads control tokens wherever they are, so a message could
    end its own turn and begin one of the system.
    """
    return _CONTROL.sub(f"<{_ZERO_WIDTH_SPACE}", text)


def _to_call(call: ToolCall) -> FunctionCall:
    function = Function(name=call.name, arguments=_to_object(call.arguments))
    return FunctionCall(function=function, id=call.id)


def _to_object(arguments: str) -> msgspec.Raw:
    """Return the arguments of an earlier call as an object, which Ollama demands.

    It is the JSON text itself, so that numbers and order stay as the model wrote them; no value at
    all is an empty object. Anything else, such as a call that was cut, is kept as the text of
    `invalid_arguments`.
    """
    text = arguments.strip()
    if text in ("", "null"):
        return msgspec.Raw(b"{}")
    try:
        msgspec.json.decode(text, type=dict[str, Any])
        if _BEYOND_DOUBLE.search(text) is None:
            return msgspec.Raw(text.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    # Lone surrogates, which no JSON can carry, become question marks.
    kept = arguments.encode(errors="replace").decode()
    return msgspec.Raw(msgspec.json.encode({"invalid_arguments": kept}))


def _to_base64(image: ImagePart) -> str:
    """Return the base64 text of a data URL."""
    if not image.url[:5].lower() == "data:":
        raise UnsupportedParameterError(
            "Ollama fetches no images: send them as data: URLs.", param="images"
        )
    head, comma, text = image.url.partition(",")
    # Decoding 20 MB here would delay every other answer; Ollama decodes it, and refuses bad data.
    is_whole = bool(text) and len(text) % 4 == 0
    if not comma or not head.lower().endswith(";base64") or not is_whole:
        raise InvalidRequestError("An image is not a base64 data: URL.", param="images")
    return text
