"""`POST /api/chat` with Ollama's own body: the official client, and the lines themselves."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import ollama
import pytest
from fakes.pictures import data_url, png
from fakes.scripted_backend import DONE, EVERYTHING, HELLO, ScriptedBackend, Step, http_client
from msgspec.structs import replace

from adapters.backend import Backend, Model
from adapters.errors import (
    BackendBusyError,
    BackendUnavailableError,
    ContextLengthError,
    GenerationError,
)
from adapters.events import (
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from adapters.request import (
    ImagePart,
    JSONObject,
    JSONSchema,
    Message,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)
from proxy.app import create_app
from proxy.config import Config, ModelConfig, ServerConfig
from proxy.routing.override import HEADER

URL = "/api/chat"
HI: Any = [{"role": "user", "content": "Hi"}]
PICTURE = data_url(png(2, 2)).partition(",")[2]
CUT = Finished("length", Usage(prompt_tokens=3, completion_tokens=2))
CALLED = Finished("tool_calls", Usage(prompt_tokens=3, completion_tokens=2))
PARIS = '{"city": "Paris"}'
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": SCHEMA},
}
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@asynccontextmanager
async def official(*backends: Backend, config: Config | None = None) -> AsyncIterator[Any]:
    """Ollama's own client of an application in this process."""
    app = create_app(config or Config(), {backend.kind: backend for backend in backends})
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    client = ollama.AsyncClient("http://127.0.0.1:8006", transport=transport)
    async with app.lifespan():
        yield client
        await client.close()


async def lines(script: list[Step], **fields: Any) -> list[dict[str, Any]]:
    """Return the streamed lines for `script`, without the fields that differ each time."""
    async with http_client(ScriptedBackend(script)) as client:
        response = await client.post(URL, json={"model": "m", "messages": HI, **fields})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    told = [json.loads(line) for line in response.text.splitlines()]
    for line in told:
        line.pop("created_at", None)
    return told


def line(**message: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "message": {"role": "assistant", "content": "", **message},
        "done": False,
    }


# --- answers -----------------------------------------------------------------------------------


async def test_official_client_reads_a_stream():
    async with official(ScriptedBackend()) as client:
        parts = [part async for part in await client.chat("m", HI, stream=True)]
    assert "".join(part.message.content for part in parts) == "Hello"
    assert [part.done for part in parts] == [False, False, True]
    end = parts[-1]
    assert (end.done_reason, end.prompt_eval_count, end.eval_count) == ("stop", 3, 2)
    assert all(isinstance(end[name], int) and end[name] >= 0 for name in DURATIONS)
    assert end.total_duration >= end.load_duration + end.prompt_eval_duration
    assert parts[0].created_at.endswith("Z")


async def test_durations_are_the_engines_where_it_tells_them():
    timings = Timings(load=1, prompt=2, answer=3)
    end = (await lines([Started(), TextDelta("a"), replace(DONE, timings=timings)]))[-1]
    assert [end[name] for name in DURATIONS[1:]] == [1, 2, 3]


async def test_official_client_reads_a_whole_answer():
    async with official(ScriptedBackend()) as client:
        answer = await client.chat("m", HI)
    assert (answer.model, answer.message.role, answer.message.content) == (
        "m",
        "assistant",
        "Hello",
    )
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 2)
    assert answer.message.tool_calls is None


async def test_answer_is_streamed_unless_told_otherwise():
    told = await lines(list(HELLO))
    assert told[0] == line(content="Hel")
    assert set(told[-1]) > {*DURATIONS, "done_reason"}


