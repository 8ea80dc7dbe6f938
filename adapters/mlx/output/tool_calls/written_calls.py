"""Learn the notation of calls from a chat template: render calls that differ in one thing, compare.

A template writes the calls of an assistant's turn as the model was trained to write them. The text
of a call without its name and arguments is what is common to calls of several names; the text
between two calls is what a turn with two has more than a turn with one.
"""

import json
import re
from typing import Any, NamedTuple

from msgspec.structs import replace

from adapters.chat_template.plan import Plan
from adapters.chat_template.probing import Probe, Probing
from adapters.chat_template.rewriting import rewrite
from adapters.mlx.output.tool_calls.comparison import MARKER, plain_shared_end, shared, shared_end
from adapters.mlx.output.tool_calls.syntax import (
    HARMONY,
    ID,
    INDEX,
    KEY,
    NAME,
    Parameters,
    ToolSyntax,
    Value,
)
from adapters.mlx.output.tool_calls.tagged_calls import loose
from adapters.request import Message, TextPart, Tool, ToolCall

_SAID, _ASKED = "Wombat", "Quokka"
_IDS = ("call_0123456789abcdef01234567", "call_76543210fedcba9876543210")


def _tool(name: str) -> Tool:
    kinds = {"string": "sort", "integer": "total", "boolean": "whole", "object": "extra"}
    properties: dict[str, Any] = {"place": {"type": "string", "description": "A text"}}
    properties |= {key: {"type": kind, "description": "A value"} for kind, key in kinds.items()}
    return Tool(name, "Do it.", {"type": "object", "properties": properties})


TOOLS = (_tool("find_moon"), _tool("light_lamp"))
_FIRST, _SECOND = (tool.name for tool in TOOLS)
_ASK = Message(role="user", content=(TextPart(_ASKED),))


class Parts(NamedTuple):
    """The texts around the arguments of the calls of one turn."""

    opening: str
    """Before the first call."""
    before: str
    """From the beginning of a call to its arguments; the name is `NAME`."""
    after: str
    between: str
    closing: str


class _Turn(NamedTuple):
    """Texts that a template writes for one turn: before its calls, between them, after."""

    before: str
    between: str | None
    after: str


def learn_syntax(
    plan: Plan, ends: frozenset[str] = frozenset(), thought: tuple[str, str] | None = None
) -> Probing[ToolSyntax | None]:
    """Learn the syntax of calls; `None` if the template writes no calls, or in no known way.

    `plan`: that of the same template. `ends`: the texts of tokens that end an answer.
    `thought`: the markers around reasoning, which a template may write empty before calls.
    """
    if "a call" in plan.refused or "calls-as-text" in plan.rewrites:
        return None
    page = yield from read_page(plan, ends, thought)
    if page is None:
        return None
    turn = yield from _turn_with_json(plan, page)
    parameters: Parameters | None = None
    if turn is None:
        parameters = yield from _learn_parameters(plan, page)
        turn = None if parameters is None else (yield from _turn_with(plan, page, parameters))
    if turn is None:
        return None
    parts = _split(turn)
    return None if parts is None else to_syntax(parts, parameters, page.end)


class Page(NamedTuple):
    """The text around an assistant's turn."""

    header: str
    """The conversation before a text."""
    prompt: str
    """The conversation before an answer."""
    end: str
    """The text that follows a text of the assistant."""
    ends: frozenset[str]
    thought: tuple[str, str] | None = None

    def answer(self, text: str) -> str:
        """Return the part of a rendered conversation that its last turn has to itself."""
        whole = [len(p) for p in (self.header, self.prompt) if text.startswith(p)]
        begin = max(whole) if whole else max(shared(p, text) for p in (self.header, self.prompt))
        answer = text[begin:]
        for end in self.ends:
            at = answer.find(end, len(answer.rstrip()) - len(end) - 40 if len(answer) > 40 else 0)
            if at > 0:
                answer = answer[:at]
        tail = shared_end(self.end, answer)
        return self._without_empty_thought(answer[: len(answer) - tail])

    def _without_empty_thought(self, answer: str) -> str:
        if self.thought is None:
            return answer
        start, end = map(re.escape, self.thought)
        return re.sub(rf"\A\s*{start}\s*{end}", "", answer)


