"""The request body: the properties of Anthropic's MessageCreateParams, beta ones included.

Source: https://platform.claude.com/docs/en/api/messages/create, and the types of the SDK
`anthropic` 2.15.0. `null` is the same as absent.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from proxy.endpoints.wire_types import (
    Probability,
    StopString,
    Temperature,
    TokenCount,
    TokenCountOrZero,
    TopK,
)

JSON = dict[str, Any]
CacheControl = JSON
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class Citations(Struct):
    enabled: bool | None = None


# --- content blocks ---


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str
    cache_control: CacheControl | None = None
    citations: list[JSON] | None = None
    """Sources of an earlier answer."""


class Base64Source(Struct, tag_field="type", tag="base64"):
    data: str
    media_type: str


class URLSource(Struct, tag_field="type", tag="url"):
    url: str


class FileSource(Struct, tag_field="type", tag="file"):
    file_id: str


class TextSource(Struct, tag_field="type", tag="text"):
    data: str
    media_type: str | None = None


class ContentSource(Struct, tag_field="type", tag="content"):
    content: "str | list[TextBlock | ImageBlock]"


class ImageBlock(Struct, tag_field="type", tag="image"):
    source: Base64Source | URLSource | FileSource
    cache_control: CacheControl | None = None
    transformations: JSON | None = None
    """Changes to images that are too large for the model: none is changed here."""


class DocumentBlock(Struct, tag_field="type", tag="document"):
    source: Base64Source | URLSource | FileSource | TextSource | ContentSource
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None
    cache_control: CacheControl | None = None


class SearchResultBlock(Struct, tag_field="type", tag="search_result"):
    content: list[TextBlock]
    source: str
    title: str
    citations: Citations | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Struct, tag_field="type", tag="redacted_thinking"):
    data: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: JSON
    cache_control: CacheControl | None = None
    caller: JSON | None = None
    toolset_name: str | None = None


class ToolReferenceBlock(Struct, tag_field="type", tag="tool_reference"):
    tool_name: str
    cache_control: CacheControl | None = None


class BrowserStateBlock(Struct, tag_field="type", tag="browser_state"):
    tabs: list[JSON]
    state_changes: list[JSON] | None = None
    cache_control: CacheControl | None = None


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: (
        str
        | list[
            TextBlock
            | ImageBlock
            | SearchResultBlock
            | DocumentBlock
            | ToolReferenceBlock
            | BrowserStateBlock
        ]
        | None
    ) = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: str | None = None


class CompactionBlock(Struct, tag_field="type", tag="compaction"):
    """The summary of an earlier part of the conversation; none: there is nothing to say."""

    content: str | None = None
    encrypted_content: str | None = None
    signature: str | None = None
    tool_changes: list[JSON] | None = None
    cache_control: CacheControl | None = None


class _ServerBlock(Struct, kw_only=True):
    """A block that only Anthropic's own tools write, in conversations that began elsewhere."""

    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    server_name: str | None = None
    caller: JSON | None = None
    file_id: str | None = None
    cache_control: CacheControl | None = None


class ServerToolUse(_ServerBlock, tag_field="type", tag="server_tool_use"): ...


class WebSearchResult(_ServerBlock, tag_field="type", tag="web_search_tool_result"): ...


class WebFetchResult(_ServerBlock, tag_field="type", tag="web_fetch_tool_result"): ...


class CodeExecutionResult(_ServerBlock, tag_field="type", tag="code_execution_tool_result"): ...


class BashResult(_ServerBlock, tag_field="type", tag="bash_code_execution_tool_result"): ...


class EditorResult(
    _ServerBlock, tag_field="type", tag="text_editor_code_execution_tool_result"
): ...


class ToolSearchResult(_ServerBlock, tag_field="type", tag="tool_search_tool_result"): ...


class AdvisorResult(_ServerBlock, tag_field="type", tag="advisor_tool_result"): ...


class MCPToolUse(_ServerBlock, tag_field="type", tag="mcp_tool_use"): ...


class MCPToolResult(_ServerBlock, tag_field="type", tag="mcp_tool_result"): ...


class ContainerUpload(_ServerBlock, tag_field="type", tag="container_upload"): ...


class MCPToolListing(Struct, tag_field="type", tag="mcp_tool_listing"):
    mcp_server_name: str | None = None
    tools: list[JSON] | None = None


class FallbackBlock(Struct, tag_field="type", tag="fallback"):
    """The place in an earlier answer where another model took over."""

    source: Any = field(default=None, name="from")
    to: Any = None
    trigger: Any = None


ServerBlock = (
    ServerToolUse
    | WebSearchResult
    | WebFetchResult
    | CodeExecutionResult
    | BashResult
    | EditorResult
    | ToolSearchResult
    | AdvisorResult
    | MCPToolUse
    | MCPToolResult
    | ContainerUpload
    | MCPToolListing
    | FallbackBlock
)
Part = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock
"""Content that a user's turn and a tool's result have in common."""
Block = (
    Part
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | CompactionBlock
    | ServerBlock
)


