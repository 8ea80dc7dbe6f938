"""Whatever an Ollama does to an answer: the right status, or an error that ends the stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.recorded_ollama import (
    Reply,
    Script,
    StandIn,
    recording,
    replay,
    says_lines,
    stand_in,
)
from fakes.scripted_backend import ScriptedBackend, http_client
from fakes.waiting import pause

from adapters.config import OllamaConfig
from adapters.ollama.backend import OllamaBackend
from proxy.config import Config, ModelConfig, ServerConfig

pytestmark = pytest.mark.long

WORD = {"message": {"content": "A"}, "done": False}
TAG = {"name": "m:latest", "capabilities": ["completion"], "details": {"context_length": 4096}}
LIMITS: dict[str, Any] = {"connect_timeout": 0.5, "first_token_timeout": 0.4, "token_timeout": 0.2}


def plain(status: int, body: bytes, **headers: str) -> Script:
    async def script(reply: Reply) -> None:
        await reply.plain(status, body, **headers)

    return script


def recorded(name: str) -> Script:
    return replay(recording(name)["response"])


async def cut_at_once(reply: Reply) -> None:
    reply.cut()


async def silent(reply: Reply) -> None:
    await reply.gone()


async def silent_after_its_head(reply: Reply) -> None:
    await reply.head()
    await reply.gone()


async def silent_after_a_word(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(json.dumps(WORD).encode() + b"\n")
    await reply.gone()


async def slow_drip(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(json.dumps(WORD).encode() + b"\n")
    for byte in json.dumps(WORD).encode():
        await reply.chunk(bytes([byte]))
        await pause(0.05)


HUGE = b'{"message": {"content": "' + b"a" * 1_100_000 + b'"}}'
PAGE = b"<html>secret of the proxy</html>"

BEFORE: dict[str, tuple[Script, int, str]] = {
    "dies before its head": (cut_at_once, 503, "backend_unavailable"),
    "dies after its head": (says_lines(cut=True), 503, "backend_unavailable"),
    "ends without a line": (says_lines(), 502, "bad_upstream"),
    "garbage": (says_lines(b"<html>"), 502, "bad_upstream"),
    "a line of another shape": (says_lines({"message": 1}), 502, "bad_upstream"),
    "a line of no meaning": (says_lines({"a": 1}), 502, "bad_upstream"),
    "a line without an end": (says_lines(HUGE), 502, "bad_upstream"),
    "an error line": (says_lines({"error": "oops"}), 502, "bad_upstream"),
    "not found": (plain(404, b'{"error": "model \'m\' not found"}'), 404, "model_not_found"),
    "busy": (plain(429, b'{"error": "busy"}'), 429, "backend_busy"),
    "unavailable": (plain(503, b'{"error": "server busy"}'), 429, "backend_busy"),
    "a page": (plain(500, PAGE, Content_Type="text/html"), 502, "bad_upstream"),
    "a redirect": (plain(302, b"", Location="http://127.0.0.1:9/"), 502, "bad_upstream"),
    "a challenge": (plain(401, b'{"error": "log in first"}'), 502, "bad_upstream"),
    "silence": (silent, 504, "backend_timeout"),
    "silence after its head": (silent_after_its_head, 504, "backend_timeout"),
    "recorded: a full queue": (recorded("fault-queue-full"), 429, "backend_busy"),
    "recorded: a dead runner": (recorded("fault-runner-killed-nostream"), 502, "bad_upstream"),
}

AFTER: dict[str, tuple[Script, int, str]] = {
    "dies": (says_lines(WORD, cut=True), 502, "bad_upstream"),
    "ends without the last line": (says_lines(WORD), 502, "bad_upstream"),
    "garbage": (says_lines(WORD, b"<html>"), 502, "bad_upstream"),
    "half a line": (says_lines(WORD, b'{"message": {"con'), 502, "bad_upstream"),
    "a line of another shape": (says_lines(WORD, {"message": []}), 502, "bad_upstream"),
    "a line without an end": (says_lines(WORD, HUGE), 502, "bad_upstream"),
    "an error line": (says_lines(WORD, {"error": "oops"}), 502, "bad_upstream"),
    "silence": (silent_after_a_word, 504, "backend_timeout"),
    "a drip": (slow_drip, 504, "backend_timeout"),
    "recorded: a dead runner": (recorded("fault-runner-killed-midstream"), 502, "bad_upstream"),
    "recorded: killed": (recorded("fault-server-killed-midstream"), 502, "bad_upstream"),
    "recorded: ended": (recorded("fault-server-term-midstream"), 502, "bad_upstream"),
}


class Told:
    """The answer as a client has read it."""

    def __init__(self, status: int, headers: Any, text: str) -> None:
        self.status, self.headers, self.text = status, headers, text

    @property
    def frames(self) -> list[Any]:
        data = [x.removeprefix("data: ") for x in self.text.split("\n") if x.startswith("data: ")]
        return [json.loads(each) if each.startswith("{") else each for each in data]


@asynccontextmanager
async def ollama(script: Script) -> AsyncIterator[tuple[StandIn, OllamaBackend]]:
    """A stand-in that has one model; at the end no socket to it may be open."""
    async with stand_in() as standin:
        standin.says("/api/tags", says_lines({"models": [TAG]}))
        standin.says("/api/chat", script)
        standin.says("/api/generate", script)
        backend = OllamaBackend(OllamaConfig(host=standin.host, **LIMITS))
        try:
            yield standin, backend
        finally:
            await backend.aclose()
        await standin.closed()


ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
}


async def ask(script: Script, path: str = "/v1/chat/completions", **fields: Any) -> Told:
    """One request through the whole application, which must answer in time and be idle after."""
    body = {"model": "m", **ASKED[path], **fields}
    async with ollama(script) as (_, backend), http_client(backend) as client:
        async with asyncio.timeout(20):
            answer = await client.post(path, json=body)
        counters = (await backend.health()).counters
    assert (counters["active"], counters["finished"]) == (0, 0)
    assert counters["failed"] > 0
    return Told(answer.status_code, answer.headers, answer.text)


def check_refusal(told: Told, status: int, code: str) -> None:
    error = json.loads(told.text)["error"]
    assert (told.status, error["code"]) == (status, code)
    assert error.keys() == {"message", "type", "param", "code"}
    assert "secret" not in told.text
    assert told.headers["content-type"] == "application/json"
    assert ("retry-after" in told.headers) == (status in (429, 503))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", BEFORE)
async def test_failure_before_the_first_word_is_a_status(fault: str, streamed: bool):
    script, status, code = BEFORE[fault]
    check_refusal(await ask(script, stream=streamed), status, code)


@pytest.mark.parametrize("fault", AFTER)
async def test_failure_in_an_answer_that_is_not_streamed_is_a_status(fault: str):
    script, status, code = AFTER[fault]
    check_refusal(await ask(script), status, code)


@pytest.mark.parametrize("fault", AFTER)
async def test_failure_in_a_stream_is_an_error_that_ends_it(fault: str):
    script, _, code = AFTER[fault]
    told = await ask(script, stream=True)
    assert told.status == 200
    *said, last = told.frames
    assert last["error"]["code"] == code
    assert said
    assert all(choice["finish_reason"] is None for each in said for choice in each["choices"])


NO_MEMORY = b'{"error": "model requires more system memory (9 GiB) than is available (1 GiB)"}'
BROKEN_MODEL = b'{"error": "llama runner process has terminated: error loading model"}'
MORE: dict[str, tuple[Script, int, str]] = {
    "out of memory": (plain(500, NO_MEMORY), 503, "insufficient_memory"),
    "a model that cannot be loaded": (plain(500, BROKEN_MODEL), 500, "generation_failed"),
}
WRONG: dict[str, Script] = {
    "a schema that is none": recorded("chat-schema-bad"),
    "an image for a model without eyes": recorded("chat-image-bad"),
    "an option of another type": recorded("chat-option-wrong-type"),
    "anything else": plain(400, b'{"error": "what?"}'),
}
"""The caller's mistakes: what Ollama says of them, 500 among it."""