async def test_call_is_one_line_with_an_object_however_it_was_written():
    script: list[Step] = [
        Started(),
        ReasoningDelta("hm"),
        ToolCallStarted(0, "call_a", "weather"),
        ToolCallDelta(0, '{"city":'),
        ToolCallDelta(0, '\n "Paris"}'),
        ToolCallStarted(1, "call_b", "clock"),
        TextDelta("So."),
        CALLED,
    ]
    told = await lines(script, tools=[WEATHER])
    weather = {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}
    clock = {"index": 1, "name": "clock", "arguments": {}}
    assert told[:-1] == [
        line(thinking="hm"),
        line(tool_calls=[{"id": "call_a", "function": weather}]),
        line(tool_calls=[{"id": "call_b", "function": clock}]),
        line(content="So."),
    ]
    assert told[-1]["done_reason"] == "stop"
    async with official(ScriptedBackend(script)) as client:
        whole = (await client.chat("m", HI, tools=[WEATHER])).message
    assert (whole.thinking, whole.content) == ("hm", "So.")
    assert [call.function.name for call in whole.tool_calls] == ["weather", "clock"]
    assert whole.tool_calls[0].function.arguments == {"city": "Paris"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_call_that_the_limit_cut_is_not_told(streamed: bool):
    script = [Started(), ToolCallStarted(0, "x", "weather"), ToolCallDelta(0, '{"ci'), CUT]
    async with http_client(ScriptedBackend(script)) as client:
        body = {"model": "m", "messages": HI, "tools": [WEATHER], "stream": streamed}
        (told,) = (await client.post(URL, json=body)).text.splitlines()
    assert json.loads(told)["done_reason"] == "length"
    assert "tool_calls" not in told


async def test_call_without_an_object_is_an_error():
    script = [Started(), ToolCallStarted(0, "x", "weather"), ToolCallDelta(0, "[1]"), CALLED]
    async with official(ScriptedBackend(script)) as client:
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat("m", HI, tools=[WEATHER])
    assert caught.value.status_code == 502


async def test_logprobs_are_ollamas():
    top = TokenLogprob(token="b", logprob=-2.0)
    token = TokenLogprob(token="a", logprob=-0.5, bytes=(97,), top=(top,))
    script = [Started(), TextDelta("a", (token,)), DONE]
    told = {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [{"token": "b", "logprob": -2.0}],
    }
    assert (await lines(script, logprobs=True, top_logprobs=1))[0]["logprobs"] == [told]
    async with official(ScriptedBackend(script)) as client:
        (read,) = (await client.chat("m", HI, logprobs=True, top_logprobs=1)).logprobs
    assert (read.token, read.top_logprobs[0].token) == ("a", "b")


async def test_answer_that_was_cut_says_length():
    assert (await lines([Started(), TextDelta("a"), CUT]))[-1]["done_reason"] == "length"


# --- failures ----------------------------------------------------------------------------------


async def test_failure_in_the_middle_is_a_line_that_the_official_client_raises():
    script = [Started(), TextDelta("a"), GenerationError("It broke.")]
    told = await lines(script)
    assert told[-1] == {"error": "It broke."}
    async with official(ScriptedBackend(script)) as client:
        with pytest.raises(ollama.ResponseError, match="It broke"):
            [part async for part in await client.chat("m", HI, stream=True)]


@pytest.mark.parametrize("streamed", [False, True])
async def test_failure_before_the_answer_has_its_status(streamed: bool):
    backend = ScriptedBackend([ContextLengthError("Too long.", param="prompt")])
    async with http_client(backend) as client:
        body = {"model": "m", "messages": HI, "stream": streamed}
        response = await client.post(URL, json=body)
    assert response.status_code == 400
    assert response.json() == {"error": "Too long."}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"format": "yaml"}, "format"),
        ({"think": "extreme"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"messages": [{"role": "clown", "content": ""}]}, "messages[0].role"),
        ({"messages": [*HI, {"role": "control", "content": ""}]}, "messages[1].role"),
        ({"messages": [{"role": "", "content": "Hi"}]}, "messages[0].role"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(URL, json={"model": "m", "messages": HI, **fields})
    assert response.status_code == 400
    assert f"'{param}'" in response.json()["error"]
    assert not backend.requests


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"truncate": True}, "truncate"),
        ({"shift": True}, "shift"),
        ({"messages": [], "options": {"num_ctx": 1}}, "options"),
    ],
)
async def test_wish_without_effect_is_named(fields: dict[str, Any], name: str):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json={"model": "m", "messages": HI, **fields})
    assert response.status_code == 200
    assert response.headers["x-tandem-ignored"] == name


