"""The backend over real HTTP: recordings replayed, and everything that can go wrong on the way."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from fakes.recorded_ollama import Reply, StandIn, recording, says_lines, stand_in
from fakes.waiting import pause
from msgspec.structs import replace

from adapters import sink
from adapters.config import OllamaConfig
from adapters.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
    ContextLengthError,
    UnsupportedParameterError,
)
from adapters.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.ollama.backend import OllamaBackend
from adapters.ollama.errors import UnexplainedError
from adapters.request import GenerationRequest, JSONSchema, Lark, Message, Sampling, TextPart
from adapters.upstream.limits import Limits

QUESTION = Message(role="user", content=(TextPart("What is the capital of France?"),))
CHAT = GenerationRequest(model="smollm2:135m", prompt=(QUESTION,))
WORD = {"message": {"content": "A"}, "done": False}
LAST = {"message": {"content": ""}, "done": True, "done_reason": "stop"}
STARTED = Started(4096, prompt_tokens=36)
ANSWER = [
    STARTED,
    TextDelta("A"),
    Finished("stop", Usage(prompt_tokens=0, completion_tokens=0)),
]

Script = Callable[[Reply], Awaitable[None]]


async def events_of(backend: OllamaBackend, request: GenerationRequest = CHAT) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def finished(
    reason: FinishReason, tokens: tuple[int, int], timings: tuple[int, int, int]
) -> Finished:
    """Build the end from the tokens of prompt and answer, and the nanoseconds of each part."""
    usage = Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])
    load, prompt, answer = timings
    return Finished(reason, usage, timings=Timings(load=load, prompt=prompt, answer=answer))


async def failure_of(
    backend: OllamaBackend, request: GenerationRequest = CHAT
) -> tuple[list[Event], BackendError]:
    """The events before the error, and the error."""
    events: list[Event] = []
    try:
        async for event in sink.events(backend, request):
            events.append(event)
    except BackendError as error:
        return events, error
    pytest.fail(f"no error after {events}")


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def counters(**some: int) -> dict[str, int]:
    return {"active": 0, "started": 0, "finished": 0, "cancelled": 0, "failed": 0} | some


async def test_request_is_the_recorded_one(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-stream")
    sampling = Sampling(temperature=0, seed=1)
    await events_of(
        backend,
        GenerationRequest(
            model="smollm2:135m", prompt=(QUESTION,), sampling=sampling, max_tokens=24
        ),
    )
    recorded = recording("chat-stream")["request"]["body"]
    options = recorded["options"] | {"num_ctx": 4096}
    assert standin.bodies("/api/chat") == [
        recorded | {"truncate": False, "shift": False, "options": options}
    ]


async def test_secrets_and_proxies_of_the_environment_stay_out(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OLLAMA_API_KEY", "secret")
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    standin.replays("chat-stream")
    backend = OllamaBackend(OllamaConfig(host=standin.host))
    assert text_of(await events_of(backend)) == "The capital of France is Paris."
    assert "authorization" not in standin.seen[0].headers
    await backend.aclose()


async def test_key_of_the_configuration_is_sent_with_every_request(standin: StandIn):
    standin.replays("chat-stream")
    standin.replays("tags")
    backend = OllamaBackend(OllamaConfig(host=standin.host, api_key="a-secret"))
    await events_of(backend)
    await backend.list_models()
    assert {seen.headers.get("authorization") for seen in standin.seen} == {"Bearer a-secret"}
    await backend.aclose()


async def test_key_is_not_sent_to_the_host_of_a_redirect(standin: StandIn):
    async with stand_in() as other:

        async def moved(reply: Reply) -> None:
            await reply.plain(307, b"", location=f"{other.host}/api/chat")

        standin.says("/api/chat", moved)
        backend = OllamaBackend(OllamaConfig(host=standin.host, api_key="a-secret"))
        with pytest.raises(BadUpstreamError):
            await events_of(backend)
        assert other.seen == []
        await backend.aclose()


async def test_key_is_in_no_log_and_no_error(standin: StandIn, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    config = OllamaConfig(host=standin.host, api_key="a-secret")
    backend = OllamaBackend(config)
    with pytest.raises(BackendError) as wrong:  # It answers 404.
        await events_of(backend)
    assert "a-secret" not in f"{caplog.text} {wrong.value} {config}"
    await backend.aclose()


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [None, 1, 7, 100_000])
async def test_answer_is_the_same_however_it_is_cut_into_pieces(
    standin: StandIn, backend: OllamaBackend, piece: int | None
):
    standin.replays("chat-stream", piece=piece)
    words = ["The", " capital", " of", " France", " is", " Paris", "."]
    assert await events_of(backend) == [
        STARTED,
        *map(TextDelta, words),
        finished("stop", (16, 8), (1_225_474, 24_867_000, 169_369_000)),
    ]


@pytest.mark.parametrize("piece", [None, 1])
async def test_characters_of_several_bytes_survive(
    standin: StandIn, backend: OllamaBackend, piece: int | None
):
    standin.says("/api/chat", says_lines({"message": {"content": "日本語 😀 é"}}, LAST))
    whole = text_of(await events_of(backend))
    raw = '{"message":{"content":"日本語 😀 é"}}'.encode()
    standin.says("/api/chat", in_pieces(raw + b"\n" + b'{"message":{},"done":true}', piece))
    assert whole == text_of(await events_of(backend)) == "日本語 😀 é"


def in_pieces(data: bytes, piece: int | None) -> Script:
    async def script(reply: Reply) -> None:
        await reply.head()
        size = piece or len(data)
        for at in range(0, len(data), size):
            await reply.chunk(data[at : at + size])
        await reply.end()

    return script


async def test_invalid_utf8_is_replaced(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", in_pieces(b'{"message":{"content":"a\xffb"}}\n{"done":true}\n', None))
    assert text_of(await events_of(backend)) == "a�b"


async def test_blank_lines_are_skipped(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_lines(b"", WORD, b" \r", b"", LAST))
    assert await events_of(backend) == ANSWER


async def test_stop_string_does_not_leak(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-stop-stream")
    events = await events_of(backend)
    assert text_of(events) == "The capital of France is "
    assert events[-1] == finished("stop", (16, 6), (12_056_223, 26_750_000, 138_779_000))


async def test_thinking_comes_as_reasoning(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-think-answer-stream")
    events = await events_of(backend)
    thought = "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    assert (thought, text_of(events)) == ("I add 2 and 5.", "It is 8.")


async def test_two_calls_have_two_indices_and_their_own_ids(
    standin: StandIn, backend: OllamaBackend
):
    standin.replays("chat-tools-two-calls-stream")
    assert await events_of(backend) == [
        STARTED,
        ToolCallStarted(0, "call_7yp5kycc", "get_weather"),
        ToolCallDelta(0, '{"city":"Paris"}'),
        ToolCallStarted(1, "call_7sxc0fi6", "get_weather"),
        ToolCallDelta(1, '{"city":"Bienvenu"}'),
        finished("tool_calls", (460, 61), (1_633_051, 28_436_000, 1_847_375_000)),
    ]


async def test_call_cut_by_the_limit_ends_with_length(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-tools-cut")
    assert await events_of(backend) == [
        STARTED,
        finished("length", (377, 12), (2_734_349, 2_825_775_000, 351_936_000)),
    ]


async def test_logprobs_come_with_each_piece(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-logprobs-stream")
    deltas = [e for e in await events_of(backend) if isinstance(e, TextDelta)]
    assert [[t.token for t in d.logprobs or ()] for d in deltas] == [[d.text] for d in deltas]
    assert {len(t.top) for d in deltas for t in d.logprobs or ()} == {3}


async def test_raw_text_comes_from_generate(standin: StandIn, backend: OllamaBackend):
    standin.replays("generate-stream")
    request = GenerationRequest(model="smollm2:135m", prompt="The capital")
    assert text_of(await events_of(backend, request)) == "The capital of France is Paris."


async def test_connection_is_used_again_after_an_answer(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-stream")
    for _ in range(3):
        await events_of(backend)
    assert standin.connections == 1


async def test_end_of_the_connection_is_not_waited_for_after_the_last_line(standin: StandIn):
    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message":{"content":"A"}}\n{"message":{},"done":true}\n')
        await reply.gone()

    standin.says("/api/chat", script)
    config = OllamaConfig(host=standin.host, first_token_timeout=600, token_timeout=600)
    async with aclosing(OllamaBackend(config)) as backend:
        assert await events_of(backend) == ANSWER


async def test_answer_is_whole_though_the_connection_breaks_after_it(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/chat", says_lines(WORD, LAST, cut=True))
    assert await events_of(backend) == ANSWER


# --- faults ----------------------------------------------------------------------------------


async def test_refused_connection_is_unavailable():
    backend = OllamaBackend(OllamaConfig(host="http://127.0.0.1:9"))
    events, error = await failure_of(backend)
    assert (events, type(error)) == ([], BackendUnavailableError)
    assert error.retry_after == 5
    await backend.aclose()


async def dies_at_once(reply: Reply) -> None:
    reply.cut()


async def dies_after_the_headers(reply: Reply) -> None:
    await reply.head()
    reply.cut()


@pytest.mark.parametrize("script", [dies_at_once, dies_after_the_headers])
async def test_death_before_the_first_line_is_unavailable(
    standin: StandIn, backend: OllamaBackend, script: Script
):
    standin.says("/api/chat", script)
    events, error = await failure_of(backend)
    assert (events, type(error)) == ([], BackendUnavailableError)


async def test_death_in_the_stream_is_an_error_after_the_texts_before(
    standin: StandIn, backend: OllamaBackend
):
    standin.replays("fault-server-killed-midstream", "/api/chat")
    events, error = await failure_of(backend)
    assert events[0] == STARTED
    assert text_of(events) == "The story of a young"
    assert type(error) is BadUpstreamError
    assert "ended before it was done" in error.message


async def test_stream_that_ends_without_done_is_an_error(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_lines(WORD))
    events, error = await failure_of(backend)
    assert events == ANSWER[:2]
    assert type(error) is BadUpstreamError
    assert "ended before it was done" in error.message


async def test_dead_runner_is_an_error_line(standin: StandIn, backend: OllamaBackend):
    standin.replays("fault-runner-killed-midstream", "/api/chat")
    events, error = await failure_of(backend)
    assert text_of(events) == "The story of a young"
    assert (type(error), error.message) == (
        BadUpstreamError,
        "Ollama's runner has ended within the answer.",
    )


async def test_error_line_before_the_first_word_comes_before_started(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/chat", says_lines({"error": "no luck"}))
    events, error = await failure_of(backend)
    assert (events, type(error), error.message) == (
        [],
        UnexplainedError,
        "Ollama failed; its log says why.",
    )


async def empty(reply: Reply) -> None:
    await reply.head()
    await reply.end()


async def redirect(reply: Reply) -> None:
    await reply.plain(302, b"", Location="/api/elsewhere")


async def page(reply: Reply) -> None:
    await reply.plain(500, b"<html>secret</html>", Content_Type="text/html")


async def no_http(reply: Reply) -> None:
    await reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n")
    await reply.gone()


async def endless_page(reply: Reply) -> None:
    await reply.head(500)
    with contextlib.suppress(OSError):
        for _ in range(1000):
            await reply.chunk(b"x" * 50_000)


@pytest.mark.parametrize(
    "script",
    [
        empty,
        redirect,
        page,
        endless_page,
        no_http,
        says_lines(b"<html>secret</html>"),
        says_lines(b'{"message":{"content":"secr'),
        says_lines({"message": "secret"}),
        says_lines({"status": "secret"}),
        says_lines(b"[]"),
    ],
)
async def test_nonsense_is_bad_upstream_and_never_repeated(
    standin: StandIn, backend: OllamaBackend, script: Script
):
    standin.says("/api/chat", script)
    events, error = await failure_of(backend)
    assert (events, type(error)) == ([], BadUpstreamError)
    assert "secr" not in error.message


async def test_redirect_is_not_followed(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", redirect)
    await failure_of(backend)
    asked = list(dict.fromkeys(seen.path for seen in standin.seen))
    assert asked == ["/api/show", "/api/ps", "/api/chat"]


async def test_garbage_in_the_stream_ends_it(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_lines(WORD, b"garbage", LAST))
    events, error = await failure_of(backend)
    assert (events, type(error)) == (ANSWER[:2], BadUpstreamError)


async def test_line_without_an_end_is_cut_off_at_a_megabyte(
    standin: StandIn, backend: OllamaBackend
):
    sent = 0

    async def script(reply: Reply) -> None:
        nonlocal sent
        await reply.head()
        with contextlib.suppress(OSError):
            for _ in range(500):
                await reply.chunk(b" " * 100_000)
                sent += 100_000

    standin.says("/api/chat", script)
    _, error = await failure_of(backend)
    assert type(error) is BadUpstreamError
    await standin.closed()
    assert sent < 20_000_000


async def test_answer_without_an_end_is_cut_off(
    standin: StandIn,
):

    async def script(reply: Reply) -> None:
        await reply.head()
        with contextlib.suppress(OSError):
            while True:
                await reply.chunk(json.dumps(WORD).encode() + b"\n")

    standin.says("/api/chat", script)
    config = OllamaConfig(host=standin.host)
    async with aclosing(OllamaBackend(config, Limits(max_bytes=100_000))) as backend:
        events, error = await failure_of(backend)
    assert type(error) is BadUpstreamError
    assert len(text_of(events)) > 1000
    await standin.closed()


async def test_queue_that_is_full_is_busy(standin: StandIn, backend: OllamaBackend):
    async def script(reply: Reply) -> None:
        await reply.plain(503, b'{"error":"server busy"}', Retry_After="9")

    standin.says("/api/chat", script)
    _, error = await failure_of(backend)
    assert (type(error), error.retry_after) == (BackendBusyError, 9)


async def test_overflow_is_reported_with_both_numbers(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-overflow-truncate-false")
    _, error = await failure_of(backend, replace(CHAT, num_ctx=2048))
    assert type(error) is ContextLengthError
    assert "2048" in error.message
    assert "9925" in error.message


async def hangs(reply: Reply) -> None:
    await reply.gone()


async def hangs_after_the_headers(reply: Reply) -> None:
    await reply.head()
    await reply.gone()


async def drips(reply: Reply) -> None:
    await reply.head()
    await keeps_dripping(reply)


async def keeps_dripping(reply: Reply) -> None:
    with contextlib.suppress(OSError):
        while True:
            await reply.chunk(b" ")
            await pause(0.02)


@pytest.mark.parametrize("script", [hangs, hangs_after_the_headers, drips])
async def test_silence_before_the_first_line_runs_into_its_limit(standin: StandIn, script: Script):
    standin.says("/api/chat", script)
    config = OllamaConfig(host=standin.host, first_token_timeout=0.1, token_timeout=600)
    async with aclosing(OllamaBackend(config)) as backend:
        events, error = await failure_of(backend)
        assert (events, type(error)) == ([], BackendTimeoutError)
        await standin.closed()


async def test_silence_in_the_stream_runs_into_the_other_limit(standin: StandIn):
    async def script(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(b'{"message":{"content":"A"}}\n')
        await keeps_dripping(reply)

    standin.says("/api/chat", script)
    config = OllamaConfig(host=standin.host, first_token_timeout=600, token_timeout=0.1)
    async with aclosing(OllamaBackend(config)) as backend:
        events, error = await failure_of(backend)
        assert (events, type(error)) == (ANSWER[:2], BackendTimeoutError)
        await standin.closed()


async def test_ollama_that_comes_late_is_found(standin: StandIn):
    async with stand_in() as gone:
        host = gone.host
    backend = OllamaBackend(OllamaConfig(host=host))
    _, error = await failure_of(backend)
    assert type(error) is BackendUnavailableError
    async with stand_in(int(host.rsplit(":", 1)[1])) as late:
        late.replays("chat-stream")
        assert text_of(await events_of(backend)) == "The capital of France is Paris."
        await backend.aclose()


# --- leaving ---------------------------------------------------------------------------------


async def says_one_word(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(b'{"message":{"content":"A"}}\n')
    await reply.gone()


async def test_closing_the_generator_closes_the_socket(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_one_word)
    events = sink.events(backend, CHAT)
    assert [await anext(events), await anext(events)] == ANSWER[:2]
    await events.aclose()
    await standin.closed()
    assert (await backend.health()).counters == counters(started=1, cancelled=1)


@pytest.mark.parametrize("script", [hangs, hangs_after_the_headers, says_one_word])
async def test_cancelling_the_task_closes_the_socket(
    standin: StandIn, backend: OllamaBackend, script: Script
):
    standin.says("/api/chat", script)
    task = asyncio.create_task(events_of(backend))
    await standin.has_seen("/api/chat")
    assert standin.open == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await standin.closed()
    assert (await backend.health()).counters == counters(started=1, cancelled=1)


@pytest.mark.parametrize("script", [hangs, hangs_after_the_headers, says_one_word])
async def test_cancelled_scope_closes_the_socket_though_it_lets_nothing_be_awaited(
    standin: StandIn, backend: OllamaBackend, script: Script
):
    standin.says("/api/chat", script)

    async def cancel_once_seen() -> None:
        await standin.has_seen("/api/chat")
        scope.cancel()

    scope = anyio.CancelScope()
    cancelling = asyncio.create_task(cancel_once_seen())
    with scope:
        await events_of(backend)
    assert scope.cancelled_caught
    await cancelling
    await standin.closed()
    assert (await backend.health()).counters == counters(started=1, cancelled=1)


async def test_generator_closed_inside_a_cancelled_scope_closes_the_socket(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/chat", says_one_word)
    events = sink.events(backend, CHAT)
    await anext(events)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await _close(events)
    await standin.closed()


async def _close(events: AsyncGenerator[Event]) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        await events.aclose()


async def test_one_that_leaves_does_not_disturb_the_other(standin: StandIn, backend: OllamaBackend):
    standin.says("/api/chat", says_one_word)
    left = sink.events(backend, CHAT)
    await anext(left)
    standin.replays("chat-stream")
    stays = sink.events(backend, CHAT)
    first = await anext(stays)
    await left.aclose()
    rest = [event async for event in stays]
    assert text_of([first, *rest]) == "The capital of France is Paris."


async def test_answer_counts_as_finished_with_its_last_event(
    standin: StandIn, backend: OllamaBackend
):
    standin.replays("chat-stream")
    events = sink.events(backend, CHAT)
    while not isinstance(await anext(events), Finished):
        pass
    await events.aclose()
    assert (await backend.health()).counters == counters(started=1, finished=1)


async def test_failure_is_counted(standin: StandIn, backend: OllamaBackend):
    await failure_of(backend)
    assert (await backend.health()).counters == counters(started=1, failed=1)


async def test_closed_backend_is_unavailable(standin: StandIn, backend: OllamaBackend):
    await backend.aclose()
    _, error = await failure_of(backend)
    assert type(error) is BackendUnavailableError
    assert standin.seen == []


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": Sampling(logit_bias={1: 5.0})},
        {"response_format": Lark("start: /a+/")},
    ],
)
async def test_field_that_ollama_ignores_is_refused_before_it_is_sent(
    standin: StandIn, backend: OllamaBackend, fields: dict[str, Any]
):
    request = GenerationRequest(model="m", prompt=(QUESTION,), **fields)
    _, error = await failure_of(backend, request)
    assert type(error) is UnsupportedParameterError
    assert standin.seen == []


async def test_schema_is_kept_by_the_recorded_answer(standin: StandIn, backend: OllamaBackend):
    standin.replays("chat-schema-stream")
    schema = recording("chat-schema-stream")["request"]["body"]["format"]
    request = GenerationRequest(
        model="smollm2:135m", prompt=(QUESTION,), response_format=JSONSchema(schema)
    )
    assert text_of(await events_of(backend, request)).startswith('{\n  "capital"')
    assert standin.bodies("/api/chat")[0]["format"] == schema


async def test_closing_the_backend_ends_the_answers_in_progress(
    standin: StandIn, backend: OllamaBackend
):
    standin.says("/api/chat", says_one_word)
    events = sink.events(backend, CHAT)
    await anext(events)
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await backend.aclose()
    with pytest.raises(BadUpstreamError):
        await waiting


@pytest.mark.process
def test_variables_that_the_official_client_cannot_read_hinder_nothing():
    variables = {
        "ALL_PROXY": "socks9://box:1",
        "http_proxy": "no:port",
        "OLLAMA_HOST": "http://:::x",
        "SSL_CERT_FILE": "/nonexistent/file",
    }
    line = "import os, adapters.ollama.client; print(os.environ['ALL_PROXY'])"
    program = [sys.executable, "-c", line]
    done = subprocess.run(program, env=os.environ | variables, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("socks9://box:1\n", "")