# --- tools ---


class Tool(Struct, kw_only=True):
    """A tool of any type: of the client with a schema, or one that Anthropic defines by `type`."""

    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """Toolsets have none."""
    type: str | None = None
    description: str | None = None
    input_schema: JSON | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    """True: the tool is shown once a `tool_reference` has named it."""
    cache_control: CacheControl | None = None
    allowed_callers: list[str] | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[JSON] | None = None
    display_width_px: int | None = None
    display_height_px: int | None = None
    display_number: int | None = None
    enable_zoom: bool | None = None
    max_characters: int | None = None

    # Of tools that run on Anthropic's servers.
    max_uses: int | None = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    user_location: JSON | None = None
    citations: Citations | None = None
    max_content_tokens: int | None = None
    use_cache: bool | None = None
    model: str | None = None
    mcp_server_name: str | None = None
    default_config: JSON | None = None
    configs: JSON | None = None


class AutoChoice(Struct, tag_field="type", tag="auto"):
    disable_parallel_tool_use: bool | None = None


class AnyChoice(Struct, tag_field="type", tag="any"):
    disable_parallel_tool_use: bool | None = None


class ToolChoice(Struct, tag_field="type", tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class NoneChoice(Struct, tag_field="type", tag="none"):
    disable_parallel_tool_use: bool | None = None


# --- messages ---


class ToolName(Struct, tag_field="type", tag="tool_reference"):
    """A tool of the request, or one that an earlier message defined."""

    name: str


class MCPToolName(Struct, tag_field="type", tag="mcp_tool_reference"):
    name: str
    server_name: str


class MCPToolset(Struct, tag_field="type", tag="mcp_toolset_reference"):
    server_name: str


class ToolDefinition(Struct, tag_field="type", tag="tool_definition"):
    definition: Tool


class ToolAddition(Struct, tag_field="type", tag="tool_addition"):
    """Offers a tool from here on."""

    tool: ToolName | MCPToolName | MCPToolset | ToolDefinition
    cache_control: CacheControl | None = None


class ToolRemoval(Struct, tag_field="type", tag="tool_removal"):
    """Offers a tool no more."""

    tool: ToolName | MCPToolName | MCPToolset
    cache_control: CacheControl | None = None


class TurnConfig(Struct):
    """Settings of the turns after a system message, in place of those of the request."""

    effort: Effort | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: str | list[Block]


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: str | list[Block]


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: str | list[TextBlock | ToolAddition | ToolRemoval] | None = None
    output_config: TurnConfig | None = None
    clear_at: Literal["next_user_message", "never"] | None = None
    """`next_user_message`: its text is shown until the user's next turn."""


Message = UserMessage | AssistantMessage | SystemMessage


# --- thinking and output ---

Display = Literal["summarized", "omitted"]


class ThinkingEnabled(Struct, tag_field="type", tag="enabled"):
    budget_tokens: TokenCount
    display: Display | None = None


class ThinkingAdaptive(Struct, tag_field="type", tag="adaptive"):
    display: Display | None = None


class ThinkingBetweenTools(Struct, tag_field="type", tag="between_tools"):
    display: Display | None = None


class ThinkingDisabled(Struct, tag_field="type", tag="disabled"):
    pass


Thinking = ThinkingEnabled | ThinkingAdaptive | ThinkingBetweenTools | ThinkingDisabled


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    schema: JSON


class OutputConfig(Struct):
    effort: Effort | None = None
    format: SchemaFormat | None = None
    task_budget: JSON | None = None


class ContextManagement(Struct):
    edits: list[JSON] | None = None


class Metadata(Struct):
    user_id: str | None = None


class PromptFields(Struct, kw_only=True):
    """The fields that make the prompt: all that counting tokens takes."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=100_000)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[Tool], Meta(max_length=512)] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoneChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaFormat | None = None
    """The older name of `output_config.format`."""
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    mcp_servers: list[JSON] | None = None
    speed: Literal["standard", "fast"] | None = None
    backend: str | None = None
    """Tandem's own: the name of the backend that must answer."""

    # Of Anthropic's accounts and servers.
    betas: list[str] | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class MessagesRequest(PromptFields, kw_only=True):
    max_tokens: TokenCountOrZero
    """0: the prompt is read into the cache, and there is no answer."""
    stream: bool | None = None
    stop_sequences: Annotated[list[StopString], Meta(max_length=64)] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: str | JSON | None = None
    inference_geo: str | None = None
    diagnostics: JSON | None = None
    compaction: JSON | None = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    billing_policy: JSON | None = None
    thread: JSON | None = None


OTHER_NAMES = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "response_format": "output_config.format",
    "text": "output_config.format",
    "stop": "stop_sequences",
    "reasoning_effort": "output_config.effort",
}
"""Fields of OpenAI's APIs that Messages has under other names."""