@pytest.mark.parametrize(
    ("feature", "fields", "param"),
    [
        ("response_format", {"format": "json"}, "format"),
        ("reasoning_effort", {"think": True}, "think"),
        ("logprobs", {"logprobs": True}, "logprobs"),
        ("tools", {"tools": [WEATHER]}, "tools"),
        ("images", {"messages": [{"role": "user", "images": [PICTURE]}]}, "messages[0].images[0]"),
        ("keep_alive", {"keep_alive": 5}, "keep_alive"),
        ("options", {"options": {"mirostat": 1}}, "options.mirostat"),
        ("min_p", {"options": {"min_p": 0.5}}, "options.min_p"),
    ],
)
async def test_what_nobody_honours_is_refused_by_name(
    feature: Any, fields: dict[str, Any], param: str
):
    async with http_client(ScriptedBackend(honours=EVERYTHING - {feature})) as client:
        response = await client.post(URL, json={"model": "m", "messages": HI, **fields})
    assert response.status_code == 400
    assert f"'{param}'" in response.json()["error"]


async def test_unknown_field_is_named_or_refused():
    body = {"model": "m", "messages": HI, "surprise": 1}
    async with http_client(ScriptedBackend()) as client:
        assert (await client.post(URL, json=body)).headers["x-tandem-ignored"] == "surprise"
    strict = Config(server=ServerConfig(strict_fields=True))
    async with http_client(ScriptedBackend(), config=strict) as client:
        assert (await client.post(URL, json=body)).json() == {
            "error": "Unknown parameter: 'surprise'."
        }


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"{}", b'{"messages":[]}'])
async def test_body_that_is_none_is_a_mistake_of_the_caller(body: bytes):
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, content=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert isinstance(response.json()["error"], str)


# --- what is asked -----------------------------------------------------------------------------


async def test_every_field_reaches_the_backend():
    backend = ScriptedBackend()
    options = {"temperature": 0.5, "num_predict": 9, "stop": ["x"], "num_ctx": 512, "num_gpu": 1}
    async with official(backend) as client:
        await client.chat(
            "m",
            HI,
            tools=[WEATHER],
            format=SCHEMA,
            think="high",
            keep_alive="1m",
            logprobs=True,
            options=options,
        )
    (asked,) = backend.requests
    assert asked.sampling == Sampling(temperature=0.5)
    assert asked.default_sampling == Sampling(temperature=0.8, top_k=40, top_p=0.9)
    assert (asked.max_tokens, asked.stop, asked.num_ctx) == (9, ("x",), 512)
    assert asked.options == {"num_gpu": 1}
    assert asked.tools == (Tool("weather", "Now", SCHEMA),)
    assert asked.response_format == JSONSchema(SCHEMA)
    assert (asked.reasoning_effort, asked.keep_alive, asked.top_logprobs) == ("high", 60.0, 0)


async def test_defaults_of_clients_for_former_options_are_accepted():
    """`ollama.Options` and LangChain's `ChatOllama` have fields for what Ollama has no more."""
    backend = ScriptedBackend()
    former = {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "tfs_z": 1.0}
    unknown = {"numa": False, "low_vram": True, "penalize_newline": True}
    async with http_client(backend) as client:
        body = {"model": "m", "messages": HI, "stream": False, "options": former | unknown}
        response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-tandem-ignored"].split(", ") == [f"options.{o}" for o in unknown]
    assert backend.requests[0].options == {}


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"format": "json"}, "response_format", JSONObject()),
        ({"format": ""}, "response_format", None),
        ({"think": True}, "reasoning_effort", "medium"),
        ({"think": False}, "reasoning_effort", "none"),
        ({"think": "max"}, "reasoning_effort", "xhigh"),
        ({"truncate": False, "shift": False}, "max_tokens", None),
        ({"options": {"num_predict": -1}}, "max_tokens", None),
        ({"options": {"num_predict": 0}}, "max_tokens", None),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs", 3),
    ],
)
async def test_field_means_what_it_means_to_ollama(fields: dict[str, Any], name: str, value: Any):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(URL, json={"model": "m", "messages": HI, **fields})
    assert response.status_code == 200
    assert getattr(backend.requests[0], name) == value


