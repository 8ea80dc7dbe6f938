"""Events are written while the socket is read: in order, each once, at the cost of few calls."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fakes.recorded_ollama import Reply, StandIn, recording, says_lines
from fakes.waiting import pause
from msgspec.structs import replace

import adapters
from adapters.config import OllamaConfig
from adapters.errors import BackendError, BackendTimeoutError, BadUpstreamError
from adapters.events import Event, Finished, Started, TextDelta, ToolCallDelta
from adapters.ollama.backend import OllamaBackend
from adapters.request import GenerationRequest, JSONObject, Message, TextPart, Tool

CHAT = GenerationRequest(
    model="m", prompt=(Message(role="user", content=(TextPart("Hi"),)),), tools=()
)
TOOL = Tool("count", None, {"type": "object"})
FORCED = replace(CHAT, tools=(TOOL,), tool_choice="required")
END = {"message": {"content": ""}, "done": True, "done_reason": "stop"}
LAST = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
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


class Recorder:
    """A sink that keeps all events; a test may wait until it has so many."""

    def __init__(self, is_behind: Callable[[Event], bool] = lambda _: False) -> None:
        self.events: list[Event] = []
        self.drained = asyncio.Event()
        self.waits = asyncio.Event()
        """Set while the writer waits for `drained`."""
        self._is_behind = is_behind
        self._changed = asyncio.Event()

    def write(self, event: Event, /) -> bool:
        self.events.append(event)
        self._changed.set()
        return self._is_behind(event)

    async def drain(self) -> None:
        self.waits.set()
        await self.drained.wait()

    async def has(self, count: int) -> None:
        while len(self.events) < count:
            self._changed.clear()
            await self._changed.wait()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


def line(text: str, **others: Any) -> dict[str, Any]:
    return {"message": {"content": text, **others}, "done": False}


def lines(*texts: str) -> list[bytes]:
    return [b'{"message":{"content":"%b"},"done":false}\n' % text.encode() for text in texts]


def as_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def one_by_one(recorder: Recorder, *pieces: bytes) -> Callable[[Reply], Any]:
    """Each piece is sent when the event of the one before was written."""

    async def script(reply: Reply) -> None:
        await reply.head()
        for at, piece in enumerate(pieces):
            await reply.chunk(piece)
            await recorder.has(at + 2)  # `Started` comes with the first.

    return script


async def test_each_text_is_written_as_soon_as_it_arrives(backend: OllamaBackend, standin: StandIn):
    recorder = Recorder()
    send = one_by_one(recorder, *lines("a", "b", "c"))

    async def script(reply: Reply) -> None:
        await send(reply)
        await reply.chunk(LAST)
        await reply.end()

    standin.says("/api/chat", script)
    await backend.generate(CHAT, recorder)
    assert recorder.text == "abc"
    assert recorder.kinds == ["Started", *["TextDelta"] * 3, "Finished"]


async def test_texts_that_come_at_once_are_written_singly(backend: OllamaBackend, standin: StandIn):
    async def at_once(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b"".join([*lines("a", "b", "c"), LAST]))
        await reply.end()

    standin.says("/api/chat", at_once)
    recorder = Recorder()
    await backend.generate(CHAT, recorder)
    assert recorder.kinds == ["Started", *["TextDelta"] * 3, "Finished"]
    assert recorder.text == "abc"


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("piece", [1, 7, 100, 100_000])
async def test_recorded_answer_is_the_same_in_pieces_of_any_size(
    standin: StandIn, name: str, piece: int
):
    raw = name.startswith("generate")
    request = replace(
        CHAT,
        prompt="Hi" if raw else CHAT.prompt,
        tools=(TOOL,) if "tools" in name else (),
    )
    recorders = Recorder(), Recorder()
    # With the usual timeouts: thousands of pieces may take longer than the fixture's.
    async with adapters.open_backend(OllamaConfig(host=standin.host)) as backend:
        for recorder, size in zip(recorders, (None, piece), strict=True):
            standin.replays(name, "/api/generate" if raw else "/api/chat", size)
            with contextlib.suppress(BackendError):
                await backend.generate(request, recorder)
    expected, events = ([without_id(event) for event in each.events] for each in recorders)
    assert events == expected
    assert len(events) > 2


def without_id(event: Event) -> Event | str:
    """Ids may be new in each answer."""
    return type(event).__name__ if hasattr(event, "id") else event


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": JSONObject()},
        {"tools": (TOOL,), "parallel_tool_calls": False},
        {"top_logprobs": 1},
    ],
)
async def test_no_request_makes_the_task_wait_for_each_text(
    backend: OllamaBackend, standin: StandIn, fields: dict[str, Any]
):
    """The texts are written by the read of the socket, not by the task of the request."""
    tasks: list[asyncio.Task[Any] | None] = []

    def note(_event: Event) -> bool:
        tasks.append(asyncio.current_task())
        return False

    recorder = Recorder(note)
    texts = ['{"a', '": 1', "}"]
    send = one_by_one(recorder, *[as_line(line(text)) for text in texts])

    async def script(reply: Reply) -> None:
        await send(reply)
        await reply.chunk(LAST)
        await reply.end()

    standin.says("/api/chat", script)
    await backend.generate(replace(CHAT, **fields), recorder)
    me = asyncio.current_task()
    assert recorder.text == '{"a": 1}'
    assert [task is me for task in tasks] == [True, True, False, False, True]


async def test_texts_reasoning_and_calls_keep_their_order(backend: OllamaBackend, standin: StandIn):
    call = {"function": {"name": "count", "arguments": {}}}
    said = (line("a"), line("", thinking="hm"), line("b"), line("", tool_calls=[call]), END)
    standin.says("/api/chat", says_lines(*said))
    recorder = Recorder()
    await backend.generate(replace(CHAT, tools=(TOOL,)), recorder)
    assert recorder.kinds == [
        "Started",
        "TextDelta",
        "ReasoningDelta",
        "TextDelta",
        "ToolCallStarted",
        "ToolCallDelta",
        "Finished",
    ]


async def test_forced_call_is_written_in_pieces(backend: OllamaBackend, standin: StandIn):
    tag = {"name": "m:latest", "capabilities": ["tools"], "details": {"context_length": 4096}}
    standin.says("/api/tags", says_lines({"models": [tag]}))
    texts = ['{"name": "count", ', '"parameters": {"a', '": "\\', '"}', '"}', "} more"]
    standin.says("/api/chat", says_lines(*map(line, texts), END))
    recorder = Recorder()
    await backend.generate(FORCED, recorder)
    pieces = [event.arguments for event in recorder.events if isinstance(event, ToolCallDelta)]
    assert pieces == ['{"a', '": "\\', '"}', '"}']
    assert isinstance(recorder.events[-1], Finished)
    assert recorder.events[-1].reason == "tool_calls"


# --- a reader that is behind ------------------------------------------------------------------


@pytest.mark.slow
async def test_socket_is_not_read_while_the_reader_is_behind(standin: StandIn):
    """Another text is on its way meanwhile; the wait takes longer than the token timeout."""
    recorder = Recorder(lambda event: event == TextDelta("b"))
    send = one_by_one(recorder, *lines("a", "b"))

    async def script(reply: Reply) -> None:
        await send(reply)
        await recorder.waits.wait()
        await reply.chunk(lines("c")[0] + LAST)
        await reply.end()

    standin.says("/api/chat", script)
    config = OllamaConfig(host=standin.host, token_timeout=0.3)
    async with contextlib.aclosing(OllamaBackend(config)) as backend:
        task = asyncio.create_task(backend.generate(CHAT, recorder))
        await recorder.waits.wait()
        await pause(0.4)
        assert recorder.text == "ab"
        recorder.drained.set()
        await task
    assert recorder.text == "abc"


async def test_cancelling_a_writer_that_waits_closes_the_socket(
    backend: OllamaBackend, standin: StandIn
):
    recorder = Recorder(lambda event: event == TextDelta("b"))

    async def script(reply: Reply) -> None:
        await one_by_one(recorder, *lines("a", "b"))(reply)
        await reply.gone()

    standin.says("/api/chat", script)
    task = asyncio.create_task(backend.generate(CHAT, recorder))
    await recorder.waits.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await standin.closed()


@pytest.mark.parametrize("text", ["a", "b"])
async def test_error_of_the_reader_ends_the_answer(
    backend: OllamaBackend, standin: StandIn, text: str
):
    def fails(event: Event) -> bool:
        if event == TextDelta(text):
            raise ArithmeticError
        return False

    recorder = Recorder(fails)

    async def script(reply: Reply) -> None:
        await reply.head()
        for piece in lines("a", "b"):
            await reply.chunk(piece)
        await reply.gone()

    standin.says("/api/chat", script)
    with pytest.raises(ArithmeticError):
        await backend.generate(CHAT, recorder)
    await standin.closed()


# --- faults -----------------------------------------------------------------------------------


async def test_failure_comes_after_what_was_written(backend: OllamaBackend, standin: StandIn):
    recorder = Recorder()
    send = one_by_one(recorder, *lines("a", "b"))

    async def script(reply: Reply) -> None:
        await send(reply)
        await reply.chunk(b'{"error":"out of luck"}\n')
        await reply.end()

    standin.says("/api/chat", script)
    with pytest.raises(BackendError, match="Ollama failed"):
        await backend.generate(CHAT, recorder)
    assert recorder.text == "ab"


async def test_cut_comes_after_what_was_written(backend: OllamaBackend, standin: StandIn):
    recorder = Recorder()
    send = one_by_one(recorder, *lines("a", "b"))

    async def cut(reply: Reply) -> None:
        await send(reply)
        reply.cut()

    standin.says("/api/chat", cut)
    with pytest.raises(BadUpstreamError):
        await backend.generate(CHAT, recorder)
    assert recorder.text == "ab"


# --- an answer that repeats itself ------------------------------------------------------------


def repeated(count: int) -> list[dict[str, Any]]:
    """The recorded beginning of an answer, and `count` lines of its next text."""
    first, piece, *_ = map(json.loads, recording("chat-stream")["response"]["chunks"])
    return [first, *[piece] * count]


async def test_clean_end_after_30_equal_pieces_is_length_with_the_text(
    backend: OllamaBackend, standin: StandIn
):
    """Ollama ends such an answer without a last line: the counts are estimates."""
    standin.says("/api/chat", says_lines(*repeated(31)))
    recorder = Recorder()
    await backend.generate(CHAT, recorder)
    assert recorder.text == "The" + " capital" * 31
    end = recorder.events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == ("length", 32)
    assert end.usage.prompt_tokens > 0


@pytest.mark.parametrize(("count", "cut"), [(29, False), (31, True)])
async def test_any_other_end_without_the_last_line_is_an_error(
    backend: OllamaBackend, standin: StandIn, count: int, cut: bool
):
    standin.says("/api/chat", says_lines(*repeated(count), cut=cut))
    with pytest.raises(BadUpstreamError):
        await backend.generate(CHAT, Recorder())


async def test_30_pieces_that_differ_in_the_last_are_no_repetition(
    backend: OllamaBackend, standin: StandIn
):
    standin.says("/api/chat", says_lines(*repeated(40), repeated(0)[0]))
    with pytest.raises(BadUpstreamError):
        await backend.generate(CHAT, Recorder())


async def test_line_in_two_pieces_is_one_event(backend: OllamaBackend, standin: StandIn):
    recorder = Recorder()
    words = lines(*"abcdef")
    send = one_by_one(recorder, *words[:-1])

    async def script(reply: Reply) -> None:
        await send(reply)
        await reply.chunk(words[-1][:20])
        await reply.chunk(words[-1][20:])
        await recorder.has(7)
        await reply.raw(b"%x\r\n" % len(LAST))  # The chunk's length alone, then its bytes.
        await reply.raw(LAST + b"\r\n")
        await reply.end()

    standin.says("/api/chat", script)
    await backend.generate(CHAT, recorder)
    assert recorder.text == "abcdef"


async def test_silence_after_what_was_written_is_ended(backend: OllamaBackend, standin: StandIn):
    recorder = Recorder()

    async def hang(reply: Reply) -> None:
        await one_by_one(recorder, *lines("a", "b", "c"))(reply)
        await reply.gone()

    standin.says("/api/chat", hang)
    with pytest.raises(BackendTimeoutError):
        await backend.generate(CHAT, recorder)
    assert recorder.text == "abc"
    await standin.closed()


async def test_drip_of_half_a_line_is_ended(backend: OllamaBackend, standin: StandIn):
    """Only a complete line gives more time."""
    recorder = Recorder()

    async def drip(reply: Reply) -> None:
        await one_by_one(recorder, *lines("a", "b"))(reply)
        with contextlib.suppress(OSError):
            while True:
                await reply.chunk(b" ")
                await pause(0.01)

    standin.says("/api/chat", drip)
    with pytest.raises(BackendTimeoutError):
        await backend.generate(CHAT, recorder)
    assert recorder.text == "ab"
    await standin.closed()


async def test_next_answer_on_the_same_connection_has_its_own(
    backend: OllamaBackend, standin: StandIn
):
    recorders = Recorder(), Recorder()
    for recorder in recorders:
        standin.says("/api/chat", says_lines(line("a"), line("b"), END))
        await backend.generate(CHAT, recorder)
    assert [recorder.text for recorder in recorders] == ["ab", "ab"]
    assert [isinstance(recorder.events[0], Started) for recorder in recorders] == [True, True]
    assert standin.connections == 1


# --- cost -------------------------------------------------------------------------------------

_TOKENS = 60
_ROOT = str(Path(adapters.__file__).parent)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, {"content": "a"}),
        ({}, {"thinking": "a"}),
        ({"parallel_tool_calls": False}, {"content": "a"}),
        ({"response_format": JSONObject(), "stop": ("x",)}, {"content": "a"}),
    ],
)
async def test_token_costs_at_most_five_calls(
    standin: StandIn, fields: dict[str, Any], message: dict[str, str]
):
    """Python functions from the read of the socket to the call of `Sink.write`."""
    recorder = Recorder()

    async def script(reply: Reply) -> None:
        await reply.head()
        for at in range(_TOKENS):
            await reply.chunk(as_line({"message": message, "done": False}))
            await recorder.has(at + 2)
        await reply.chunk(LAST)
        await reply.end()

    standin.says("/api/chat", script)
    async with contextlib.aclosing(OllamaBackend(OllamaConfig(host=standin.host))) as backend:
        calls = Counter[str]()

        def profile(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(_ROOT):
                calls[frame.f_code.co_qualname] += 1

        sys.setprofile(profile)
        try:
            await backend.generate(replace(CHAT, **fields), recorder)
        finally:
            sys.setprofile(None)
    of_tokens = {name: count for name, count in calls.items() if count >= _TOKENS / 2}
    assert len(recorder.events) == _TOKENS + 2
    assert sum(of_tokens.values()) <= 5 * _TOKENS, of_tokens
