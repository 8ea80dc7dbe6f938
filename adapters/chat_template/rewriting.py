"""Rewrite conversations into the nearest shape that a chat template takes.

Each rewriting is a function from messages to messages; none of them leaves a text out, but for the
reasoning of an answer that was cancelled before its text.
"""

import json
import string
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

from msgspec.structs import replace

from adapters.request import ContentPart, Message, TextPart, ToolCall

Rewrite = Literal[
    "empty-answers-left-out",
    "calls-as-text",
    "results-as-user",
    "result-images-as-user",
    "calls-one-by-one",
    "text-before-call",
    "text-and-call-as-text",
    "thoughts-as-text",
    "leading-system-joined",
    "system-as-user",
    "late-system-as-user",
    "lone-system-as-user",
    "user-joined-to-result",
    "users-joined",
    "assistants-joined",
    "ids-of-nine",
]
"""Names of the rewritings, as the card of a model and the header of an answer show them.

`empty-answers-left-out`: messages of the assistant without text and calls are left out.
`calls-as-text`: calls are written in the text of the assistant's message.
`results-as-user`: results are told in messages of the user.
`result-images-as-user`: images of results are in the user's message after them.
`calls-one-by-one`: calls of one turn are told one after another, each with its result.
`text-before-call`: text beside calls is a message of its own before them.
`text-and-call-as-text`: calls beside text are written in it, and their results as the user's text.
`thoughts-as-text`: reasoning is written in the text of the message, between the model's markers.
`leading-system-joined`: system messages at the beginning are one message.
`system-as-user`: system messages are messages of the user.
`late-system-as-user`: those are which are not at the beginning.
`lone-system-as-user`: the last one is if the conversation has no message of the user.
`user-joined-to-result`: the user's text after a result is told at the end of the result.
`users-joined`, `assistants-joined`: messages of one role in a row are one message.
`ids-of-nine`: ids of calls are nine letters and digits.
"""

WriteCalls = Callable[[Sequence[ToolCall]], str]
"""Writes calls as the model itself would."""


class Rewritten(NamedTuple):
    """Messages in a shape that the template takes."""

    messages: tuple[Message, ...]
    done: tuple[Rewrite, ...] = ()
    """The rewritings that changed these messages."""


def calls_as_json(calls: Sequence[ToolCall]) -> str:
    """Write calls as JSON objects, one in a line, for models without a syntax of their own."""
    return "\n".join(
        f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}'
        for call in calls
    )


class Writing(NamedTuple):
    """The notation of one model for what is written in a message's text."""

    calls: WriteCalls = calls_as_json
    thought: tuple[str, str] | None = None
    """Opening and closing marker of reasoning; `None` for a model without."""


JSON_WRITING = Writing()


def rewrite(
    messages: tuple[Message, ...],
    rewrites: frozenset[Rewrite],
    writing: Writing = JSON_WRITING,
) -> Rewritten:
    """Apply those of `rewrites` that these messages need. Results get the names of their calls."""
    if any(message.role == "tool" for message in messages):
        messages = _named_results(messages)
    if not rewrites:
        return Rewritten(messages)
    done: list[Rewrite] = []
    for name, apply in _steps(writing).items():
        if name in rewrites and (changed := tuple(apply(messages))) != messages:
            messages = changed
            done.append(name)
    return Rewritten(messages, tuple(done))


def _steps(
    writing: Writing,
) -> dict[Rewrite, Callable[[tuple[Message, ...]], Sequence[Message]]]:
    """The rewritings in their order: those of calls first, because they make messages to join."""
    return {
        "empty-answers-left-out": lambda messages: [m for m in messages if not _is_empty_answer(m)],
        "calls-one-by-one": _calls_one_by_one,
        "text-before-call": _text_before_call,
        "text-and-call-as-text": lambda messages: _text_and_call_as_text(messages, writing),
        "calls-as-text": lambda messages: [_calls_as_text(m, writing) for m in messages],
        "thoughts-as-text": lambda messages: _thoughts_as_text(messages, writing),
        "results-as-user": lambda messages: [_result_as_user(m) for m in messages],
        "result-images-as-user": _result_images_as_user,
        "system-as-user": lambda messages: [_as_user(m) for m in messages],
        "leading-system-joined": _leading_system_joined,
        "late-system-as-user": _late_system_as_user,
        "lone-system-as-user": _lone_system_as_user,
        "user-joined-to-result": _user_joined_to_result,
        "users-joined": lambda messages: _joined(messages, "user"),
        "assistants-joined": lambda messages: _joined(messages, "assistant"),
        "ids-of-nine": lambda messages: [_with_short_ids(m) for m in messages],
    }


def _named_results(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Add the name of the function to results that have only the id of its call."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return tuple(
        replace(message, name=names.get(message.tool_call_id or ""))
        if message.role == "tool" and message.name is None
        else message
        for message in messages
    )


def _is_empty_answer(message: Message) -> bool:
    """True for an answer that was cancelled before its text: its reasoning is in few prompts."""
    is_said = message.text or message.has_images or message.tool_calls
    return message.role == "assistant" and not is_said


def _calls_one_by_one(messages: tuple[Message, ...]) -> list[Message]:
    made: list[Message] = []
    at = 0
    while at < len(messages):
        message, at = messages[at], at + 1
        if len(message.tool_calls) < 2:
            made.append(message)
            continue
        end = at
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        made += _turns(message, messages[at:end])
        at = end
    return made


