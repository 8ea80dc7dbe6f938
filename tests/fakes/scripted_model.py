"""Tiny models made to say what a test wants, token by token: everything else is real."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.tiny_model import END

from adapters import sink
from adapters.backend import Backend
from adapters.config import MLXConfig
from adapters.errors import BackendError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.mlx.prompt import prepare
from adapters.request import GenerationRequest, Message, TextPart, Tool

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Tells the weather.", CITY)
TIME = Tool("time", "Tells the time.", CITY)


class Script:
    """A logits processor that lets one token through at a time: those given, then the end."""

    def __init__(self, tokens: list[int]) -> None:
        self.error: BackendError | None = None
        self._tokens = iter([*tokens, *[END] * 4])

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.where(mx.arange(logits.shape[-1]) == next(self._tokens), logits, -mx.inf)


@contextmanager
def scripted(
    patch: pytest.MonkeyPatch, write: Callable[[GenerationRequest], Sequence[str] | None]
) -> Iterator[None]:
    """The choices of a request say what `write` gives for it, or what the model would."""

    async def script(request: GenerationRequest, loaded: Any, _prompt: Any) -> Any:
        if (texts := write(request)) is None:
            return [()] * request.n, ()
        spelled = [loaded.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [(Script(spelled[choice]),) for choice in range(request.n)], ()

    with patch.context() as patched:
        patched.setattr(prepare, "constrain", script)
        yield


def saying(patch: pytest.MonkeyPatch, *texts: str) -> AbstractContextManager[None]:
    """The choices of every request say these `texts`, whatever the model would."""
    return scripted(patch, lambda _: texts)


def config_for(folder: Path, **fields: Any) -> MLXConfig:
    return MLXConfig(folders=(str(folder),), huggingface_cache=False, embedded="never", **fields)


def chat(text: str = "Hi", model: str = "caller", **fields: Any) -> GenerationRequest:
    messages = (Message(role="user", content=(TextPart(text),)),)
    return GenerationRequest(model=model, prompt=messages, **{"max_tokens": 200, **fields})


async def answer(backend: Backend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def told(events: list[Event], choice: int = 0) -> dict[str, Any]:
    """What the events of one choice say together."""
    said: dict[str, Any] = {"text": "", "reasoning": "", "calls": []}
    for event in (e for e in events if getattr(e, "choice", None) == choice):
        match event:
            case TextDelta(text=text):
                said["text"] += text
            case ReasoningDelta(text=text):
                said["reasoning"] += text
            case ToolCallStarted(index=index, name=name):
                assert index == len(said["calls"])
                said["calls"].append([name, ""])
            case ToolCallDelta(index=index, arguments=arguments):
                said["calls"][index][1] += arguments
            case Finished():
                said["reason"] = event.reason
            case _:
                raise AssertionError(f"{event} has no choice")
    return said


def usage_of(events: list[Event]) -> Any:
    finished = events[-1]
    assert isinstance(finished, Finished)
    return finished.usage
