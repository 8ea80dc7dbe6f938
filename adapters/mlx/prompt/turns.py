"""Beginnings of a chat prompt that later prompts are likely to share.

A state of a recurrent layer or of a sliding window cannot be cut, so the engine keeps it where
another prompt may leave this one. Such places are found by rendering what may come later, and by
comparing its tokens: templates and tokenizers have no other mark that all of them share.
"""

# pyright: basic
from collections.abc import Iterator
from itertools import takewhile

from msgspec.structs import replace

from adapters.errors import BackendError
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.prompt.chat import render
from adapters.request import GenerationRequest, Message, TextPart

_Chat = tuple[Message, ...]
_SYSTEM = ("system", "developer")


def find_turns(
    loaded: LoadedModel, request: GenerationRequest, prompt: list[int]
) -> tuple[int, ...]:
    """Return lengths of beginnings of `prompt`, ascending: the end of the system message, the
    beginning of the last message of the user, and the end of the last turn. Takes as long as
    `render`, for each of them."""
    messages = request.prompt
    if not isinstance(messages, tuple) or not messages or request.continue_final_message:
        return ()
    lengths = {_shared(loaded, request, prompt, chat) for chat in _later(messages)}
    return tuple(sorted(length for length in lengths if 0 < length < len(prompt)))


def _later(messages: _Chat) -> Iterator[_Chat]:
    """Yield conversations that share a beginning with this one."""
    system = tuple(takewhile(lambda message: message.role in _SYSTEM, messages))
    user, answer = _message("user"), _message("assistant")
    if system and len(system) < len(messages):
        yield (*system, user)
    places = [place for place, message in enumerate(messages) if message.role == "user"]
    if len(places) > 1:
        yield (*messages[: places[-1]], user)
    # A loop of tools goes on with the answer; a new turn may change what a template shows of it.
    yield (*messages, answer)
    yield (*messages, answer, user)


def _message(role: str) -> Message:
    """Return a message that begins like no other."""
    return Message(role=role, content=(TextPart("\u2020"),))  # type: ignore[arg-type]


def _shared(loaded: LoadedModel, request: GenerationRequest, prompt: list[int], chat: _Chat) -> int:
    """Return how many tokens both prompts begin with; 0 where the template rejects `chat`."""
    try:
        other = render(loaded, replace(request, prompt=chat)).ids
    except BackendError:
        return 0
    pairs = zip(prompt, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