@pytest.mark.parametrize(
    ("last", "fields", "is_continued"),
    [
        ({"role": "assistant", "content": "It is"}, {}, True),
        ({"role": "assistant", "content": ""}, {}, False),
        ({"role": "assistant", "content": "It is"}, {"tools": [WEATHER]}, False),
        ({"role": "assistant", "content": "It is"}, {"format": "json"}, False),
        ({"role": "user", "content": "It is"}, {}, False),
    ],
)
async def test_last_message_of_the_assistant_is_continued(
    last: dict[str, Any], fields: dict[str, Any], is_continued: bool
):
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        body = {"model": "m", "messages": [*HI, last], **fields}
        assert (await client.post(URL, json=body)).status_code == 200
    assert backend.requests[0].continue_final_message == is_continued


async def test_history_is_joined_by_ids_where_the_client_sent_none():
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    clock = {"id": "mine", "type": "", "function": {"name": "clock", "arguments": None}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look", "images": []},
        {"role": "assistant", "thinking": "hm", "tool_calls": [call, clock, call]},
        {"role": "tool", "content": "12:00", "tool_name": "clock"},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "rainy", "tool_call_id": "call_2"},
        {"role": "tool", "content": "lost", "tool_name": "absent"},
    ]
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        await client.post(URL, json={"model": "m", "messages": messages})
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert prompt[2] == Message(
        role="assistant",
        reasoning="hm",
        tool_calls=(
            ToolCall("call_0", "weather", '{"city":"Paris"}'),
            ToolCall("mine", "clock", "{}"),
            ToolCall("call_2", "weather", '{"city":"Paris"}'),
        ),
    )
    assert [m.tool_call_id for m in prompt[3:]] == ["mine", "call_0", "call_2", None]
    assert prompt[6].name == "absent"


@pytest.mark.parametrize("prompt", ["Bye", None])
async def test_prompt_beside_messages_is_an_unknown_field_of_a_chat(prompt: str | None):
    backend = ScriptedBackend()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "prompt": prompt}
    async with http_client(backend) as client:
        response = await client.post(URL, json=body)
    assert response.headers["x-tandem-ignored"] == "prompt"
    assert backend.requests[0].prompt == (Message(role="user", content=(TextPart("Hi"),)),)


@pytest.mark.parametrize("silent", [{"role": ""}, {"role": None}, {"content": "No"}])
async def test_message_without_a_role_is_in_no_prompt(silent: Any):
    """Most templates of Ollama leave it out. Mods sends its answers back like that."""
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        response = await client.post(URL, json={"model": "m", "messages": [*HI, silent, *HI]})
    assert response.status_code == 200
    assert response.headers["x-tandem-ignored"] == "messages[1]"
    said = Message(role="user", content=(TextPart("Hi"),))
    assert backend.requests[0].prompt == (said, said)


async def test_image_behind_a_message_without_a_role_is_named_where_the_client_has_it():
    pictured = {"role": "user", "content": "Hi", "images": [PICTURE]}
    backend = ScriptedBackend(honours=EVERYTHING - {"images"})
    async with http_client(backend) as client:
        messages = [{"role": ""}, pictured]
        response = await client.post(URL, json={"model": "m", "messages": messages})
    assert "'messages[1].images[0]'" in response.json()["error"]


async def test_roles_have_letters_of_any_case():
    backend = ScriptedBackend()
    spoken = [("System", "a"), ("USER", "b"), ("Assistant", "c")]
    messages = [{"role": role, "content": text} for role, text in spoken]
    async with http_client(backend) as client:
        assert (await client.post(URL, json={"model": "m", "messages": messages})).is_success
    asked = backend.requests[0]
    assert asked.prompt == (
        Message(role="system", content=(TextPart("a"),)),
        Message(role="user", content=(TextPart("b"),)),
        Message(role="assistant", content=(TextPart("c"),)),
    )
    assert asked.continue_final_message


