"""Sections of answers in the syntax of each template, at once and in any pieces."""

import json
import random
from typing import Any

import pytest

from adapters.chat_template.thought_markers import HARMONY_START
from adapters.mlx.output.parse import create_reader
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.tool_calls import PLAIN_JSON, ToolSyntax
from adapters.mlx.output.tool_calls.output_pieces import Piece
from adapters.mlx.output.tool_calls.syntax import (
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    HARMONY,
    HERMES,
    KIMI_K2,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    find_by_name,
)
from adapters.request import Tool

THINK = Reasoning("<think>", "</think>")
CHANNELS = Reasoning(HARMONY_START, "<|end|>")
TOOLS = (
    Tool(
        "weather",
        "Tells the weather.",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    ),
    Tool("now"),
)
Read = dict[str, Any]


def read(
    chunks: list[str],
    syntax: ToolSyntax | None = None,
    reasoning: Reasoning | None = None,
    *,
    tools: tuple[Tool, ...] = TOOLS,
    is_open: bool = False,
    hidden: tuple[str, ...] = (),
) -> tuple[Read, list[Piece]]:
    reader = create_reader(reasoning, is_open=is_open, syntax=syntax, tools=tools, hidden=hidden)
    assert reader is not None
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)] + reader.finish()
    result: Read = {"content": "", "reasoning": "", "calls": [], "complete": 0}
    for piece in pieces:
        match piece.kind:
            case "content" | "reasoning":
                result[piece.kind] += piece.text
            case "call":
                result["calls"].append([piece.text, ""])
            case "arguments":
                result["calls"][-1][1] += piece.text
            case "end":
                result["complete"] += 1
            case "marker":
                pass
    return result, pieces


def meant(content: str = "", *calls: tuple[str, Any], reasoning: str = "") -> Read:
    return {
        "content": content,
        "reasoning": reasoning,
        "calls": [list(call) for call in calls],
        "complete": len(calls),
    }


def loaded(result: Read) -> Read:
    return {**result, "calls": [[name, json.loads(text)] for name, text in result["calls"]]}


PARIS = ("weather", {"city": "Paris"})
OSLO = ("weather", {"city": "Oslo", "days": 2})

