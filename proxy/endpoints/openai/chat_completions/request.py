"""The request body: every property of OpenAI's CreateChatCompletionRequest, and extensions.

`null` is the same as absent: OpenAI allows it for most fields, and clients send it for the rest.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from proxy.endpoints.generation_fields import GenerationFields
from proxy.endpoints.tools import GrammarDefinition
from proxy.endpoints.wire_types import TokenLimit

JSON = dict[str, Any]


class TextPart(Struct, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: JSON | UnsetType | None = UNSET


class ImageURL(Struct):
    url: str
    detail: Literal["auto", "low", "high", "original"] | UnsetType | None = UNSET
    """A trade-off of OpenAI's models; local models use each image at their full size."""


class ImagePart(Struct, tag_field="type", tag="image_url"):
    image_url: ImageURL | str
    """A bare URL is the form of older clients of Ollama."""
    prompt_cache_breakpoint: JSON | UnsetType | None = UNSET


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    input_audio: JSON
    prompt_cache_breakpoint: JSON | UnsetType | None = UNSET


class File(Struct):
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class FilePart(Struct, tag_field="type", tag="file"):
    file: File
    prompt_cache_breakpoint: JSON | UnsetType | None = UNSET


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    refusal: str


Part = TextPart | ImagePart | AudioPart | FilePart | RefusalPart
Content = str | list[Part]


class FunctionCall(Struct):
    name: str
    arguments: str


class FunctionToolCall(Struct, tag_field="type", tag="function"):
    id: str
    function: FunctionCall


class CustomCall(Struct):
    name: str
    input: str


class CustomToolCall(Struct, tag_field="type", tag="custom"):
    id: str
    custom: CustomCall


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: Content
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[FunctionToolCall | CustomToolCall] | None = None
    function_call: FunctionCall | None = None
    audio: JSON | None = None
    annotations: list[JSON] | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None


class FunctionMessage(Struct, tag_field="role", tag="function"):
    name: str
    content: str | None = None


Message = (
    SystemMessage
    | DeveloperMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)


class Function(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: JSON | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    function: Function


class TextInput(Struct, tag_field="type", tag="text"):
    pass


class GrammarInput(Struct, tag_field="type", tag="grammar"):
    grammar: GrammarDefinition


class Custom(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    format: TextInput | GrammarInput | None = None


class CustomTool(Struct, tag_field="type", tag="custom"):
    """A function of one text, which is not written as JSON to the client."""

    custom: Custom


class FunctionName(Struct):
    name: str


class FunctionChoice(Struct, tag_field="type", tag="function"):
    function: FunctionName


class CustomChoice(Struct, tag_field="type", tag="custom"):
    custom: FunctionName


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[JSON]


class AllowedToolsChoice(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoice = (
    Literal["none", "auto", "required"] | FunctionChoice | CustomChoice | AllowedToolsChoice
)


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JSONObjectFormat(Struct, tag_field="type", tag="json_object"):
    schema: JSON | None = None
    """llama.cpp's and Together's way to send a schema."""


class NamedSchema(Struct):
    name: str
    schema: JSON
    description: str | None = None
    strict: bool | None = None


class JSONSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema


class Reasoning(Struct):
    """OpenRouter's and the Responses API's form of `reasoning_effort`."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatCompletionRequest(GenerationFields, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]

    max_completion_tokens: TokenLimit | None = None
    """Newer than `max_tokens`, and takes precedence."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: TextFormat | JSONObjectFormat | JSONSchemaFormat | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    """Ollama's form of `reasoning_effort`."""
    enable_thinking: bool | None = None
    chat_template_kwargs: JSON | None = None
    """vLLM's; only `enable_thinking` is supported."""
    continue_final_message: bool | None = None
    """vLLM's: the answer continues the last message, which is the assistant's."""
    add_generation_prompt: bool | None = None
    """vLLM's: must be the opposite of `continue_final_message`."""
    tools: Annotated[list[FunctionTool | CustomTool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Meta(max_length=128)] | None = None
    """The old form of `tools`; the answer has the old form, too."""
    function_call: Literal["none", "auto"] | FunctionName | None = None
    prompt_cache_key: str | None = None

    # Without effect on the answer: accepted.
    metadata: JSON | None = None
    """Kept with the answer where `store` is true, and then an object of texts."""
    prediction: JSON | None = None
    prompt_cache_options: JSON | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: bool | None = None

    # Without effect here: named in `x-tandem-ignored`.
    verbosity: str | None = None

    # Not supported by any backend: refused by `refuse_impossible` but for neutral values.
    audio: JSON | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    moderation: JSON | None = None
    web_search_options: JSON | None = None


OTHER_NAMES = {
    "text": "response_format",
    "max_output_tokens": "max_completion_tokens",
    "output_config": "response_format",
    "stop_sequences": "stop",
}
"""Fields of Responses and of Anthropic's messages that chat completions have under other names."""