def read_page(
    plan: Plan, ends: frozenset[str], thought: tuple[str, str] | None = None
) -> Probing[Page | None]:
    said = Message(role="assistant", content=(TextPart(_SAID),))
    plain = yield _probe(plan, (_ASK, said), generate=False)
    prompt = yield _probe(plan, (_ASK,), generate=True)
    if not isinstance(plain, str) or not isinstance(prompt, str) or _SAID not in plain:
        return None
    header, _, end = plain.partition(_SAID)
    return Page(header, prompt, end, ends, thought)


def _probe(plan: Plan, messages: tuple[Message, ...], *, generate: bool) -> Probe:
    told = rewrite(messages, plan.rewrites).messages
    return Probe(told, TOOLS, generate, plan.form)


def _write(plan: Plan, page: Page, *arguments: dict[str, Any]) -> Probing[str | None]:
    """Return what the template writes for calls with these arguments, its holes for what varies."""
    calls = tuple(
        ToolCall(id_, name, json.dumps(values, ensure_ascii=False))
        for id_, name, values in zip(_IDS, (_FIRST, _SECOND), arguments, strict=False)
    )
    probe = _probe(plan, (_ASK, Message(role="assistant", tool_calls=calls)), generate=False)
    text = yield probe
    if not isinstance(text, str):
        return None
    answer = page.answer(text)
    for call in probe.messages[-1].tool_calls:
        answer = answer.replace(call.id, ID)
    for name in (_FIRST, _SECOND):
        answer = answer.replace(name, NAME)
    return answer


# Arguments as JSON.

_ARGUMENTS = ({"place": "Ushuaia"}, {"place": "Tromso"})


def _turn_with_json(plan: Plan, page: Page) -> Probing[_Turn | None]:
    one = yield from _write(plan, page, _ARGUMENTS[0])
    if one is None or (span := _find_json(one, _ARGUMENTS[0])) is None:
        return None
    before, after = one[: span[0]], one[span[1] :]
    if "calls-one-by-one" in plan.rewrites:
        return _Turn(before, None, after)
    two = yield from _write(plan, page, *_ARGUMENTS)
    spans = [] if two is None else [_find_json(two, values) for values in _ARGUMENTS]
    if two is None or spans[0] is None or spans[1] is None:
        return _Turn(before, None, after)
    return _Turn(before, two[spans[0][1] : spans[1][0]], after)


