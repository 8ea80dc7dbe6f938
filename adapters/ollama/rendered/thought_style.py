"""The words around the thought and the answer of a model, seen in what its template renders.

Probes are short conversations of words that occur nowhere else. What stands between a prompt and an
answer, and around a thought, is read from the differences of their renderings: between thinking on
and off, and between a prompt and the same conversation with an answer. Markers that no rendering
shows are looked up in a table.
"""

import re

from msgspec import Struct

from adapters.chat_template import Probe, Probing, Refusal
from adapters.chat_template.thought_markers import HARMONY_START, MARKERS, markers_of_template
from adapters.request import Message, TextPart, Tool, ToolCall

_ASK, _REPLY, _MORE, _THOUGHT, _RESULT = "Quokka", "Heron", "Badger", "Lemur", "Walrus"
_NAME = "lookup"
_TOOL = Tool(_NAME, "Find it.", {"type": "object", "properties": {"place": {"type": "string"}}})
_CALL = ToolCall("call_0123456789abcdef01234567", _NAME, '{"place": "Ushuaia"}')
_TOKEN = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""A marker, as most models write them."""
_LONGEST = 120
"""Characters between a prompt and its answer; more is another message."""

_BY_PARSER: dict[str, int] = {"harmony": 0}
"""Parsers built into Ollama that think in markers which its template may not show -> `MARKERS`."""


class ThoughtStyle(Struct, frozen=True, kw_only=True):
    """The words between the prompt of a model and its answer."""

    lead: str = ""
    """Text between a prompt with thinking off and the answer, such as an empty thought."""
    opening: str | None = None
    """Text that begins a thought after a prompt with thinking on: "" where the prompt itself does;
    `None` where it is not known."""
    close: str | None = None
    """Text from the last word of a thought to the answer; `None` where it is not known."""

    @property
    def end(self) -> str:
        """The marker that ends a thought."""
        close = self.close or ""
        match = _TOKEN.search(close)
        return match[0] if match else close.strip()

    @property
    def has_thoughts(self) -> bool:
        """True if a thought can be written before an answer that is constrained."""
        return self.opening is not None and self.close is not None


class _Seen(Struct, frozen=True, kw_only=True):
    """Renderings from the question on; `None` where the template refuses."""

    on: str | None
    """Prompt with thinking on."""
    off: str
    """Prompt with thinking off."""
    answered: str | None
    """Conversation with an answer and another question, thinking off."""
    thought: str | None
    """Conversation with a thought before the answer, thinking on."""
    called: str | None
    """Conversation with a thought before a call and its result, thinking on."""
    called_only: str | None
    """Conversation with that call and no thought."""


def find_style(*, thinks: bool, template: str = "", parser: str = "") -> Probing[ThoughtStyle]:
    """Probe a model. `thinks`: Ollama lets it think; `template`: its text, where Ollama shows it;
    `parser`: the name of the one built into Ollama, if any."""
    ask = _of("user", _ASK)
    reply, more = _of("assistant", _REPLY), _of("user", _MORE)
    off = yield Probe((ask,), thinking=False)
    if isinstance(off, Refusal):
        return ThoughtStyle()
    answered = yield Probe((ask, reply, more), thinking=False)
    on = thought = called = called_only = None
    if thinks:
        on = yield Probe((ask,), thinking=True)
        thought = yield Probe((ask, _of("assistant", _REPLY, _THOUGHT), more), thinking=True)
        call = _of("assistant", _REPLY, _THOUGHT, _CALL)
        result = Message(role="tool", content=(TextPart(_RESULT),), tool_call_id=_CALL.id)
        called = yield Probe((ask, call, result), (_TOOL,), thinking=True)
        bare = _of("assistant", _REPLY, None, _CALL)
        called_only = yield Probe((ask, bare, result), (_TOOL,), thinking=True)
    seen = _Seen(
        on=_from_question(on),
        off=_from_question(off) or "",
        answered=_from_question(answered),
        thought=_from_question(thought),
        called=_from_question(called),
        called_only=_from_question(called_only),
    )
    return style_of(seen, _marker_pair(seen, template, parser) if thinks else None)


def _of(role: str, text: str, thought: str | None = None, *calls: ToolCall) -> Message:
    return Message(role=role, content=(TextPart(text),), reasoning=thought, tool_calls=calls)  # pyright: ignore[reportArgumentType]


def _from_question(text: str | Refusal | None) -> str | None:
    """Return what follows the question: what is before it depends on tools and thinking."""
    if not isinstance(text, str) or _ASK not in text:
        return None
    return text.rpartition(_ASK)[2]


def style_of(seen: _Seen, pair: tuple[str, str] | None) -> ThoughtStyle:
    """`pair`: the opening and the closing marker by the table, where it has them."""
    opening, close = None, None
    if seen.on is not None:
        for find in (_in_history, _in_call, _by_switch):
            opening, close = find(seen)
            if opening is not None and close is not None:
                break
        else:
            opening, close = _by_table(seen, pair)
    return ThoughtStyle(lead=_lead(seen, close, pair), opening=opening, close=close)


_Found = tuple[str | None, str | None]
"""The text that opens a thought, and the one that closes it."""


def _in_history(seen: _Seen) -> _Found:
    """Read both from a thought before an answer."""
    for text in (seen.thought, seen.called):
        before, thought, after = (text or "").partition(_THOUGHT)
        close, reply, _ = after.partition(_REPLY)
        if thought and reply and _NAME not in close and len(close) <= _LONGEST:
            return _opening(before, seen.on), close
    return None, None


def _in_call(seen: _Seen) -> _Found:
    """Read both from a thought before a call: what the same call without one lacks."""
    before, thought, after = (seen.called or "").partition(_THOUGHT)
    if not thought or seen.called_only is None:
        return None, None
    same = 0
    for one, other in zip(reversed(after), reversed(seen.called_only), strict=False):
        if one != other:
            break
        same += 1
    close = after[: len(after) - same]
    return _opening(before, seen.on), close if _TOKEN.search(close) else None


def _opening(before: str, prompt: str | None) -> str | None:
    """Return what follows the prompt in `before`, the text up to a thought; white space at the end
    of the prompt alone is no difference."""
    if prompt is None or len(before) > len(prompt) + _LONGEST:
        return None
    if before.startswith(prompt):
        return before[len(prompt) :]
    words = prompt.rstrip()
    return before[len(words) :].lstrip() if words and before.startswith(words) else None


def _by_switch(seen: _Seen) -> _Found:
    """Compare the prompt with thinking on and off: templates switch it off by an empty thought."""
    on, off = seen.on or "", seen.off
    same = _common(on, off)
    rest_on, rest_off = _after_turn(on[same:], off[same:])
    markers = _TOKEN.findall(rest_off)
    if not markers or len(rest_off) > _LONGEST:
        return None, None
    if rest_on.strip() or len(markers) == 1:
        # The one begins a thought, the other ends it.
        return "", rest_off
    first, second = markers[0], markers[-1]
    start, _, rest = rest_off.partition(first)
    between = rest[: rest.rfind(second)]
    half = len(between) // 2
    return start + first + between[:half], rest[half:]


def _after_turn(on: str, off: str) -> tuple[str, str]:
    """Return what is different after the question, where words in it differ as well: what follows
    the same end of both, if it has a marker."""
    for match in _TOKEN.finditer(on):
        _, same, rest = off.rpartition(on[match.start() :].rstrip())
        if same:
            return "", rest
    return on, off


def _common(one: str, other: str) -> int:
    """The length of the same beginning, never inside a marker."""
    at = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        at += 1
    for match in _TOKEN.finditer(one):
        if match.start() < at < match.end():
            return match.start()
    return at


def _by_table(seen: _Seen, pair: tuple[str, str] | None) -> _Found:
    if pair is None or seen.on is None:
        return None, None
    start, end = pair
    if start == HARMONY_START:
        header = "<|start|>assistant<|channel|>final<|message|>"
        return start, end + header
    is_open = seen.on.rstrip().endswith(start)
    return "" if is_open else f"{start}\n", f"\n{end}\n\n"


def _marker_pair(seen: _Seen, template: str, parser: str) -> tuple[str, str] | None:
    """Return the pair of the table for what is rendered, for the template, or for the parser."""
    shown = "".join(text or "" for text in (seen.on, seen.called, seen.thought))
    pair = next((pair for pair in MARKERS if pair[0] in shown), None)
    if found := pair or markers_of_template(template):
        return found
    return MARKERS[_BY_PARSER[parser]] if parser in _BY_PARSER else None


def _lead(seen: _Seen, close: str | None, pair: tuple[str, str] | None) -> str:
    """Return the text between the prompt with thinking off and an answer."""
    off = seen.off
    if seen.answered is not None:
        before, reply, _ = seen.answered.partition(_REPLY)
        if reply and before.startswith(off) and len(before) <= len(off) + _LONGEST:
            return before[len(off) :]
    end = ThoughtStyle(close=close).end
    if close is not None and end:
        _, _, header = close.partition(end)
        if off.rstrip().endswith(end):
            return "" if off.endswith(end + header) else header
        start = pair[0] if pair is not None else None
        is_open = off == seen.on or (start is not None and off.rstrip().endswith(start))
        if is_open and start is not None and off.rstrip().endswith(start):
            return close
    return ""
