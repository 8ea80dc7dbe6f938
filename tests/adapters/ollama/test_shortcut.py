"""Texts that take the shortcut come as all others would: in order, none twice, none lost."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, says_lines

from adapters.errors import BackendError, BackendTimeoutError, BadUpstreamError
from adapters.events import Event, Finished, Started, TextDelta
from adapters.ollama.backend import OllamaBackend
from adapters.request import GenerationRequest, JSONObject, Message, TextPart, Tool
from adapters.shortcut import Shortcut

QUESTION = Message(role="user", content=(TextPart("Hi"),))
TOOL = Tool("count", None, {"type": "object"})
END = {"message": {"content": ""}, "done": True, "done_reason": "stop"}
PAUSE = 0.05
RECORDED = [
    "chat-stream",
    "chat-stream-unicode",
    "chat-stop-stream",
    "chat-think-answer-stream",
    "chat-logprobs-stream",
    "chat-tools-two-calls-stream",
    "generate-stream",
    "fault-runner-killed-midstream",
]


def line(text: str, **others: Any) -> dict[str, Any]:
    return {"message": {"content": text, **others}, "done": False}


class Reader:
    """Who reads: what it was given in which way, and all of it in order."""

    def __init__(self, takes: Callable[[str], bool] = lambda _: True) -> None:
        self.shortcut = Shortcut()
        self.shortcut.take = self._take
        self._takes = takes
        self.taken: list[str] = []
        self.all: list[Event] = []

    def _take(self, text: str) -> bool:
        if not self._takes(text):
            return False
        self.taken.append(text)
        self.all.append(TextDelta(text))
        return True

    async def read(self, backend: OllamaBackend, **fields: Any) -> str:
        """The whole text."""
        asked = {"model": "m", "prompt": (QUESTION,)} | fields
        async for event in backend.generate(GenerationRequest(**asked, shortcut=self.shortcut)):
            self.all.append(event)
        return self.text

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.all if isinstance(event, TextDelta))


async def one_by_one(reply: Reply, *pieces: bytes) -> None:
    """Each when the one before must have been read."""
    for piece in pieces:
        await reply.chunk(piece)
        await asyncio.sleep(PAUSE)


def slowly(*pieces: bytes) -> Callable[[Reply], Any]:
    async def script(reply: Reply) -> None:
        await reply.head()
        await one_by_one(reply, *pieces)
        await reply.end()

    return script


def lines(*texts: str) -> list[bytes]:
    return [b'{"message":{"content":"%b"},"done":false}\n' % text.encode() for text in texts]


LAST = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'


async def test_texts_take_it_after_the_first(backend: OllamaBackend, standin: StandIn):
    standin.says("/api/chat", slowly(*lines("a", "b", "c"), LAST))
    reader = Reader()
    assert await reader.read(backend) == "abc"
    assert reader.taken == ["b", "c"]
    assert isinstance(reader.all[0], Started)
    assert isinstance(reader.all[-1], Finished)


async def test_texts_take_it_where_they_come_at_once(backend: OllamaBackend, standin: StandIn):
    async def at_once(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b"".join([*lines("a", "b", "c"), LAST]))
        await reply.end()

    standin.says("/api/chat", at_once)
    reader = Reader()
    assert await reader.read(backend) == "abc"
    assert reader.taken == ["b", "c"]


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("piece", [None, 1, 7, 100])
async def test_recorded_answer_is_the_same_with_and_without_it(
    backend: OllamaBackend, standin: StandIn, name: str, piece: int | None
):
    raw = name.startswith("generate")
    asked = {"prompt": "Hi" if raw else (QUESTION,), "tools": (TOOL,) if "tools" in name else ()}
    standin.replays(name, "/api/generate" if raw else "/api/chat", piece)
    without, reader = Reader(takes=lambda _: False), Reader()
    for each in (without, reader):
        with contextlib.suppress(BackendError):
            await each.read(backend, **asked)
    assert [_same(event) for event in reader.all] == [_same(event) for event in without.all]


def _same(event: Event) -> Event | str:
    """Ids are new in each answer."""
    return type(event).__name__ if hasattr(event, "id") else event


@pytest.mark.parametrize("refused", ["b", "c"])
async def test_text_that_is_not_taken_is_yielded_in_its_place(
    backend: OllamaBackend, standin: StandIn, refused: str
):
    standin.says("/api/chat", slowly(*lines("a", "b", "c", "d"), LAST))
    reader = Reader(takes=lambda text: text != refused)
    assert await reader.read(backend) == "abcd"
    assert reader.taken == [text for text in ("b", "c", "d") if text != refused]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": JSONObject()},
        {"tools": (TOOL,), "tool_choice": "required"},
        {"tools": (TOOL,), "parallel_tool_calls": False},
        {"n": 2},
    ],
)
async def test_nothing_takes_it_where_somebody_has_to_see_all(
    backend: OllamaBackend, standin: StandIn, fields: dict[str, Any]
):
    standin.says("/api/chat", says_lines(line('{"a'), line('":'), line(" 1}"), END))
    reader = Reader()
    with contextlib.suppress(BackendError):  # A text that is no call is none, but was seen.
        await reader.read(backend, **fields)
    assert reader.taken == []


async def test_only_texts_take_it(backend: OllamaBackend, standin: StandIn):
    call = {"function": {"name": "count", "arguments": {}}}
    said = (line("a"), line("", thinking="hm"), line("b"), line("", tool_calls=[call]), END)
    standin.says("/api/chat", says_lines(*said))
    reader = Reader()
    await reader.read(backend, tools=(TOOL,))
    assert reader.taken == ["b"]
    assert [type(event).__name__ for event in reader.all] == [
        "Started",
        "TextDelta",
        "ReasoningDelta",
        "TextDelta",
        "ToolCallStarted",
        "ToolCallDelta",
        "Finished",
    ]


async def test_failure_comes_after_what_was_taken(backend: OllamaBackend, standin: StandIn):
    standin.says("/api/chat", slowly(*lines("a", "b"), b'{"error":"out of luck"}\n'))
    reader = Reader()
    with pytest.raises(BackendError, match="out of luck"):
        await reader.read(backend)
    assert reader.text == "ab"


async def test_cut_comes_after_what_was_taken(backend: OllamaBackend, standin: StandIn):
    async def cut(reply: Reply) -> None:
        await reply.head()
        await one_by_one(reply, *lines("a", "b"))
        reply.cut()

    standin.says("/api/chat", cut)
    reader = Reader()
    with pytest.raises(BadUpstreamError):
        await reader.read(backend)
    assert reader.text == "ab"


async def test_half_a_line_is_no_reason_to_give_up_early(backend: OllamaBackend, standin: StandIn):
    """The patience for a line begins with the line before it, whichever way that one took."""
    words = lines(*"abcdef")
    half = words[-1][:20], words[-1][20:]
    standin.says("/api/chat", slowly(*words[:-1], *half, LAST))
    reader = Reader()
    assert await reader.read(backend) == "abcdef"
    assert reader.taken == list("bcdef")


async def test_chunk_that_begins_with_nothing_is_no_reason_to_give_up_early(
    backend: OllamaBackend, standin: StandIn
):
    words = lines(*"abcdef")

    async def script(reply: Reply) -> None:
        await reply.head()
        await one_by_one(reply, *words)
        await reply.raw(b"%x\r\n" % len(LAST))
        await asyncio.sleep(PAUSE)
        await reply.raw(LAST + b"\r\n")
        await reply.end()

    standin.says("/api/chat", script)
    assert await Reader().read(backend) == "abcdef"


async def test_silence_after_what_was_taken_is_ended(backend: OllamaBackend, standin: StandIn):
    async def hang(reply: Reply) -> None:
        await reply.head()
        await one_by_one(reply, *lines("a", "b", "c"))
        await reply.gone()

    standin.says("/api/chat", hang)
    reader = Reader()
    async with asyncio.timeout(1):
        with pytest.raises(BackendTimeoutError):
            await reader.read(backend)
    assert reader.text == "abc"
    await standin.closed()


async def test_drip_of_half_a_line_is_ended(backend: OllamaBackend, standin: StandIn):
    async def drip(reply: Reply) -> None:
        await reply.head()
        await one_by_one(reply, *lines("a", "b"), *[b" "] * 100)

    standin.says("/api/chat", drip)
    reader = Reader()
    async with asyncio.timeout(1):
        with pytest.raises(BackendTimeoutError):
            await reader.read(backend)
    assert reader.text == "ab"


async def test_reader_that_fails_ends_the_answer(backend: OllamaBackend, standin: StandIn):
    def fails(_text: str) -> bool:
        raise ArithmeticError

    standin.says("/api/chat", slowly(*lines("a", "b"), LAST))
    with pytest.raises(ArithmeticError):
        await Reader(takes=fails).read(backend)
    await standin.closed()


async def test_next_answer_on_the_same_connection_has_its_own(
    backend: OllamaBackend, standin: StandIn
):
    standin.says("/api/chat", slowly(*lines("a", "b"), LAST))
    first, second = Reader(), Reader()
    assert [await first.read(backend), await second.read(backend)] == ["ab", "ab"]
    assert [first.taken, second.taken] == [["b"], ["b"]]
    assert standin.connections <= 2
