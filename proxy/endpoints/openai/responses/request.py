"""The request body: every property of OpenAI's CreateResponse, and extensions.

`null` is the same as absent.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from proxy.endpoints.generation_fields import GenerationFields
from proxy.endpoints.openai.pages import Metadata
from proxy.endpoints.openai.responses.items import JSON, Items
from proxy.endpoints.wire_types import TokenCount

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]
Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class Reasoning(Struct, kw_only=True):
    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    """The old name of `summary`."""
    mode: str | None = None
    context: str | None = None


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JSONObjectFormat(Struct, tag_field="type", tag="json_object"):
    pass


class JSONSchemaFormat(Struct, kw_only=True, tag_field="type", tag="json_schema"):
    name: str
    schema: JSON
    description: str | None = None
    strict: bool | None = None


class Text(Struct, kw_only=True):
    format: TextFormat | JSONObjectFormat | JSONSchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseRequest(GenerationFields, kw_only=True):
    input: str | Items | None = None
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    tools: Annotated[list[JSON], Meta(max_length=1024)] | None = None
    """Their types are read by `tools.py`: unknown ones are no error."""
    tool_choice: str | JSON | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: list[Include] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None

    previous_response_id: str | None = None
    conversation: str | JSON | None = None
    store: bool | None = None
    background: bool | None = None

    # Without effect on the answer: accepted and echoed.
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    """Limit for calls of built-in tools, of which there are none."""
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: JSON | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None
    client_metadata: JSON | None = None
    """Codex's names of its session and turn."""

    # Not supported by any backend.
    prompt: Any = None
    moderation: Any = None
    context_management: Any = None


OTHER_NAMES = {
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Fields of chat completions that Responses has under other names; OpenAI refuses them as well."""
