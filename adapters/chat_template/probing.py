"""Ask a chat template questions: probes are rendered by the engine, whichever way it renders."""

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from msgspec import Struct

from adapters.chat_template.form import USUAL, Form
from adapters.request import Message, Tool

T = TypeVar("T")


class Probe(Struct, frozen=True):
    """A conversation to render."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    generate: bool = True
    """False: the prompt ends with the last message, without the header of an answer."""
    form: Form = USUAL
    """Ignored by engines with one form of messages."""
    thinking: bool | None = None
    """Thinking switched on or off; `None`: as the template does it."""
    effort: str | None = None
    """Level of reasoning effort; `None`: the template is told none."""


class Refusal(Struct, frozen=True):
    """The template does not render the conversation."""

    reason: str
    """The template's own words."""


Probing = Generator[Probe, str | Refusal, T]
"""Yields probes, is sent their renderings, and returns what they show."""


def run(probing: Probing[T], render: Callable[[Probe], str | Refusal]) -> T:
    """Render the probes one after another, and return the result of the probing."""
    try:
        probe = next(probing)
        while True:
            probe = probing.send(render(probe))
    except StopIteration as end:
        return end.value


async def run_async(probing: Probing[T], render: Callable[[Probe], Awaitable[str | Refusal]]) -> T:
    """Do the same with an engine that renders by requests."""
    try:
        probe = next(probing)
        while True:
            probe = probing.send(await render(probe))
    except StopIteration as end:
        return end.value