async def ask_both(script: Script, **fields: Any) -> Told:
    """One chat with a model that MLX has as well; Ollama is asked first."""
    body = {"model": "both", **ASKED["/v1/chat/completions"], **fields}
    both = Config(models={"both": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="ollama")})
    mlx = ScriptedBackend(kind="mlx")
    async with ollama(script) as (_, backend), http_client(mlx, backend, config=both) as client:
        async with asyncio.timeout(20):
            answer = await client.post("/v1/chat/completions", json=body)
    return Told(answer.status_code, answer.headers, answer.text)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", [*BEFORE, *MORE])
async def test_failure_before_the_first_word_makes_the_other_backend_answer(
    fault: str, streamed: bool
):
    script, _, code = (BEFORE | MORE)[fault]
    told = await ask_both(script, stream=streamed)
    assert (told.status, told.headers["x-tandem-backend"]) == (200, "mlx")
    assert told.headers["x-tandem-fallback-from"] == f"ollama; reason={code}"
    assert "error" not in told.text


@pytest.mark.parametrize("fault", MORE)
async def test_failure_that_nobody_makes_good_is_a_status(fault: str):
    script, status, code = MORE[fault]
    told = await ask(script)
    assert (told.status, json.loads(told.text)["error"]["code"]) == (status, code)


