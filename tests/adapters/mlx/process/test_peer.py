"""The connection to the engine's process, both ends in one event loop."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adapters.backend import Progress, TokenCount
from adapters.errors import (
    BackendBusyError,
    BackendUnavailableError,
    BadUpstreamError,
    ContextLengthError,
    GenerationError,
    InvalidRequestError,
)
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.mlx.process.methods import LogLine
from adapters.mlx.process.peer import Handler, Peer
from adapters.request import (
    GenerationRequest,
    JSONSchema,
    Message,
    NamedTool,
    Sampling,
    TextPart,
    TokenIds,
    Tool,
    ToolCall,
)


def ignore(_: Any) -> None:
    """Take a notice."""


@asynccontextmanager
async def connected(
    handlers: dict[str, Handler], notice: Callable[[Any], None] = ignore
) -> AsyncGenerator[tuple[Peer, Peer]]:
    loop = asyncio.get_running_loop()
    peers = (Peer({}, notice, lambda: None), Peer(handlers, ignore, lambda: None))
    for peer, end in zip(peers, socket.socketpair(), strict=True):
        end.setblocking(False)
        await loop.create_unix_connection(lambda peer=peer: peer, sock=end)
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()
        await asyncio.sleep(0)


REQUEST = GenerationRequest(
    model="tiny",
    prompt=(
        Message(role="system", content=(TextPart("Be brief.\n☃"),)),
        Message(role="assistant", reasoning="hm", tool_calls=(ToolCall("a", "f", '{"x": 1e400}'),)),
        Message(role="tool", tool_call_id="a", content=(TextPart(""),)),
    ),
    sampling=Sampling(temperature=1, seed=2**63, logit_bias={5: -100, 7: 0.25}),
    tools=(Tool("f", parameters={"type": "object", "minimum": 2**64 - 1}, strict=True),),
    tool_choice=NamedTool("f"),
    response_format=JSONSchema({"type": ["null", "string"]}, strict=True),
    stop=("a", "b"),
    wishes=frozenset({"reasoning_effort"}),
    options={"mirostat": 2, "deep": [None, {"a": 1.5}]},
    patience=0.5,
    whole=True,
)
EVENTS: tuple[Event, ...] = (
    Started(4096, True, ("tools[0]",), ("calls-as-text",)),
    Restarted(1, 2),
    ReasoningDelta("hm", 1),
    TextDelta("☃", (TokenLogprob(token="a", logprob=float("-inf"), bytes=(226, 152)),), 1),
    ToolCallStarted(0, "a", "f"),
    ToolCallDelta(0, "{}"),
    Finished(
        "stop",
        Usage(prompt_tokens=1, completion_tokens=2),
        "b",
        1,
        Timings(load=1, prompt=2, answer=3),
    ),
)


@pytest.mark.parametrize(
    "request_", [REQUEST, GenerationRequest(model="m", prompt="text"),
                 GenerationRequest(model="m", prompt=TokenIds((1, 2)))],
    ids=["chat", "text", "ids"],
)  # fmt: skip
async def test_request_and_events_arrive_as_they_were(request_: GenerationRequest) -> None:
    received: list[Any] = []

    async def generate(write: Callable[[Event], object], request: GenerationRequest) -> None:
        received.append(request)
        for event in EVENTS:
            write(event)

    events: list[Event] = []
    async with connected({"generate": generate}) as (caller, _):
        await caller.call("generate", request_, write=events.append)
    assert received == [request_]
    assert tuple(events) == EVENTS


async def test_calls_at_once_get_their_own_results() -> None:
    async def count(_write: object, request: GenerationRequest) -> TokenCount:
        await asyncio.sleep(0)
        return TokenCount(len(str(request.prompt)), exact=True)

    async with connected({"count_tokens": count}) as (caller, _):
        requests = [GenerationRequest(model="m", prompt="a" * n) for n in range(20)]
        counts = await asyncio.gather(*(caller.call("count_tokens", each) for each in requests))
    assert counts == [TokenCount(n, exact=True) for n in range(20)]


def too_long() -> ContextLengthError:
    error = ContextLengthError("Too long.", param="messages")
    error.prompt_tokens, error.limit = 9, 8
    return error


class OwnError(InvalidRequestError):
    """One that the other end does not know."""


@pytest.mark.parametrize(
    ("error", "kind", "fields"),
    [
        (BackendBusyError("full", retry_after=7.5), BackendBusyError, ("full", None, 7.5, False)),
        (GenerationError("bad", lasting=True), GenerationError, ("bad", None, None, True)),
        (too_long(), ContextLengthError, ("Too long.", "messages", None, False)),
        (OwnError("no", param="x"), InvalidRequestError, ("no", "x", None, False)),
        (ZeroDivisionError("/home/me"), GenerationError,
         ("The MLX engine failed: ZeroDivisionError.", None, None, False)),
    ],
)  # fmt: skip
async def test_error_arrives_as_its_class(error: Exception, kind: type, fields: Any) -> None:
    async def load(_write: object, *_arguments: object) -> None:
        raise error

    async with connected({"load": load}) as (caller, _):
        with pytest.raises(kind) as caught:
            await caller.call("load", "m", None)
    assert type(caught.value) is kind
    raised = caught.value
    assert (raised.message, raised.param, raised.retry_after, raised.lasting) == fields
    if isinstance(raised, ContextLengthError):
        assert (raised.prompt_tokens, raised.limit) == (9, 8)


class Endless:
    """A call that writes until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def __call__(self, write: Callable[[Progress], object], _model: str) -> None:
        try:
            while True:
                write(Progress(status="on"))
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def test_cancelling_a_call_stops_it_at_the_other_end() -> None:
    endless, begun = Endless(), asyncio.Event()
    async with connected({"pull": endless}) as (caller, _):
        call = asyncio.create_task(caller.call("pull", "m", write=lambda _: begun.set()))
        await begun.wait()
        call.cancel()
        await asyncio.wait((call,))
        await endless.cancelled.wait()
    assert call.cancelled()


