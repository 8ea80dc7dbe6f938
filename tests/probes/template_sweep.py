"""Conversations that clients have, put to a chat template in a tiny MLX model.

A check renders the prompt as the server does and looks for the texts of the conversation in it, in
their order; or lets the model answer: a forced call, a schema, a call as the template writes it.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from fakes.scripted_model import answer, config_for, saying, told
from fakes.tiny_model import write_tiny_model
from transformers.utils.chat_template_utils import render_jinja_template

from adapters.errors import BackendError
from adapters.mlx.backend import MLXBackend
from adapters.mlx.jobs import finish
from adapters.mlx.models.load import LoadedModel, load_folder
from adapters.mlx.models.load_progress import Loading
from adapters.mlx.prompt.chat import render
from adapters.request import (
    GenerationRequest,
    JSONSchema,
    Message,
    ReasoningEffort,
    TextPart,
    Tool,
    ToolCall,
)

TEMPLATES = Path(__file__).parents[1] / "data" / "chat-templates"
CONTEXT = 65_536
LOOKUP = Tool(
    "lookup",
    "Looks a place up.",
    {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "A city", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "exact": {"type": "boolean"},
        },
        "required": ["place", "days"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(
    "clock",
    "Tells the time.",
    {"type": "object", "properties": {}, "additionalProperties": False},
)
TOOLS = (LOOKUP, CLOCK)
ARGUMENTS: dict[str, Any] = {"place": "Oslo", "days": 3, "exact": True}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer", "maximum": 9}},
    "required": ["colour", "size"],
    "additionalProperties": False,
}
OK = "ok"
NONE = "-"
"""The question does not arise for this template."""


class Subject(NamedTuple):
    """A chat template in a loaded model."""

    template: str
    backend: MLXBackend
    model: LoadedModel
    patch: pytest.MonkeyPatch

    def request(self, messages: tuple[Message, ...], **fields: Any) -> GenerationRequest:
        chosen = {"max_tokens": 400, **fields}
        return GenerationRequest(model=self.model.name, prompt=messages, **chosen)

    def prompt(self, messages: tuple[Message, ...], **fields: Any) -> tuple[str, tuple[str, ...]]:
        """Return the text of the prompt, and what was done with the messages."""
        prompt = render(self.model, self.request(messages, **fields))
        return str(self.model.tokenizer.decode(prompt.ids)), prompt.rewritten

    @property
    def without_thinking(self) -> ReasoningEffort | None:
        """The effort of requests for an answer: a model with random weights never ends a thought.

        A model with channels cannot do without one where there are tools.
        """
        reasoning = self.model.reasoning
        return None if reasoning is None or reasoning.is_harmony else "none"


Check = Callable[[Subject], Awaitable[str]]


def user(*texts: str) -> Message:
    return Message(role="user", content=tuple(TextPart(text) for text in texts))


def system(*texts: str) -> Message:
    return Message(role="system", content=tuple(TextPart(text) for text in texts))


def assistant(text: str = "", *calls: ToolCall, thought: str | None = None) -> Message:
    content = (TextPart(text),) if text else ()
    return Message(role="assistant", content=content, tool_calls=calls, reasoning=thought)


def call(name: str, arguments: dict[str, Any], number: int = 1) -> ToolCall:
    return ToolCall(f"call_{number:024x}", name, json.dumps(arguments))


def result(text: str, number: int = 1, *more: str) -> Message:
    parts = tuple(TextPart(part) for part in (text, *more))
    return Message(role="tool", content=parts, tool_call_id=f"call_{number:024x}")


LOOK = call("lookup", ARGUMENTS)
AGAIN = call("lookup", {"place": "Bergen", "days": 5}, 2)
TIME = call("clock", {}, 3)

CONVERSATIONS: dict[str, tuple[tuple[Message, ...], tuple[str, ...], dict[str, Any]]] = {
    "question": ((user("Question1"),), ("Question1",), {}),
    "parts": ((user("Part1", "Part2"),), ("Part1", "Part2"), {}),
    "turns": (
        (user("Ask1"), assistant("Reply1"), user("Ask2")),
        ("Ask1", "Reply1", "Ask2"),
        {},
    ),
    "system first": ((system("Rule1"), user("Ask1")), ("Rule1", "Ask1"), {}),
    "two system": (
        (system("Rule1"), system("Rule2"), user("Ask1")),
        ("Rule1", "Rule2", "Ask1"),
        {},
    ),
    "system late": (
        (system("Rule1"), user("Ask1"), assistant("Reply1"), system("Rule2"), user("Ask2")),
        ("Rule1", "Ask1", "Reply1", "Rule2", "Ask2"),
        {},
    ),
    "system last": ((user("Ask1"), system("Rule1")), ("Ask1", "Rule1"), {}),
    "system alone": ((system("Rule1"),), ("Rule1",), {}),
    "two users": ((user("Ask1"), user("Ask2")), ("Ask1", "Ask2"), {}),
    "two assistants": (
        (user("Ask1"), assistant("Reply1"), assistant("Reply2"), user("Ask2")),
        ("Ask1", "Reply1", "Reply2", "Ask2"),
        {},
    ),
    "tools": ((user("Ask1"),), ("lookup", "place", "Ask1"), {"tools": TOOLS}),
    "one call": (
        (user("Ask1"), assistant("", LOOK), result("Result1")),
        ("Ask1", "lookup", "Oslo", "Result1"),
        {"tools": TOOLS},
    ),
    "call, then a turn": (
        (user("Ask1"), assistant("", LOOK), result("Result1"), assistant("Reply1"), user("Ask2")),
        ("Ask1", "lookup", "Oslo", "Result1", "Reply1", "Ask2"),
        {"tools": TOOLS},
    ),
    "two calls": (
        (user("Ask1"), assistant("", LOOK, AGAIN), result("Result1"), result("Result2", 2)),
        ("Ask1", "Oslo", "Bergen", "Result2"),
        {"tools": TOOLS},
    ),
    "no arguments": (
        (user("Ask1"), assistant("", TIME), result("Result1", 3)),
        ("Ask1", "clock", "Result1"),
        {"tools": TOOLS},
    ),
    "text and call": (
        (user("Ask1"), assistant("Before1", LOOK), result("Result1")),
        ("Ask1", "Before1", "Oslo", "Result1"),
        {"tools": TOOLS},
    ),
    "result in parts": (
        (user("Ask1"), assistant("", LOOK), result("Result1", 1, "Result2")),
        ("Ask1", "Oslo", "Result1", "Result2"),
        {"tools": TOOLS},
    ),
    "calls, no tools": (
        (user("Ask1"), assistant("", LOOK), result("Result1"), assistant("Reply1"), user("Ask2")),
        ("Ask1", "lookup", "Oslo", "Result1", "Reply1", "Ask2"),
        {},
    ),
    "thought": (
        (user("Ask1"), assistant("", LOOK, thought="Thought1"), result("Result1")),
        ("Ask1", "Thought1", "Oslo", "Result1"),
        {"tools": TOOLS, "reasoning_effort": "high"},
    ),
}
"""Name -> the messages, the texts that the prompt has to have in this order, and other fields."""


def shows(name: str) -> Check:
    """Check that the prompt of a conversation has its texts, in their order."""
    messages, texts, fields = CONVERSATIONS[name]

    async def check(subject: Subject) -> str:
        if name == "thought" and subject.model.reasoning is None:
            return NONE
        prompt, done = subject.prompt(messages, **fields)
        if name == "thought" and "thoughts-left-out" in done:
            return OK  # The answer's header says so.
        # The tools are described before the conversation, with the same names.
        at = prompt.find("Ask1") if texts[0] == "Ask1" else 0
        for text in texts:
            # A template may put every system message in front.
            where = prompt.find(text, 0 if text.startswith("Rule") else at)
            if where < 0:
                return f"{text} is left out"
            at = max(at, where) if not text.startswith("Rule") else at
        if name == "two calls" and not _in_turn(prompt):
            return "Result1 is left out"
        return OK

    return check


def _in_turn(prompt: str) -> bool:
    """True if both results follow their calls, in whichever order calls and results are told."""
    return prompt.find("Oslo") < prompt.find("Result1") < prompt.find("Result2")


async def forced(subject: Subject) -> str:
    fields = {
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": subject.without_thinking,
    }
    said = told(await answer(subject.backend, subject.request((user("Ask1"),), **fields)))
    if not said["calls"]:
        return "no call"
    name, arguments = said["calls"][0]
    schema = next(tool.parameters for tool in TOOLS if tool.name == name)
    jsonschema.validate(json.loads(arguments), schema or {})
    return OK


async def schema(subject: Subject) -> str:
    effort = subject.without_thinking
    request = subject.request(
        (user("Ask1"),), response_format=JSONSchema(SCHEMA), reasoning_effort=effort
    )
    said = told(await answer(subject.backend, request))
    jsonschema.validate(json.loads(said["text"]), SCHEMA)
    return OK


async def effort(subject: Subject) -> str:
    efforts: tuple[ReasoningEffort, ...] = ("none", "low", "high")
    if subject.model.reasoning is None:
        return NONE
    for level in efforts:
        prompt, _ = subject.prompt((user("Ask1"),), reasoning_effort=level)
        if "Ask1" not in prompt:
            return f"Ask1 is left out ({level})"
    return OK


async def call_is_read(subject: Subject) -> str:
    """Check that a call which the template writes is read as that call."""
    written = written_call(subject.template)
    if written is None:
        return NONE
    with saying(subject.patch, written):
        effort = subject.without_thinking
        request = subject.request((user("Ask1"),), tools=TOOLS, reasoning_effort=effort)
        said = told(await answer(subject.backend, request))
    calls = [[name, json.loads(arguments)] for name, arguments in said["calls"]]
    return OK if calls == [["lookup", ARGUMENTS]] else f"read as {calls or 'text'}"


def written_call(template: str) -> str | None:
    """The text of the assistant that a template makes of a call; `None` if it has none."""
    question = {"role": "user", "content": "Ask1"}
    for arguments in (ARGUMENTS, json.dumps(ARGUMENTS)):
        for content in ({"content": ""}, {}, {"content": None}):
            made = {
                "id": "abcdef123",
                "type": "function",
                "function": {"name": "lookup", "arguments": arguments},
            }
            turn = {"role": "assistant", **content, "tool_calls": [made]}
            text = rendered(template, [question, turn], False)
            is_whole = text is not None and re.search(r"Oslo", text[text.rfind("Ask1") :])
            if text is None or not is_whole or '\\"place' in text or "{'place" in text:
                continue
            return _answer_in(template, question, text)
    return None


def _answer_in(template: str, question: dict[str, Any], text: str) -> str:
    """The part of a rendered conversation that its last turn has to itself."""
    said = {"role": "assistant", "content": "Said1"}
    plain = rendered(template, [question, said], False) or ""
    header, _, end = plain.partition("Said1")
    prompt = rendered(template, [question], True) or ""
    begin = max((len(part) for part in (header, prompt) if text.startswith(part)), default=0)
    if not begin:
        shared = [_shared(header, text), _shared(prompt, text)]
        begin = max(shared)
    answer = text[begin:]
    return answer.removesuffix(end) if end.strip() else answer


def _shared(a: str, b: str) -> int:
    """The length of the common beginning, without a part of a marker."""
    length = next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    opened = b.rfind("<", 0, length)
    return opened if opened > b.rfind(">", 0, length) else length


def rendered(template: str, messages: list[Any], generate: bool) -> str | None:
    """The text that transformers makes of a conversation; `None` if the template fails."""
    tools: Any = [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
        }
        for t in TOOLS
    ]
    try:
        texts, _ = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=template,
            add_generation_prompt=generate,
            bos_token="",
            eos_token="<|im_end|>",
        )
    except Exception:
        return None
    return str(texts[0])


CHECKS: dict[str, Check] = {
    **{name: shows(name) for name in CONVERSATIONS},
    "forced call": forced,
    "schema": schema,
    "effort": effort,
    "call is read": call_is_read,
}


async def sweep(template: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, str]:
    """Put every check to a template. Returns `ok`, `-` or the fault, by the name of the check."""
    write_tiny_model(folder / "caller", template=template, context=CONTEXT, temperature=1.0)
    backend = MLXBackend(config_for(folder))
    try:
        model = finish(load_folder(folder / "caller", "never", Loading("caller")))
        subject = Subject(template, backend, model, patch)
        return {name: await _outcome(check, subject) for name, check in CHECKS.items()}
    finally:
        await backend.aclose()


async def _outcome(check: Check, subject: Subject) -> str:
    try:
        return await check(subject)
    except BackendError as error:
        return f"{type(error).__name__}: {error.message}"[:160]
    except (jsonschema.ValidationError, ValueError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def templates() -> Iterator[tuple[str, str]]:
    for file in sorted(TEMPLATES.glob("*.jinja")):
        yield file.stem, file.read_text(encoding="utf-8")