@pytest.mark.parametrize("mistake", WRONG)
async def test_mistake_of_the_caller_is_told_by_the_first_that_sees_it(mistake: str):
    told = await ask_both(WRONG[mistake])
    assert (told.status, told.headers["x-tandem-backend"]) == (400, "ollama")
    assert "x-tandem-fallback-from" not in told.headers


@pytest.mark.parametrize("fault", AFTER)
async def test_failure_in_a_whole_answer_makes_the_other_backend_answer(fault: str):
    script, _, code = AFTER[fault]
    told = await ask_both(script)
    assert (told.status, told.headers["x-tandem-backend"]) == (200, "mlx")
    assert told.headers["x-tandem-fallback-from"] == f"ollama; reason={code}"


@pytest.mark.parametrize("fault", AFTER)
async def test_failure_in_a_stream_is_not_made_good_by_the_other_backend(fault: str):
    script, _, code = AFTER[fault]
    told = await ask_both(script, stream=True)
    assert (told.headers["x-tandem-backend"], told.frames[-1]["error"]["code"]) == ("ollama", code)
    assert "x-tandem-fallback-from" not in told.headers


async def test_ollama_that_keeps_silent_is_left_at_once_after_three_times():
    both = Config(
        server=ServerConfig(fallback_after=0.2),
        models={"both": ModelConfig(names={"mlx": "m", "ollama": "m"}, prefer="ollama")},
    )
    body = {"model": "both", **ASKED["/v1/chat/completions"]}
    mlx, told = ScriptedBackend(kind="mlx"), []
    async with ollama(silent) as (standin, backend):
        standin.says("/api/version", says_lines({"version": "0.33.0"}))
        standin.says("/api/ps", says_lines({"models": [TAG]}))
        async with http_client(mlx, backend, config=both) as client:
            for _ in range(5):
                told.append(await client.post("/v1/chat/completions", json=body))
            health = (await client.get("/health")).json()
    reasons = [answer.headers.get("x-tandem-fallback-from") for answer in told]
    assert reasons == ["ollama; reason=backend_timeout"] * 3 + [None] * 2
    assert {answer.headers["x-tandem-backend"] for answer in told} == {"mlx"}
    assert health["backends"]["ollama"]["breaker"] == "open"
    assert health["fallbacks"] == {"ollama": {"backend_timeout": 3}}


NO_TEXT: dict[str, tuple[Script, bool]] = {
    "at once": (says_lines(), True),
    "after a word": (says_lines(WORD | {"response": "A"}), False),
}
"""Answers of Ollama if its runner wrote bytes that are no text: 200, and then nothing."""


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("when", NO_TEXT)
async def test_answer_that_is_no_text_is_a_bad_upstream(
    when: str, path: str, n: int, streamed: bool
):
    script, is_status = NO_TEXT[when]
    told = await ask(script, path=path, n=n, stream=streamed)
    if is_status or not streamed:
        check_refusal(told, 502, "bad_upstream")
        assert "x-should-retry" not in told.headers
    else:
        assert (told.status, told.frames[-1]["error"]["code"]) == (200, "bad_upstream")


