"""Answers of a scripted model through the engine: reasoning, calls, schemas, logprobs."""

import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fakes.engine_client import EngineClient
from fakes.scripted_model import (
    CITY,
    TIME,
    WEATHER,
    ScriptedEngine,
    answer,
    chat,
    told,
    usage_of,
)
from fakes.tiny_model import (
    END,
    TOOL_TEMPLATE,
    config_for,
    write_sentencepiece,
    write_tiny_model,
)

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from adapters.mlx.backend import MLXBackend
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    Lark,
    NamedTool,
    Regex,
    Sampling,
    TokenIds,
    Tool,
    ToolCall,
)

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CHANNELS = (
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% for message in messages %}{{ message.content }}{% endfor %}<|start|>assistant"
    "{# <|channel|>analysis <|constrain|> #}"
)
"""The template of a model that writes channels, like gpt-oss."""
OpenedBackend = tuple[MLXBackend, ScriptedEngine]
WILD = Sampling(temperature=1.2, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_tiny_model(root / "caller", template=TOOL_TEMPLATE, context=2048)
    write_tiny_model(root / "plain", context=2048)
    write_tiny_model(root / "channels", template=CHANNELS, context=2048)
    write_sentencepiece(write_tiny_model(root / "pieces"))
    return root


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, as its backend needs it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def opened(folder: Path, anyio_backend: str) -> AsyncGenerator[OpenedBackend]:
    """Models are loaded once: no answer here depends on those before it."""
    config = config_for(folder)
    engine = ScriptedEngine(config)
    async with aclosing(MLXBackend(config, engine=engine)) as backend:
        yield backend, engine


@pytest.fixture
def backend(opened: OpenedBackend, engine: ScriptedEngine) -> MLXBackend:
    """Says what the model says, until a test scripts `engine`."""
    return opened[0]


@pytest.fixture
def engine(opened: OpenedBackend) -> ScriptedEngine:
    engine = opened[1]
    engine.write = lambda _rows: None
    return engine


@pytest.mark.slow
async def test_a_call_is_streamed_as_it_is_written(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    engine.say(f"Let me see.\n{CALL}")
    events = await answer(backend, chat(tools=(WEATHER,)))
    said = told(events)
    assert said["text"] == "Let me see."
    assert said["calls"] == [["weather", '{"city": "Paris"}']]
    assert said["reason"] == "tool_calls"
    pieces = [e.arguments for e in events if isinstance(e, ToolCallDelta)]
    assert len(pieces) > 5
    [started] = [e for e in events if isinstance(e, ToolCallStarted)]
    assert started.id.startswith("call_")


@pytest.mark.slow
async def test_two_calls_have_two_indexes_and_ids(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    second = CALL.replace("weather", "time")
    engine.say(f"{CALL}\n{second}")
    events = await answer(backend, chat(tools=(WEATHER, TIME)))
    assert [name for name, _ in told(events)["calls"]] == ["weather", "time"]
    started = [e for e in events if isinstance(e, ToolCallStarted)]
    assert [e.index for e in started] == [0, 1]
    assert len({e.id for e in started}) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        CALL,
        CALL.replace("weather", "unknown"),
        "<tool_call>\nnot at all\n</tool_call>",
        "a <b> {c",
    ],
)
async def test_what_only_looks_like_a_call_is_text(
    backend: MLXBackend, engine: ScriptedEngine, text: str
) -> None:
    choice = "none" if text == CALL else "auto"
    engine.say(text)
    said = told(await answer(backend, chat(tools=(WEATHER,), tool_choice=choice)))
    assert said == {"text": text, "reasoning": "", "calls": [], "reason": "stop"}


async def test_a_call_that_the_limit_cuts_says_length(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    engine.say(CALL)
    said = told(await answer(backend, chat(tools=(WEATHER,), max_tokens=55)))
    assert said["reason"] == "length"
    assert said["calls"] == [["weather", '{"city": "']]


async def test_thinking_is_told_and_counted_apart(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    engine.say("<think>\nHm, 🙂.\n</think>\n\nYes.")
    events = await answer(backend, chat(stop=("Hm",)))
    assert told(events) == {"text": "Yes.", "reasoning": "Hm, 🙂.", "calls": [], "reason": "stop"}
    assert len([e for e in events if isinstance(e, ReasoningDelta)]) > 3
    usage = usage_of(events)
    assert (usage.completion_tokens, usage.reasoning_tokens) == (33, 20)


async def test_thinking_that_the_limit_cuts_is_still_thinking(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    engine.say("<think>\nOn and on and on")
    said = told(await answer(backend, chat(max_tokens=15)))
    assert said == {"text": "", "reasoning": "On and ", "calls": [], "reason": "length"}


async def test_each_choice_has_sections_of_its_own(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    engine.say("<think>a</think>b", CALL, "c")
    events = await answer(backend, chat(tools=(WEATHER,), n=3))
    first, second, third = (told(events, choice) for choice in range(3))
    assert (first["reasoning"], first["text"], first["reason"]) == ("a", "b", "stop")
    assert (second["calls"][0][0], second["reason"]) == ("weather", "tool_calls")
    assert (third["text"], third["reasoning"]) == ("c", "")


@pytest.mark.slow
async def test_channels_are_thoughts_calls_and_text(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    written = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>A moment.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json"
        '<|message|>{"city": "Rome"}<|call|>'
    )
    engine.say(written)
    said = told(await answer(backend, chat(model="channels", tools=(WEATHER,), max_tokens=300)))
    assert said == {
        "text": "A moment.",
        "reasoning": "Hm.",
        "calls": [["weather", '{"city": "Rome"}']],
        "reason": "tool_calls",
    }


@pytest.mark.slow
async def test_a_call_is_forced_through_its_channel(backend: MLXBackend) -> None:
    asked = chat(
        model="channels", tools=(WEATHER,), tool_choice="required", sampling=WILD, max_tokens=None
    )
    said = told(await answer(backend, asked))
    assert (said["reason"], said["text"]) == ("tool_calls", "")
    assert json.loads(said["calls"][0][1])["city"] in ("Paris", "Rome")


@pytest.mark.slow
async def test_no_effort_answers_in_the_channel_of_the_text(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    # What would be a header elsewhere is text here.
    engine.say("assistant to=Rome")
    asked = chat(model="channels", reasoning_effort="none")
    assert told(await answer(backend, asked))["text"] == "assistant to=Rome"


@pytest.mark.slow
async def test_no_effort_ends_each_thought_in_channels_beside_tools(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    asked = chat(
        "?",
        "channels",
        tools=(WEATHER,),
        tool_choice="required",
        reasoning_effort="none",
        sampling=WILD,
        max_tokens=None,
    )
    said = told(await answer(backend, asked))
    assert (said["reason"], said["text"], said["reasoning"]) == ("tool_calls", "", "")


@pytest.mark.slow
async def test_raw_text_has_no_sections(backend: MLXBackend, engine: ScriptedEngine) -> None:
    engine.say(f"<think>a</think>{CALL}")
    request = GenerationRequest(model="caller", prompt="x", max_tokens=200)
    said = told(await answer(backend, request))
    assert said["text"] == f"<think>a</think>{CALL}"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["caller", "plain"])
@pytest.mark.parametrize("choice", ["required", NamedTool("time")])
async def test_a_forced_call_is_made_by_any_model(
    backend: MLXBackend, model: str, choice: Any
) -> None:
    request = chat(
        "?",
        model,
        tools=(WEATHER, TIME),
        tool_choice=choice,
        parallel_tool_calls=False,
        reasoning_effort="none",
        sampling=WILD,
        n=4,
        max_tokens=None,
    )
    events = await answer(backend, request)
    for place in range(4):
        said = told(events, place)
        assert said["reason"] == "tool_calls"
        [[name, arguments]] = said["calls"]
        assert name in ({"weather", "time"} if choice == "required" else {"time"})
        assert json.loads(arguments)["city"] in ("Paris", "Rome")
        assert said["text"] == ""


@pytest.mark.slow
async def test_thoughts_come_before_a_forced_call_and_do_not_count_as_one(
    backend: MLXBackend, engine: ScriptedEngine, folder: Path
) -> None:
    """The grammar is the real one here: what it allows is what the script says."""
    from adapters.mlx.grammar.lark import Style

    engine.say(f"<think>Call {CALL}?</think>{CALL}")
    said = told(await answer(backend, chat(tools=(WEATHER,), tool_choice="required")))
    assert said["reasoning"] == f"Call {CALL}?"
    assert said["calls"] == [["weather", '{"city": "Paris"}']]
    loaded = await EngineClient(engine).load(folder / "caller")
    style = Style(loaded.syntax, loaded.reasoning, "may")
    asked = chat(tools=(WEATHER,), tool_choice="required")
    matcher, _ = await loaded.grammars.compile(asked, style)
    assert matcher is not None
    assert loaded.syntax is not None
    call = loaded.syntax.write([ToolCall("call_1", "weather", '{"city": "Paris"}')])
    ids = loaded.tokenizer.encode(f"<think>Call {CALL}?</think>{call}", add_special_tokens=False)
    assert matcher.try_consume_tokens(ids) == len(ids)
    assert matcher.is_accepting()


SHAPES: dict[str, Any] = {
    "schema": JSONSchema(CITY, strict=True),
    "loose schema": JSONSchema({"properties": {"a": {"type": "integer"}}, "required": ["a"]}),
    "object": JSONObject(),
    "regex": Regex("(ab|cd){2}!"),
    "lark": Lark('start: "yes" | "no"'),
}
EXPECTED: dict[str, Any] = {
    "schema": lambda text: json.loads(text)["city"] in ("Paris", "Rome"),
    "loose schema": lambda text: isinstance(json.loads(text)["a"], int),
    "object": lambda text: isinstance(json.loads(text), dict),
    "regex": lambda text: text in ("abab!", "abcd!", "cdab!", "cdcd!"),
    "lark": lambda text: text in ("yes", "no"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
async def test_an_answer_has_the_shape_that_is_asked_for(backend: MLXBackend, shape: str) -> None:
    request = chat(
        model="plain", response_format=SHAPES[shape], sampling=WILD, n=4, max_tokens=None
    )
    events = await answer(backend, request)
    for place in range(4):
        said = told(events, place)
        assert said["reason"] == "stop"
        assert EXPECTED[shape](said["text"]), said["text"]


async def test_raw_text_can_be_shaped_too(backend: MLXBackend) -> None:
    request = GenerationRequest(model="plain", prompt="x", response_format=Regex("[0-9]{5}"))
    assert told(await answer(backend, request))["text"].isdigit()


async def test_a_space_that_the_shape_begins_with_is_kept(backend: MLXBackend) -> None:
    asked = chat(model="pieces", response_format=Regex("  two"))
    assert told(await answer(backend, asked))["text"] == "  two"


async def test_an_answer_in_shape_that_the_limit_cuts_says_length(backend: MLXBackend) -> None:
    said = told(
        await answer(backend, chat(model="plain", response_format=JSONSchema(CITY), max_tokens=6))
    )
    assert said["reason"] == "length"
    assert said["text"].startswith('{"city')


async def test_a_stop_string_ends_an_answer_in_shape(backend: MLXBackend) -> None:
    asked = chat(model="plain", response_format=Regex("abcdef"), stop=("de",), n=2)
    events = await answer(backend, asked)
    assert [told(events, place)["text"] for place in range(2)] == ["abc", "abc"]
    assert [e.stop_sequence for e in events if isinstance(e, Finished)] == ["de", "de"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {"response_format": JSONSchema({"type": "array", "uniqueItems": True}, strict=True)},
            "response_format.json_schema.schema.uniqueItems",
            "uniqueItems",
        ),
        (
            {
                "tools": (WEATHER, Tool("f", None, {"type": "object", "not": {}}, strict=True)),
                "tool_choice": "required",
            },
            "tools[1].function.parameters.not",
            "not",
        ),
        ({"response_format": Regex("(")}, "guided_regex", "enforced"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_before_it_starts(
    backend: MLXBackend, fields: dict[str, Any], param: str, words: str
) -> None:
    before = (await backend.health()).counters["started"]
    with pytest.raises(InvalidRequestError, match=words) as caught:
        await answer(backend, chat(**fields))
    assert caught.value.param == param
    assert (await backend.health()).counters["started"] == before


@pytest.mark.slow
async def test_parts_of_a_loose_schema_that_are_not_enforced_are_reported(
    backend: MLXBackend,
) -> None:
    parameters = {**CITY, "propertyNames": {"maxLength": 9}}
    tools = (WEATHER, Tool("time", None, parameters))
    request = chat(
        tools=tools,
        tool_choice=NamedTool("time"),
        reasoning_effort="none",
        sampling=WILD,
        max_tokens=None,
    )
    events = await answer(backend, request)
    assert isinstance(events[0], Started)
    assert events[0].ignored == ("tools[1].function.parameters.propertyNames",)
    [name, arguments] = told(events)["calls"][0]
    assert name == "time"
    assert json.loads(arguments)["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("model", ["caller", "plain", "channels"])
@pytest.mark.parametrize("limit", [1, 2, 3, 8, 13, 21, 34])
async def test_forced_call_that_the_limit_cuts_has_no_content(
    backend: MLXBackend, model: str, limit: int
) -> None:
    request = chat(
        "?",
        model,
        tools=(WEATHER,),
        tool_choice="required",
        sampling=WILD,
        reasoning_effort=None if model == "channels" else "none",
        max_tokens=limit,
    )
    said = told(await answer(backend, request))
    assert said["reason"] == "length"
    assert said["text"] == ""


@pytest.mark.slow
async def test_an_effort_is_refused_where_nothing_thinks(backend: MLXBackend) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        await answer(backend, chat(model="plain", reasoning_effort="high"))
    assert caught.value.param == "reasoning_effort"
    assert told(await answer(backend, chat(model="plain", reasoning_effort="none")))["text"]


@pytest.mark.parametrize("fields", [{"tools": (WEATHER,)}, {"reasoning_effort": "low"}])
async def test_raw_text_with_what_only_a_chat_has_is_refused(
    backend: MLXBackend, fields: dict[str, Any]
) -> None:
    request = GenerationRequest(model="caller", prompt="x", **fields)
    with pytest.raises(InvalidRequestError, match="chats only") as caught:
        await answer(backend, request)
    assert caught.value.param in fields


def logprobs_of(events: list[Event]) -> list[Any]:
    return [each for e in events if isinstance(e, TextDelta) for each in e.logprobs or ()]


async def test_every_token_of_the_text_has_its_probability(backend: MLXBackend) -> None:
    events = await answer(backend, chat(model="plain", top_logprobs=20, max_tokens=30))
    entries = logprobs_of(events)
    text = b"".join(bytes(each.bytes) for each in entries).decode("utf-8", "replace")
    assert text == told(events)["text"]
    for each in entries:
        assert len(each.top) == 20
        assert each.logprob == pytest.approx(each.top[0].logprob)  # Greedy: the likeliest.
        values = [top.logprob for top in each.top]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1.0001


@pytest.mark.slow
async def test_probabilities_are_of_what_is_shown_only(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    engine.say(f"<think>no</think>shown{CALL}")
    events = await answer(backend, chat(tools=(WEATHER,), top_logprobs=0))
    assert [each.token for each in logprobs_of(events)] == list("shown")


@pytest.mark.slow
async def test_a_control_token_among_the_likeliest_has_its_name(backend: MLXBackend) -> None:
    bias = Sampling(temperature=0, logit_bias={END: -100})
    events = await answer(
        backend, chat(model="plain", top_logprobs=20, max_tokens=200, sampling=bias)
    )
    tops = [top for each in logprobs_of(events) for top in each.top]
    named = [top for top in tops if top.token == "<|im_end|>"]
    assert named
    assert all(top.bytes == () for top in named)
    assert all(top.token for top in tops)


async def test_token_ids_are_continued_with_probabilities(backend: MLXBackend) -> None:
    request = GenerationRequest(
        model="plain", prompt=TokenIds((65, 66, 67)), max_tokens=4, top_logprobs=2
    )
    events = await answer(backend, request)
    assert usage_of(events).prompt_tokens == 3
    assert len(logprobs_of(events)) == 4


@pytest.mark.slow
async def test_temperature_is_one_where_neither_request_nor_model_has_one(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "silent", temperature=None)
    write_tiny_model(tmp_path / "greedy", temperature=0)
    backend = MLXBackend(config_for(tmp_path))

    async def text(model: str, temperature: float | None = None, **fields: Any) -> str:
        sampling = Sampling(temperature=temperature, seed=5)
        return told(await answer(backend, chat("Hi", model, sampling=sampling, **fields)))["text"]

    try:
        assert await text("silent") == await text("silent", 1.0)
        assert await text("silent", 0) == await text("greedy")
        assert await text("silent") != await text("greedy")
        narrow = Sampling(temperature=0.5, top_k=1)
        assert await text("silent", default_sampling=narrow) == await text("greedy")
        assert await text("silent", 1.0, default_sampling=narrow) == await text("greedy")
    finally:
        await backend.aclose()