def _find_json(text: str, value: Any) -> tuple[int, int] | None:
    """Return where in `text` this object is written as JSON, however it is spaced."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            found, end = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if found == value:
            return match.start(), end
    return None


# Arguments as parameters, each with its key and its value.

_TEXT, _OTHER_TEXT = "Ushuaia", "Tromso"
_QUOTED = 'a "b"'


def _learn_parameters(plan: Plan, page: Page) -> Probing[Parameters | None]:
    one = yield from _write(plan, page, {"place": _TEXT})
    two = yield from _write(plan, page, {"place": _TEXT, "sort": _OTHER_TEXT})
    if one is None or two is None:
        return None
    single, first, second = (
        _cut(text, key, value)
        for text, key, value in (
            (one, "place", _TEXT),
            (two, "place", _TEXT),
            (two, "sort", _OTHER_TEXT),
        )
    )
    if single is None or first is None or second is None:
        return None
    gap = two[len(first.head) + len("place") + len(first.middle) + len(_TEXT) : len(second.head)]
    gap = gap.replace("place", KEY)
    pre = gap[len(gap) - shared_end(gap, single.head) :]
    gap = gap[: len(gap) - len(pre)]
    post = gap[: shared(gap, single.tail)]
    between = gap[len(post) :]
    string = Value(pre, single.middle, post)
    rest = single.tail[len(post) :]
    other = yield from _learn_other_value(plan, page, pre, rest)
    quoted = yield from _write(plan, page, {"place": _QUOTED})
    boolean = yield from _write(plan, page, {"whole": True})
    is_json = quoted is not None and _QUOTED not in quoted
    if is_json and string.middle.endswith('"') and post.startswith('"'):
        string = Value(pre, string.middle[:-1], post[1:])
    return Parameters(
        string=string,
        other=other or string,
        between=between,
        strings_are_json=is_json,
        python_booleans="True" in (boolean or ""),
    )


def _learn_other_value(plan: Plan, page: Page, pre: str, rest: str) -> Probing[Value | None]:
    """Learn how a number is written, which may have no quotes."""
    number = yield from _write(plan, page, {"total": 3718})
    cut = None if number is None else _cut(number, "total", "3718")
    if cut is None or not cut.tail.endswith(rest):
        return None
    return Value(pre, cut.middle, cut.tail[: len(cut.tail) - len(rest)])


class _Cut(NamedTuple):
    head: str
    middle: str
    tail: str


def _cut(text: str, key: str, value: str) -> _Cut | None:
    """Cut `text` at a key and its value. A key that is repeated after its value is `KEY`."""
    at = text.find(value)
    key_at = text.rfind(key, 0, at)
    if at < 0 or key_at < 0:
        return None
    tail = text[at + len(value) :].replace(key, KEY)
    return _Cut(text[:key_at], text[key_at + len(key) : at], tail)


def _turn_with(plan: Plan, page: Page, parameters: Parameters) -> Probing[_Turn | None]:
    one = yield from _write(plan, page, {"place": _TEXT})
    span = None if one is None else _find(one, parameters, "place", _TEXT)
    if one is None or span is None:
        return None
    before, after = one[: span[0]], one[span[1] :]
    if "calls-one-by-one" in plan.rewrites:
        return _Turn(before, None, after)
    two = yield from _write(plan, page, {"place": _TEXT}, {"place": _OTHER_TEXT})
    if two is None:
        return _Turn(before, None, after)
    spans = [_find(two, parameters, "place", value) for value in (_TEXT, _OTHER_TEXT)]
    if spans[0] is None or spans[1] is None:
        return _Turn(before, None, after)
    return _Turn(before, two[spans[0][1] : spans[1][0]], after)


def _find(text: str, parameters: Parameters, key: str, value: str) -> tuple[int, int] | None:
    written = parameters.write(key, value)
    at = text.find(written)
    return None if at < 0 else (at, at + len(written))


# Comparison.


def _split(turn: _Turn) -> Parts | None:
    """Divide the text around calls into what belongs to each call, and what does not."""
    if NAME not in turn.before and NAME not in turn.after:
        return None
    if turn.between is None:
        return Parts("", turn.before, turn.after, "", "")
    first, second = _with_index(turn.before, turn.between)
    common = shared_end(first, second)
    opening, before = first[: len(first) - common], first[len(first) - common :]
    if NAME not in before and NAME not in turn.after:
        return None
    gap = second[: len(second) - common]
    kept = shared(gap, turn.after)
    return Parts(opening, before, gap[:kept], gap[kept:], turn.after[kept:])


def _with_index(first: str, second: str) -> tuple[str, str]:
    """Replace the number of a call, 0 in the first and 1 in the second, by `INDEX`."""
    common = plain_shared_end(first, second)
    while common < min(len(first), len(second)) and _is_count(first, second, common):
        at, other = len(first) - common - 1, len(second) - common - 1
        first = f"{first[:at]}{INDEX}{first[at + 1 :]}"
        second = f"{second[:other]}{INDEX}{second[other + 1 :]}"
        common = plain_shared_end(first, second)
    return first, second


def _is_count(first: str, second: str, common: int) -> bool:
    return first[len(first) - common - 1] == "0" and second[len(second) - common - 1] == "1"


# From texts to a syntax.


def to_syntax(parts: Parts, parameters: Parameters | None, end_of_turn: str) -> ToolSyntax | None:
    """Make a syntax of the texts around calls; `None` if a call has its name in an odd place."""
    opening, before, after, between, closing = parts
    if "<|channel|>" in before and "<|message|>" in before:
        name, _, rest = before.partition(NAME)
        return replace(HARMONY, before_name=name, before_arguments=rest, also=(HARMONY,))
    if before.count(NAME) != 1 or NAME in after:
        return None
    inside = _object_span(before, after) if parameters is None else None
    lead = (opening + before).lstrip()
    shift = len(opening + before) - len(lead)
    limit = lead.index(NAME) if inside is None else len(opening) + inside[0] - shift
    is_section = bool(opening.strip())
    if is_section and parameters is not None:
        limit = min(limit, len(opening) - shift)
    begin = _beginning(lead[:limit], end_of_turn)
    rest = after + closing if inside is None else (after + closing)[inside[1] :]
    end = _ending(rest, begin)
    header = _header((opening + before).lstrip().removeprefix(begin), begin, between)
    if not is_section:
        before = before.lstrip().removeprefix(begin)
        opening, after, closing = begin, _until(after + closing, end), ""
    name, _, arguments = before.partition(NAME)
    return ToolSyntax(
        name="learned",
        body="object" if inside else "header" if parameters is None else "tagged",
        json=parameters is None,
        begin=begin,
        end=end,
        opening=opening.lstrip(),
        closing=_until(closing, end),
        before_name=name,
        before_arguments=arguments,
        after_arguments=after,
        between_calls=between if is_section else None,
        between_spans="" if is_section else between,
        parameters=parameters,
        name_is_key=inside is not None and before[: before.find(NAME)].rstrip().endswith('{"'),
        header="" if inside else header,
        marks=tuple(dict.fromkeys(MARKER.findall(_all_of(parts, parameters)))),
    )


def _until(text: str, end: str) -> str:
    """Return `text` without what follows the end of a span: it ends the turn."""
    at = text.rfind(end) if end else -1
    return text if at < 0 else text[: at + len(end)]


def _all_of(parts: Parts, parameters: Parameters | None) -> str:
    values = () if parameters is None else (*parameters.string, *parameters.other)
    return "".join((*parts, *values)).replace(KEY, "").replace(NAME, "")


def _object_span(before: str, after: str) -> tuple[int, int] | None:
    """Return where the JSON object begins in `before` and ends in `after`, if a call is one."""
    arguments = json.dumps(_ARGUMENTS[0])
    text = before + arguments + after
    for match in re.finditer(r"\{", before):
        try:
            _, end = json.JSONDecoder().raw_decode(text, match.start())
        except ValueError:
            continue
        if end > len(before) + len(arguments):
            return match.start(), end - len(before) - len(arguments)
    return None


def _beginning(lead: str, end_of_turn: str) -> str:
    """Return the text that announces a call: a marker, or all that is certain before the name."""
    lead = re.split(f"[{ID}{INDEX}]", lead)[0].rstrip().removesuffix("[").rstrip()
    marker = MARKER.match(lead)
    if marker is None or marker[0] in end_of_turn:
        return lead
    return lead.split("\n")[0] if marker[0].startswith("]") else marker[0]


def _ending(rest: str, begin: str) -> str:
    """Return the text that ends a span: the marker that belongs to the opening one, or the last."""
    markers = [match[0] for match in MARKER.finditer(rest)]
    of_begin = [marker for marker in markers if _letters(marker) == _letters(begin)]
    if of_begin or markers:
        return (of_begin or markers)[-1]
    return rest.strip().split("\n")[-1].lstrip("]},")


def _letters(marker: str) -> str:
    """Return what an opening and a closing marker have in common."""
    words: list[str] = re.findall(r"[^\W_]+", marker.lower())
    return "".join(word for word in words if word not in _SIDES)


_SIDES = frozenset(("begin", "end", "start", "stop", "open", "close", "prefix", "suffix"))


def _header(before: str, begin: str, between: str) -> str:
    """Return the regular expression of the text between the opening marker and the arguments.

    A second call may follow the first one at once, or behind its own opening marker.
    """
    again = "".join(f"(?:{loose(text)})?\\s*" for text in (between, begin) if text.strip())
    return rf"\s*{again}{loose(before.lstrip())}\s*"
