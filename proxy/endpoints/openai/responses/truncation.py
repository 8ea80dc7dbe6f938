"""`truncation: auto`: the oldest messages are left out where a prompt is too long.

Instructions stay, and so does the last message of the user. Calls stay with their results.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from adapters.errors import ContextLengthError
from adapters.request import GenerationRequest, Message

_STEP = 0.25
"""The share of a prompt that is left out where the engine does not report its tokens."""


def shorten(request: GenerationRequest, error: ContextLengthError) -> GenerationRequest | None:
    """Leave out as much as `error` says is too much; `None` if only the end is left."""
    if not isinstance(request.prompt, tuple):
        return None
    messages = request.prompt
    first = next((at for at, each in enumerate(messages) if each.role != "system"), len(messages))
    beginnings = [at for at in range(first + 1, len(messages)) if messages[at].role != "tool"]
    if not beginnings:
        return None
    size, unwanted = sum(map(_size, messages)), 0
    surplus = size * _surplus(error)
    beginning = beginnings[-1]
    for at in range(first, len(messages)):
        if at in beginnings and unwanted >= surplus:
            beginning = at
            break
        unwanted += _size(messages[at])
    kept = (*messages[:first], *_question(messages, beginning), *messages[beginning:])
    return replace(request, prompt=kept) if len(kept) < len(messages) else None


def _surplus(error: ContextLengthError) -> float:
    """Return the share of the prompt that is too long."""
    if error.prompt_tokens is None or error.limit is None or error.prompt_tokens <= error.limit:
        return _STEP
    return 1 - error.limit / error.prompt_tokens


def _question(messages: Sequence[Message], beginning: int) -> Sequence[Message]:
    """Return the last message of the user, if the messages from `beginning` on have none."""
    if any(message.role == "user" for message in messages[beginning:]):
        return ()
    return [message for message in messages[:beginning] if message.role == "user"][-1:]


def _size(message: Message) -> int:
    """Characters of a message, as a measure of its tokens."""
    return len(message.text) + sum([len(call.arguments) for call in message.tool_calls])