async def test_ollama_that_is_not_there_is_unavailable():
    backend = OllamaBackend(OllamaConfig(host="http://127.0.0.1:9", connect_timeout=0.5))
    async with http_client(backend) as client:
        body = {"model": "m:1b", "messages": [{"role": "user", "content": "Hi"}]}
        answer = await client.post("/v1/chat/completions", json=body)
    await backend.aclose()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_unavailable")
    assert answer.headers["retry-after"] == "5"


WHOLE: dict[str, dict[str, Any]] = {
    **ASKED,
    "/api/chat": ASKED["/v1/chat/completions"] | {"stream": False},
}
WELL = says_lines(
    {"message": {"content": "He"}, "response": "He", "done": False},
    {"message": {"content": "l"}, "response": "l", "done": False},
    {"message": {"content": "lo"}, "response": "lo", "done": False},
    {"message": {}, "response": "", "done": True, "prompt_eval_count": 9, "eval_count": 3},
)


@asynccontextmanager
async def two_hosts(script: Script) -> AsyncIterator[OllamaBackend]:
    """The one that does as `script` says has the model loaded, and is asked first; all is well with
    the other."""
    async with ollama(script) as (one, _), ollama(WELL) as (two, _):
        one.says("/api/ps", says_lines({"models": [TAG]}))
        two.says("/api/ps", says_lines({"models": []}))
        backend = OllamaBackend(OllamaConfig(hosts=(one.host, two.host), **LIMITS))
        yield backend
        assert [each.path for each in one.seen if each.path in ("/api/chat", "/api/generate")]
        await backend.aclose()


async def ask_two(script: Script, path: str = "/v1/chat/completions", **fields: Any) -> Told:
    async with two_hosts(script) as backend, http_client(backend) as client:
        async with asyncio.timeout(20):
            answer = await client.post(path, json={"model": "m", **WHOLE[path], **fields})
        counters = (await backend.health()).counters
        assert (counters["active"], counters["failed"], counters["cancelled"]) == (0, 0, 0)
    return Told(answer.status_code, answer.headers, answer.text)


def texts(told: Told) -> list[str]:
    body = json.loads(told.text)
    choices = body.get("choices") or [{"message": body["message"]}]
    return [each["text"] if "text" in each else each["message"]["content"] for each in choices]


@pytest.mark.parametrize("fault", AFTER)
async def test_other_host_gives_a_whole_answer_that_breaks_off(fault: str):
    told = await ask_two(AFTER[fault][0])
    assert (told.status, texts(told)) == (200, ["Hello"])
    assert told.headers["x-tandem-backend"] == "ollama"
    assert json.loads(told.text)["usage"]["completion_tokens"] == 3


RAW = says_lines({"response": "A", "done": False}, cut=True)


@pytest.mark.parametrize(
    ("path", "fields", "answers"),
    [
        ("/v1/chat/completions", {"n": 3}, ["Hello"] * 3),
        ("/v1/completions", {}, ["Hello"]),
        ("/v1/completions", {"echo": True, "n": 2}, ["HiHello"] * 2),
        ("/v1/completions", {"prompt": ["a", "b"]}, ["Hello"] * 2),
        ("/api/chat", {}, ["Hello"]),
    ],
)
async def test_other_host_gives_whole_answers_of_every_kind(
    path: str, fields: dict[str, Any], answers: list[str]
):
    script = RAW if path == "/v1/completions" else AFTER["dies"][0]
    told = await ask_two(script, path, **fields)
    assert (told.status, texts(told)) == (200, answers)


@pytest.mark.parametrize("fault", AFTER)
async def test_other_host_does_not_go_on_with_a_stream(fault: str):
    script, _, code = AFTER[fault]
    async with two_hosts(script) as backend, http_client(backend) as client:
        body = {"model": "m", **ASKED["/v1/chat/completions"], "stream": True}
        answer = await client.post("/v1/chat/completions", json=body)
    told = Told(answer.status_code, answer.headers, answer.text)
    assert told.frames[-1]["error"]["code"] == code