async def test_developers_message_is_one_of_the_system():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        messages = [{"role": "developer", "content": "Be brief."}, *HI]
        await client.post(URL, json={"model": "m", "messages": messages})
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert prompt[0] == Message(role="system", content=(TextPart("Be brief."),))


async def test_image_is_one_of_the_message():
    backend = ScriptedBackend()
    async with http_client(backend) as client:
        message = {"role": "user", "content": "What?", "images": [PICTURE]}
        response = await client.post(URL, json={"model": "m", "messages": [message]})
    assert response.status_code == 200
    prompt = backend.requests[0].prompt
    assert isinstance(prompt, tuple)
    assert prompt[0].content == (TextPart("What?"), ImagePart(f"data:;base64,{PICTURE}"))


@pytest.mark.parametrize("words", ["", "What?"])
async def test_image_that_is_none_is_named(words: str):
    message = {"role": "user", "content": words, "images": [PICTURE, "AA=="]}
    async with http_client(ScriptedBackend()) as client:
        response = await client.post(URL, json={"model": "m", "messages": [*HI, message]})
    assert response.status_code == 400
    assert "'messages[1].images[1]'" in response.json()["error"]


async def test_backend_is_chosen_and_may_be_forced():
    config = Config(models={"both": ModelConfig(names={"mlx": "a", "ollama": "b"})})
    mlx = ScriptedBackend(kind="mlx", models=[Model(name="a")])
    other = ScriptedBackend(kind="ollama", models=[Model(name="b")])
    async with http_client(mlx, other, config=config) as client:
        for name, kind in (("both", "mlx"), ("ollama/b", "ollama"), ("mlx/a", "mlx")):
            response = await client.post(URL, json={"model": name, "messages": HI})
            assert response.headers[HEADER] == kind
            assert json.loads(response.text.splitlines()[0])["model"] == name
        body = {"model": "both", "messages": HI}
        for forced, headers in (({**body, "backend": "ollama"}, {}), (body, {HEADER: "ollama"})):
            response = await client.post(URL, json=forced, headers=headers)
            assert response.headers[HEADER] == "ollama"
        refused = await client.post(URL, json={**body, "model": "mlx/a", "backend": "ollama"})
        assert "'backend'" in refused.json()["error"]


# --- without messages --------------------------------------------------------------------------


class Loaded(ScriptedBackend):
    """Remembers what was loaded and unloaded."""

    def __init__(self, kind: str = "scripted", failure: Exception | None = None) -> None:
        super().__init__(kind=kind)
        self.failure = failure
        self.told: list[tuple[Any, ...]] = []

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self.told.append(("load", model, keep_alive))

    async def unload(self, model: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(("unload", model))


async def test_chat_without_messages_loads():
    backend = Loaded()
    async with official(backend) as client:
        answer = await client.chat("m", keep_alive="5m")
        (part,) = [part async for part in await client.chat("m", [], stream=True)]
    assert (answer.done, answer.done_reason, answer.message.content) == (True, "load", "")
    assert (part.done, part.done_reason) == (True, "load")
    assert backend.told == [("load", "m", 300.0), ("load", "m", None)]


async def test_chat_without_messages_and_keep_alive_of_0_unloads_everywhere():
    mlx, other = Loaded("mlx"), Loaded("ollama")
    async with official(mlx, other) as client:
        answer = await client.chat("m", keep_alive=0)
    assert (answer.done, answer.done_reason) == (True, "unload")
    assert mlx.told == other.told == [("unload", "m")]


async def test_unload_needs_only_one_backend_to_be_there():
    away = Loaded("mlx", BackendUnavailableError("gone"))
    there = Loaded("ollama")
    async with official(away, there) as client:
        assert (await client.chat("m", keep_alive=0)).done_reason == "unload"
        assert there.told == [("unload", "m")]
        there.failure = BackendBusyError("It answers.")
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat("m", keep_alive=0)
    assert caught.value.status_code == 429
    async with official(away) as client:
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat("m", keep_alive=0)
    assert caught.value.status_code == 503