# syntax, reasoning, what the model writes, what it means
CASES: dict[str, tuple[ToolSyntax | None, Reasoning | None, str, Read]] = {
    "hermes": (
        HERMES,
        None,
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call>",
        meant("Let me see.", PARIS),
    ),
    "hermes, two spans": (
        HERMES,
        None,
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>',
        meant("", PARIS, OSLO),
    ),
    "hermes, an array in one span": (
        HERMES,
        None,
        '<tool_call>[{"name": "weather", "arguments": {"city": "Paris"}}, '
        '{"name": "now", "arguments": {}}]</tool_call>',
        meant("", PARIS, ("now", {})),
    ),
    "hermes, the marker inside a string": (
        HERMES,
        None,
        '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call> {\\"x\\"}"}}'
        "</tool_call>",
        meant("", ("weather", {"city": '</tool_call> {"x"}'})),
    ),
    "hermes, arguments first": (
        HERMES,
        None,
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "weather"}</tool_call>',
        meant("", PARIS),
    ),
    "hermes, arguments as a string": (
        HERMES,
        None,
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        meant("", PARIS),
    ),
    "hermes, no arguments": (
        HERMES,
        None,
        '<tool_call>{"name": "now"}</tool_call>',
        meant("", ("now", {})),
    ),
    "hermes, a brace too few": (
        HERMES,
        None,
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}</tool_call>',
        meant("", PARIS),
    ),
    "hermes, a brace too many": (
        HERMES,
        None,
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}}</tool_call>',
        meant("", PARIS),
    ),
    "hermes, a line break in a string": (
        HERMES,
        None,
        '<tool_call>{"name": "weather", "arguments": {"city": "a\nb"}}</tool_call>',
        meant("", ("weather", {"city": "a\nb"})),
    ),
    "hermes, nested values": (
        HERMES,
        None,
        '<tool_call>{"id": 7, "name": "now", "x": [1, {"name": "no"}], "arguments": '
        '{"a": [1.5e3, -2, true, null, {"b": {}}], "arguments": "é🙂\\u00e9"}}</tool_call> Done.',
        meant(
            "Done.",
            ("now", {"a": [1500.0, -2, True, None, {"b": {}}], "arguments": "é🙂é"}),
        ),
    ),
    "hermes, an unknown function": (
        HERMES,
        None,
        'a <tool_call>{"name": "rm", "arguments": {}}</tool_call> b',
        meant('a <tool_call>{"name": "rm", "arguments": {}}</tool_call> b'),
    ),
    "hermes, no JSON, then a call": (
        HERMES,
        None,
        'a <tool_call>oops</tool_call> <tool_call>{"name": "now"}</tool_call>',
        meant("a <tool_call>oops</tool_call>", ("now", {})),
    ),
    "hermes, cut before the name": (
        HERMES,
        None,
        'Well <tool_call>\n{"name": "wea',
        meant('Well <tool_call>\n{"name": "wea'),
    ),
    "hermes, a marker that is none": (
        HERMES,
        None,
        "a <tool_cal b <tool_",
        meant("a <tool_cal b <tool_"),
    ),
    "thinking, then an answer": (
        None,
        THINK,
        "<think>\nHmm, x < y.\n</think>\n\nYes.\n",
        meant("Yes.\n", reasoning="Hmm, x < y."),
    ),
    "thinking, then a call": (
        HERMES,
        THINK,
        '<think>\nOne\n\ntwo</think>\n\n<tool_call>\n{"name": "now"}\n</tool_call>',
        meant("", ("now", {}), reasoning="One\n\ntwo"),
    ),
    "thinking that never ends": (
        HERMES,
        THINK,
        "<think>on and on </thin",
        meant("", reasoning="on and on </thin"),
    ),
    "no thinking": (None, THINK, "  The tag <think> is text.", meant("  The tag <think> is text.")),
    "llama, bare": (
        LLAMA,
        None,
        '{"name": "weather", "parameters": {"city": "Paris"}}',
        meant("", PARIS),
    ),
    "llama, two": (
        LLAMA,
        None,
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; '
        '{"type": "function", "name": "now", "parameters": {}}',
        meant("", PARIS, ("now", {})),
    ),
    "llama, JSON that is no call": (
        LLAMA,
        None,
        '{"city": "Paris", "population": 2}',
        meant('{"city": "Paris", "population": 2}'),
    ),
    "plain JSON, an array": (
        PLAIN_JSON,
        None,
        ' [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
        meant("", PARIS, ("now", {})),
    ),
    "plain JSON, text": (PLAIN_JSON, None, "Hello {you} [there]", meant("Hello {you} [there]")),
    "mistral": (
        MISTRAL,
        None,
        '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]abc123[ARGS]{}',
        meant("", PARIS, ("now", {})),
    ),
    "mistral, an unknown function": (
        MISTRAL,
        None,
        "[TOOL_CALLS]rm[ARGS]{}",
        meant("[TOOL_CALLS]rm[ARGS]{}"),
    ),
    "mistral, the older form": (
        MISTRAL_LIST,
        None,
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "abcdefghi"}]',
        meant("", PARIS),
    ),
    "deepseek v3": (
        DEEPSEEK_V3,
        THINK,
        "<think>x</think>\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
        '```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        meant("", PARIS, ("now", {}), reasoning="x"),
    ),
    "deepseek v3.1": (
        DEEPSEEK_V31,
        None,
        "Ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
        '{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        meant("Ok", PARIS),
    ),
    "kimi k2": (
        KIMI_K2,
        None,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
        '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>'
        "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        meant("", PARIS, ("now", {})),
    ),
    "harmony": (
        HARMONY,
        CHANNELS,
        "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.weather <|constrain|>json<|message|>{"city": "Paris"}',
        meant("", PARIS, reasoning="Need it."),
    ),
    "harmony, the recipient before the channel": (
        HARMONY,
        CHANNELS,
        " to=functions.weather<|channel|>commentary<|constrain|>json<|message|>"
        '{"city": "Paris"}<|call|>',
        meant("", PARIS),
    ),
    "harmony, an answer": (
        None,
        CHANNELS,
        "<|channel|>analysis<|message|>Hm <|end|><|start|>assistant<|channel|>final<|message|>"
        "Hello.",
        meant("Hello.", reasoning="Hm "),
    ),
    "harmony, an unknown function": (
        HARMONY,
        CHANNELS,
        '<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{"a": 1}',
        meant('{"a": 1}'),
    ),
    "harmony, no channels": (HARMONY, CHANNELS, "Hello there", meant("Hello there")),
    "qwen3 coder": (
        find_by_name("qwen3_coder"),
        None,
        "Ok.\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
        meant("Ok.", OSLO),
    ),
    "qwen3 coder, as JSON": (
        find_by_name("qwen3_coder"),
        None,
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        meant("", PARIS),
    ),
    "qwen3 coder, an unknown function": (
        find_by_name("qwen3_coder"),
        None,
        "a <tool_call>\n<function=rm>\n</function>\n</tool_call> b",
        meant("a <tool_call>\n<function=rm>\n</function>\n</tool_call> b"),
    ),
    "glm 4.7": (
        find_by_name("glm47"),
        THINK,
        "<think>x</think>\n<tool_call>weather<arg_key>city</arg_key><arg_value>Oslo</arg_value>\n"
        "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call>",
        meant("", OSLO, reasoning="x"),
    ),
    "laguna": (
        find_by_name("laguna"),
        None,
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>",
        meant("", PARIS),
    ),
    "gemma 4": (
        find_by_name("gemma4"),
        None,
        '<|tool_call>call:weather{city:<|"|>Oslo<|"|>,days:2}<tool_call|>',
        meant("", OSLO),
    ),
    "function gemma": (
        find_by_name("function_gemma"),
        None,
        "<start_function_call>call:weather{city:<escape>Oslo<escape>,days:2}<end_function_call>",
        meant("", OSLO),
    ),
    "longcat": (
        find_by_name("longcat"),
        None,
        "<longcat_tool_call>weather\n<longcat_arg_key>city</longcat_arg_key>\n"
        "<longcat_arg_value>Paris</longcat_arg_value>\n</longcat_tool_call>",
        meant("", PARIS),
    ),
    "minicpm 5": (
        find_by_name("minicpm5"),
        None,
        '<function name="weather"><param name="city">Oslo</param><param name="days">2</param>'
        "</function>",
        meant("", OSLO),
    ),
    "minimax m2": (
        find_by_name("minimax_m2"),
        THINK,
        '<think>x</think>\n<minimax:tool_call>\n<invoke name="weather">\n'
        '<parameter name="city">Paris</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n'
        "</minimax:tool_call>",
        meant("", PARIS, ("now", {}), reasoning="x"),
    ),
    "muse spark": (
        find_by_name("muse_spark"),
        None,
        '<atem:function_calls><atem:invoke name="weather">'
        '<atem:parameter name="city">Paris</atem:parameter></atem:invoke></atem:function_calls>',
        meant("", PARIS),
    ),
    "kimi k3": (
        find_by_name("kimi_k3"),
        None,
        '<|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|>'
        '<|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|>",
        meant("", PARIS),
    ),
    "pythonic": (
        find_by_name("pythonic"),
        None,
        '<|tool_call_start|>[weather(city="Oslo", days=2), now()]<|tool_call_end|>Done.',
        meant("Done.", OSLO, ("now", {})),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_model_writes_is_read_as_its_template_means_it(name: str) -> None:
    syntax, reasoning, text, expected = CASES[name]
    result, _ = read([text], syntax, reasoning)
    assert loaded(result) == expected


@pytest.mark.parametrize("name", CASES)
def test_no_character_is_lost_and_none_comes_twice(name: str) -> None:
    syntax, reasoning, text, _ = CASES[name]
    _, pieces = read([text], syntax, reasoning)
    assert "".join(piece.source for piece in pieces) == text


def cut(text: str, seed: int) -> list[str]:
    rng = random.Random(seed)  # noqa: S311 - a fixed sequence is the point.
    longest = rng.choice((1, 2, 3, 8, 40))
    chunks: list[str] = []
    while text:
        at = rng.randint(1, longest)
        chunks.append(text[:at])
        text = text[at:]
    return chunks


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_the_same_however_it_is_cut(name: str) -> None:
    syntax, reasoning, text, _ = CASES[name]
    whole, _ = read([text], syntax, reasoning)
    for seed in range(40):
        chunks = cut(text, seed)
        result, pieces = read(chunks, syntax, reasoning)
        assert result == whole, chunks
        assert "".join(piece.source for piece in pieces) == text, chunks


@pytest.mark.parametrize("seed", range(200))
def test_mangled_answers_are_read_alike_whole_and_in_pieces(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a fixed sequence is the point.
    syntax, reasoning, text, _ = CASES[rng.choice(sorted(CASES))]
    for _ in range(rng.randint(1, 4)):
        at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        text = rng.choice((text[:at] + text[to:], text[:at] + text[:to], text[:to], text + text))
    whole, pieces = read([text], syntax, reasoning)
    assert "".join(piece.source for piece in pieces) == text
    assert read([*text], syntax, reasoning)[0] == whole
    assert read(cut(text, seed), syntax, reasoning)[0] == whole


def test_arguments_are_passed_on_while_they_are_written() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
    _, pieces = read([*text], HERMES)
    deltas = [piece.text for piece in pieces if piece.kind == "arguments"]
    assert deltas == [*'{"city": "Paris"}']


def test_a_call_that_breaks_off_keeps_what_was_passed_on() -> None:
    result, _ = read(['<tool_call>{"name": "weather", "arguments": {"city": Paris}}'], HERMES)
    assert result["calls"] == [["weather", '{"city": ']]
    assert result["content"] == "Paris}}"
    assert result["complete"] == 0


def test_thinking_goes_on_where_the_prompt_began_it() -> None:
    result, _ = read(["\nHm.\n</think>\n\nYes."], None, THINK, is_open=True)
    assert result == meant("Yes.", reasoning="Hm.")


def test_a_control_token_is_hidden_even_where_it_opens_no_call() -> None:
    result, _ = read(["a<|python_tag|>print(1)"], LLAMA, hidden=("<|python_tag|>",))
    assert result == meant("aprint(1)")


def test_without_tools_nothing_is_read_as_a_call() -> None:
    reader = create_reader(None, is_open=False, syntax=HERMES, tools=())
    assert reader is None
    result, _ = read(['<think>x</think><tool_call>{"name": "now"}'], HERMES, THINK, tools=())
    assert result == meant('<tool_call>{"name": "now"}', reasoning="x")
