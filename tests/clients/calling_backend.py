"""A scripted model for agents: it calls one tool after the other, and then says something."""

import json
from collections.abc import Sequence
from typing import Any

from fakes.scripted_backend import ScriptedBackend

from adapters.backend import Model
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.request import GenerationRequest, Message

SAID = "It is done."
_USAGE = Usage(prompt_tokens=10, completion_tokens=5)


class CallingBackend(ScriptedBackend):
    """Makes the next of `calls` in each answer, until the request has the results of all."""

    def __init__(self, model: str, *calls: tuple[str, dict[str, Any]]) -> None:
        super().__init__(models=[Model(name=model)])
        self.calls = calls

    def _steps(self, request: GenerationRequest) -> Sequence[Event]:
        results = len(results_of(request))
        if results >= len(self.calls):
            return [Started(), ReasoningDelta("Hm."), TextDelta(SAID), Finished("stop", _USAGE)]
        name, arguments = self.calls[results]
        text = json.dumps(arguments)
        return [
            Started(),
            TextDelta("I call a tool."),
            ToolCallStarted(0, f"call_{results}", name),
            ToolCallDelta(0, text[:7]),
            ToolCallDelta(0, text[7:]),
            Finished("tool_calls", _USAGE),
        ]


def results_of(request: GenerationRequest) -> list[Message]:
    """The results of calls in a request."""
    assert isinstance(request.prompt, tuple)
    return [message for message in request.prompt if message.role == "tool"]