async def test_item_that_is_refused_stops_the_call_and_is_raised() -> None:
    endless = Endless()

    def refuse(_: object) -> None:
        raise BadUpstreamError("no more")

    async with connected({"pull": endless}) as (caller, _):
        with pytest.raises(BadUpstreamError, match="no more"):
            await caller.call("pull", "m", write=refuse)
        await endless.cancelled.wait()


async def test_end_of_the_connection_cancels_what_the_other_end_asked_for() -> None:
    endless, begun = Endless(), asyncio.Event()
    async with connected({"pull": endless}) as (caller, _):
        call = asyncio.create_task(caller.call("pull", "m", write=lambda _: begun.set()))
        await begun.wait()
        caller.close()
        await endless.cancelled.wait()
        caller.fail(BackendUnavailableError("gone"))
        with pytest.raises(BackendUnavailableError, match="gone"):
            await call
        with pytest.raises(BackendUnavailableError):
            await caller.call("pull", "m")


async def test_number_of_more_than_64_bits_is_refused() -> None:
    async with connected({}) as (caller, _):
        with pytest.raises(InvalidRequestError, match="64 bits"):
            await caller.call(
                "count_tokens",
                GenerationRequest(model="m", prompt="", options={"a": 2**64}),
            )


async def test_notice_arrives() -> None:
    notices: asyncio.Queue[Any] = asyncio.Queue()
    async with connected({}, notices.put_nowait) as (_, other):
        other.notify(LogLine("a", 30, "text"))
        assert await notices.get() == LogLine("a", 30, "text")


async def test_large_messages_arrive_whole() -> None:
    async def count(_write: object, request: GenerationRequest) -> TokenCount:
        return TokenCount(len(str(request.prompt)), exact=True)

    async with connected({"count_tokens": count}) as (caller, _):
        request = GenerationRequest(model="m", prompt="x" * 5_000_000)
        assert (await caller.call("count_tokens", request)).tokens == 5_000_000
