"""Events of a streamed answer.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from proxy.endpoints.openai.responses.items import (
    JSON,
    OutputItem,
    OutputText,
    ReasoningText,
    SummaryText,
)
from proxy.endpoints.openai.responses.response import Response


class Event(Struct, kw_only=True, tag_field="type"):
    sequence_number: int


class Created(Event, kw_only=True, tag="response.created"):
    response: Response


class Queued(Event, kw_only=True, tag="response.queued"):
    response: Response


class InProgress(Event, kw_only=True, tag="response.in_progress"):
    response: Response


class Completed(Event, kw_only=True, tag="response.completed"):
    response: Response


class Incomplete(Event, kw_only=True, tag="response.incomplete"):
    response: Response


class Failed(Event, kw_only=True, tag="response.failed"):
    response: Response


class ItemAdded(Event, kw_only=True, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class ItemDone(Event, kw_only=True, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class InItem(Event, kw_only=True):
    item_id: str
    output_index: int


class PartAdded(InItem, kw_only=True, tag="response.content_part.added"):
    content_index: int
    part: OutputText | ReasoningText


class PartDone(InItem, kw_only=True, tag="response.content_part.done"):
    content_index: int
    part: OutputText | ReasoningText


class Delta(InItem, kw_only=True):
    delta: str
    obfuscation: str | UnsetType = UNSET


class TextDelta(Delta, kw_only=True, tag="response.output_text.delta"):
    content_index: int
    logprobs: list[JSON]


class TextDone(InItem, kw_only=True, tag="response.output_text.done"):
    content_index: int
    text: str
    logprobs: list[JSON]


class ReasoningDelta(Delta, kw_only=True, tag="response.reasoning_text.delta"):
    content_index: int


class ReasoningDone(InItem, kw_only=True, tag="response.reasoning_text.done"):
    content_index: int
    text: str


class SummaryPartAdded(InItem, kw_only=True, tag="response.reasoning_summary_part.added"):
    summary_index: int
    part: SummaryText


class SummaryPartDone(InItem, kw_only=True, tag="response.reasoning_summary_part.done"):
    summary_index: int
    part: SummaryText


class SummaryDelta(Delta, kw_only=True, tag="response.reasoning_summary_text.delta"):
    summary_index: int


class SummaryDone(InItem, kw_only=True, tag="response.reasoning_summary_text.done"):
    summary_index: int
    text: str


class ArgumentsDelta(Delta, kw_only=True, tag="response.function_call_arguments.delta"):
    pass


class ArgumentsDone(InItem, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class InputDelta(Delta, kw_only=True, tag="response.custom_tool_call_input.delta"):
    pass


class InputDone(InItem, kw_only=True, tag="response.custom_tool_call_input.done"):
    input: str


class Error(Event, kw_only=True, tag="error"):
    code: str | None
    message: str
    param: str | None


EVENTS: tuple[Any, ...] = (
    Created,
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Failed,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    TextDelta,
    TextDone,
    ReasoningDelta,
    ReasoningDone,
    SummaryPartAdded,
    SummaryPartDone,
    SummaryDelta,
    SummaryDone,
    ArgumentsDelta,
    ArgumentsDone,
    InputDelta,
    InputDone,
    Error,
)
