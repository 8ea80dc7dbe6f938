"""Learn the markers of reasoning from a chat template: render turns with reasoning, compare."""

from adapters.chat_template.plan import Plan
from adapters.chat_template.probing import Probe, Probing
from adapters.chat_template.rewriting import rewrite
from adapters.mlx.output.tool_calls.comparison import MARKER, shared
from adapters.request import Message, TextPart, Tool, ToolCall

_ASK = Message(role="user", content=(TextPart("Quokka"),))
_TOOLS = (Tool("find_moon", "Do it.", {"type": "object", "properties": {}}),)
_CALL = ToolCall("call_0123456789abcdef01234567", "find_moon", "{}")
_THOUGHT, _SAID = "Lemur", "Wombat"
_SPOKEN = Message(role="assistant", content=(TextPart(_SAID),))
_CALLING = Message(role="assistant", tool_calls=(_CALL,))


def learn_markers(plan: Plan) -> Probing[tuple[str, str] | None]:
    """Return the texts before and after reasoning; `None` if the template writes none."""
    spoken = yield from _around(plan, _SPOKEN)
    calling = yield from _around(plan, _CALLING)
    found = spoken or calling
    if found is None:
        return None
    prompt = yield Probe((_ASK,), _TOOLS, form=plan.form, thinking=True)
    unthinking = yield from _around(plan, _SPOKEN, thought=_SAID)
    opening = _opening(found[0], prompt if isinstance(prompt, str) else "")
    after = found[1]
    if spoken is not None and calling is not None:
        after = after[: shared(after, calling[1])]
    closing = after.strip() if "\n" not in after.strip() else after.strip().split("\n")[0]
    if spoken is None or calling is None:
        marker = MARKER.match(closing)
        closing = marker[0] if marker else closing
    if unthinking is not None and opening and unthinking[0].endswith(opening):
        return None  # It announces any text.
    return (opening, closing) if opening and closing else None


def _around(plan: Plan, turn: Message, thought: str = _THOUGHT) -> Probing[tuple[str, str] | None]:
    """Return the texts before and after the reasoning of this turn."""
    told = Message(
        role=turn.role,
        content=turn.content,
        tool_calls=turn.tool_calls,
        reasoning=None if thought == _SAID else thought,
    )
    messages = rewrite((_ASK, told), plan.rewrites - {"thoughts-as-text"}).messages
    text = yield Probe(messages, _TOOLS, generate=False, form=plan.form, thinking=True)
    if not isinstance(text, str) or thought not in text:
        return None
    before, _, after = text.partition(thought)
    return before, after.split(_SAID)[0] if turn is _SPOKEN else after


def _opening(before: str, prompt: str) -> str:
    """Return the text that opens reasoning: the turn's own last line, or that of the prompt."""
    before = before.rstrip()
    more = prompt.removeprefix(before).strip() if prompt.startswith(before) else ""
    if more:
        return more.split("\n")[-1]
    line = before.split("\n")[-1]
    own = before[shared(before, prompt) :].strip().split("\n")[-1]
    if own and line.endswith(own):
        return own
    markers = list(MARKER.finditer(line))
    return markers[-1][0] if markers and markers[-1].end() == len(line) else line
