"""Tiny models made to say what a test wants, token by token: everything else is real."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import mlx.core as mx
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
from adapters.mlx.engine.engine import Engine
from adapters.mlx.models.load import LoadedModel
from adapters.mlx.models.load_progress import Extras, Loading
from adapters.mlx.sequence import Receiver, Sequence
from adapters.request import GenerationRequest, Message, TextPart, Tool

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Tells the weather.", CITY)
TIME = Tool("time", "Tells the time.", CITY)
Write = Callable[[tuple[Sequence, ...]], tuple[str, ...] | None]


class Script:
    """A logits processor that lets one token through at a time: those given, then the end."""

    def __init__(self, tokens: list[int]) -> None:
        self.error: BackendError | None = None
        self._tokens = iter([*tokens, *[END] * 4])

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.where(mx.arange(logits.shape[-1]) == next(self._tokens), logits, -mx.inf)


class ScriptedEngine(Engine):
    """An engine that answers with the texts of a test, or with those of the model."""

    def __init__(self, config: MLXConfig) -> None:
        super().__init__(config)
        self.write: Write = lambda _rows: None
        """Gives the texts of the choices of a request; `None`: what the model would say."""
        self.tokenizers: dict[str, Any] = {}

    def say(self, *texts: str) -> None:
        """The choices of every request say these `texts`."""
        self.write = lambda _rows: texts

    def load(self, path: Path, loading: Loading, extras: Extras) -> "Future[LoadedModel]":
        def keep(loaded: "Future[LoadedModel]") -> None:
            if loaded.exception() is None:
                self.tokenizers[loading.name] = loaded.result().tokenizer

        loaded = super().load(path, loading, extras)
        loaded.add_done_callback(keep)
        return loaded

    def submit(self, sequences: tuple[Sequence, ...], receive: Receiver) -> None:
        if (texts := self.write(sequences)) is not None:
            tokenizer = self.tokenizers[sequences[0].model]
            for sequence in sequences:
                text = texts[sequence.choice]
                ids = tokenizer.encode(text, add_special_tokens=False)
                sequence.processors = (Script(ids),)
        super().submit(sequences, receive)


def chat(text: str = "Hi", model: str = "caller", **fields: Any) -> GenerationRequest:
    messages = (Message(role="user", content=(TextPart(text),)),)
    return GenerationRequest(model=model, prompt=messages, **{"max_tokens": 200, **fields})


async def answer(backend: Backend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def told(events: list[Event], choice: int = 0) -> dict[str, Any]:
    """Merge the events of one choice."""
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
