"""Choose the parser for a span of calls."""

from adapters.mlx.output.tool_calls.header_calls import HeaderCalls
from adapters.mlx.output.tool_calls.json_calls import JSONCalls
from adapters.mlx.output.tool_calls.mlx_lm_calls import MLXLMCalls
from adapters.mlx.output.tool_calls.output_pieces import Piece, SpanReader, as_shown
from adapters.mlx.output.tool_calls.syntax import ToolSyntax
from adapters.mlx.output.tool_calls.tagged_calls import TaggedCalls
from adapters.request import Tool


def open_span(syntax: ToolSyntax, tools: tuple[Tool, ...], begin: str) -> SpanReader:
    """A parser of the text after `begin`, which is "" if the answer begins with the call itself."""
    names = frozenset(tool.name for tool in tools)
    if syntax.body == "object":
        lead = syntax.opening.removeprefix(syntax.begin).strip("[{ \n")
        return JSONCalls(
            begin,
            syntax.end,
            names,
            keys=syntax.keys,
            name_is_key=syntax.name_is_key,
            lead=lead,
        )
    if not syntax.begin:
        return HeaderCalls(syntax, names)
    return _DetectedCalls(syntax, tools, names)


class _DetectedCalls:
    """Chooses the parser by the first character: JSON is accepted in any syntax but pythonic."""

    def __init__(self, syntax: ToolSyntax, tools: tuple[Tool, ...], names: frozenset[str]) -> None:
        self._syntax = syntax
        self._tools = tools
        self._names = names
        self._buffer = ""
        self._reader: SpanReader | None = None

    @property
    def called(self) -> bool:
        return self._reader is not None and self._reader.called

    def feed(self, text: str) -> tuple[list[Piece], str | None]:
        if self._reader is None:
            self._buffer += text
            if not self._buffer.strip():
                return [], None
            self._reader = self._choose(self._buffer.lstrip()[0])
            text = self._buffer
        return self._reader.feed(text)

    def finish(self) -> list[Piece]:
        if self._reader is None:
            return [as_shown(self._syntax.begin + self._buffer)]
        return self._reader.finish()

    def _choose(self, first: str) -> SpanReader:
        if first in "[{" and self._syntax.allows_json:
            return JSONCalls(self._syntax.begin, self._syntax.end, self._names)
        if self._syntax.body == "header":
            return HeaderCalls(self._syntax, self._names)
        if self._syntax.body == "tagged" and not self._syntax.parser:
            return TaggedCalls(self._syntax, self._tools)
        return MLXLMCalls(self._syntax, self._tools)