def _turns(message: Message, results: Sequence[Message]) -> list[Message]:
    """Split a turn with several calls; results of other calls follow at the end."""
    made: list[Message] = []
    for number, call in enumerate(message.tool_calls):
        turn = message if number == 0 else Message(role="assistant")
        made.append(replace(turn, tool_calls=(call,)))
        made += [result for result in results if result.tool_call_id == call.id]
    ids = {call.id for call in message.tool_calls}
    return made + [result for result in results if result.tool_call_id not in ids]


def _text_before_call(messages: tuple[Message, ...]) -> list[Message]:
    made: list[Message] = []
    for message in messages:
        if message.tool_calls and message.text:
            made.append(replace(message, tool_calls=(), reasoning=None))
            message = replace(message, content=())
        made.append(message)
    return made


def _text_and_call_as_text(messages: tuple[Message, ...], writing: Writing) -> list[Message]:
    made: list[Message] = []
    told: frozenset[str] = frozenset()
    for message in messages:
        if message.tool_calls and message.text:
            told |= {call.id for call in message.tool_calls}
            message = _calls_as_text(message, writing)
        elif message.tool_call_id in told:
            message = _result_as_user(message)
        made.append(message)
    return made


def _thoughts_as_text(messages: tuple[Message, ...], writing: Writing) -> list[Message]:
    """Write the reasoning since the last message of the user: models are not shown older one."""
    last = max((at for at, m in enumerate(messages) if m.role == "user"), default=-1)
    if writing.thought is None:
        return list(messages)
    opening, closing = writing.thought
    return [
        replace(
            message,
            content=(TextPart(f"{opening}\n{message.reasoning}\n{closing}\n"), *message.content),
            reasoning=None,
        )
        if at > last and message.reasoning
        else message
        for at, message in enumerate(messages)
    ]


def _calls_as_text(message: Message, writing: Writing) -> Message:
    if not message.tool_calls:
        return message
    text = TextPart(writing.calls(message.tool_calls))
    return replace(message, content=(*message.content, text), tool_calls=())


def _result_images_as_user(messages: tuple[Message, ...]) -> list[Message]:
    """Move images of results to the user's message after them, or to one of their own."""
    moved: list[Message] = []
    images: tuple[ContentPart, ...] = ()
    for message in messages:
        if message.role == "tool" and message.has_images:
            images += message.images
            message = replace(message, content=(TextPart(message.text),))
        elif images and message.role == "user":
            message, images = replace(message, content=(*images, *message.content)), ()
        elif images and message.role != "tool":
            moved.append(Message(role="user", content=images))
            images = ()
        moved.append(message)
    return [*moved, Message(role="user", content=images)] if images else moved


def _result_as_user(message: Message) -> Message:
    if message.role != "tool":
        return message
    text = TextPart(f"{message.name or 'The function'} returned: {message.text}")
    return Message(role="user", content=(text, *message.images))


def _as_user(message: Message) -> Message:
    return replace(message, role="user") if message.role == "system" else message


def _leading_system_joined(messages: tuple[Message, ...]) -> list[Message]:
    count = _leading(messages)
    return [*_joined(messages[:count], "system"), *messages[count:]]


def _late_system_as_user(messages: tuple[Message, ...]) -> list[Message]:
    count = _leading(messages)
    return [*messages[:count], *(_as_user(message) for message in messages[count:])]


def _leading(messages: tuple[Message, ...]) -> int:
    """The number of system messages at the beginning."""
    return next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))


def _lone_system_as_user(messages: tuple[Message, ...]) -> list[Message]:
    made = list(messages)
    systems = [at for at, message in enumerate(messages) if message.role == "system"]
    if systems and not any(message.role == "user" for message in messages):
        made[systems[-1]] = _as_user(made[systems[-1]])
    return made


def _user_joined_to_result(messages: tuple[Message, ...]) -> list[Message]:
    made: list[Message] = []
    for message in messages:
        if message.role == "user" and made and made[-1].role == "tool":
            made[-1] = replace(made[-1], content=_with_blank_line(made[-1], message))
        else:
            made.append(message)
    return made


def _joined(messages: Sequence[Message], role: str) -> list[Message]:
    """Join messages of this role in a row; calls stay with the last of them."""
    made: list[Message] = []
    for message in messages:
        before = made[-1] if made else None
        is_joinable = before is not None and before.role == message.role == role
        if before is None or not is_joinable or before.tool_calls:
            made.append(message)
            continue
        made[-1] = replace(
            message,
            content=_with_blank_line(before, message),
            reasoning="\n".join(filter(None, (before.reasoning, message.reasoning))) or None,
        )
    return made


def _with_blank_line(before: Message, after: Message) -> tuple[ContentPart, ...]:
    """The parts of both; the parts of a message are joined by line breaks (`Message.text`)."""
    between = (TextPart(""),) if before.text and after.text else ()
    return (*before.content, *between, *after.content)


_LETTERS = string.ascii_letters + string.digits


def _with_short_ids(message: Message) -> Message:
    if message.tool_call_id is not None:
        message = replace(message, tool_call_id=short_id(message.tool_call_id))
    if message.tool_calls:
        calls = tuple(replace(call, id=short_id(call.id)) for call in message.tool_calls)
        message = replace(message, tool_calls=calls)
    return message


def short_id(text: str) -> str:
    """Return an id of nine letters and digits: the same for the same text, so that prompts are."""
    if len(text) == 9 and text.isascii() and text.isalnum():
        return text
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in sha256(text.encode()).digest()[:9])
