"""One answer of one Ollama, from its lines to events that keep what was promised."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import anyio.to_thread

from adapters.errors import GenerationError
from adapters.events import Event, Finished, Started, TextDelta, ToolCallDelta, ToolCallStarted
from adapters.ollama.counted import Counted
from adapters.ollama.ndjson import Lines
from adapters.ollama.translate.json_schema import Promise
from adapters.ollama.translate.response import Answer, to_text
from adapters.ollama.translate.tool_choice import ForcedCallReader, chosen_tools, is_forced
from adapters.ollama.wire import Line
from adapters.request import (
    GenerationRequest,
    JSONObject,
    JSONSchema,
    ResponseFormat,
    Sampling,
)


async def to_events(
    request: GenerationRequest, begin: Callable[[], Awaitable[Lines[Line]]], counted: Counted
) -> AsyncGenerator[Event]:
    """`Started` with the first line, which `begin` waits for: until then Ollama may still refuse.

    Raises:
        BackendError: there is no line, or they make no sense.
        GenerationError: the answer is not what a forced call, or the shape it was to have, asks
            for. It is known at the end only, when its text is already out. It is lasting where
            the same answer would come again.
        InvalidRequestError: a strict schema is none.
    """
    with counted:
        promises = await _promises(request) if _has_promises(request) else None
        read = _reader(request)
        lines = await begin()
        taker = _taker(request) if promises is None else None
        take, started = None, False
        try:
            async for batch in lines:
                for line in batch:
                    if take is not None and take(line):
                        continue
                    events = read(line)
                    if not started:
                        started, events = True, (*_opening(request, line), *events)
                    for event in events:
                        if promises is not None:
                            await promises.keep(event)
                        if isinstance(event, Finished):
                            counted.finish()
                        yield event
                    if take is None and taker is not None and _has_begun(events):
                        take = taker
                        lines.divert(take)
        except GenerationError as error:
            error.lasting = _comes_again(request.sampling)
            raise
        finally:
            lines.close()


def _opening(request: GenerationRequest, line: Line) -> Sequence[Event]:
    """What comes before all that Ollama says."""
    started = Started(line.num_ctx, line.cold)
    if request.echo and isinstance(request.prompt, str):
        return started, TextDelta(request.prompt)
    return (started,)


def _has_begun(events: Sequence[Event]) -> bool:
    """There is something for the reader in it."""
    return bool(events) and not isinstance(events[-1], Started)


def _taker(request: GenerationRequest) -> Callable[[Line], bool] | None:
    """Has a line of text take the shortcut, where nobody here has to see it."""
    shortcut = request.shortcut
    if shortcut is None or not _is_plain(request):
        return None

    def take(line: Line) -> bool:
        text = to_text(line)
        return text is not None and shortcut.take(text)

    return take


def _comes_again(sampling: Sampling) -> bool:
    """Whether the same request has the same answer: then nobody should put it again."""
    return sampling.temperature == 0 or sampling.seed is not None


def _reader(request: GenerationRequest) -> Callable[[Line], Sequence[Event]]:
    return Answer().events if _is_plain(request) else _Reading(request).events


def _is_plain(request: GenerationRequest) -> bool:
    """Every line means what it says."""
    return request.parallel_tool_calls and not _is_forced(request)


class _Reading:
    """What the lines of one answer mean to the one who asked."""

    def __init__(self, request: GenerationRequest) -> None:
        self._answer = Answer()
        self._forced = (
            ForcedCallReader(chosen_tools(request), bool(request.stop))
            if _is_forced(request)
            else None
        )
        self._one_call = bool(self._forced) or not request.parallel_tool_calls

    def events(self, line: Line) -> Sequence[Event]:
        events = self._answer.events(line)
        if self._forced is not None:
            events = [each for event in events for each in self._forced.events(event)]
        if self._one_call:
            events = [event for event in events if not self._is_withheld(event)]
        return events

    def _is_withheld(self, event: Event) -> bool:
        """Further calls are read to the end all the same: what they cost is told only there."""
        match event:
            case ToolCallStarted(index=index) | ToolCallDelta(index=index):
                return index > 0
            case _:
                return False


def _is_forced(request: GenerationRequest) -> bool:
    return isinstance(request.prompt, tuple) and bool(request.tools) and is_forced(request)


def _has_promises(request: GenerationRequest) -> bool:
    return request.response_format is not None or any(tool.strict for tool in request.tools)


async def _promises(request: GenerationRequest) -> "_Promises":
    """In a thread: what checks schemas is imported for the first of them."""
    return await anyio.to_thread.run_sync(_Promises, request)


def _promise_of(wanted: ResponseFormat | None) -> Promise | None:
    """JSON it must be in any case: a model that thinks may end before it has answered at all."""
    match wanted:
        case JSONSchema(schema=schema, strict=True):
            return Promise(schema, "response_format")
        case JSONObject():
            return Promise({"type": "object"}, "response_format")
        case JSONSchema():
            return Promise({}, "response_format")
        case _:
            return None


class _Promises:
    """What the answer to a request must keep to, and what of it that is about."""

    def __init__(self, request: GenerationRequest) -> None:
        self._may_stop = bool(request.stop)
        self._text = _promise_of(request.response_format)
        self._tools = {
            tool.name: Promise({"type": "object"} | (tool.parameters or {}), "tools")
            for tool in request.tools
            if tool.strict
        }
        self._said: list[str] = []
        self._called: dict[int, Promise] = {}
        self._arguments: dict[int, list[str]] = {}

    async def keep(self, event: Event) -> None:
        """Note `event`; at the end, raise GenerationError if a promise was broken."""
        match event:
            case TextDelta(text=text) if self._text:
                self._said.append(text)
            case ToolCallStarted(index=index, name=name) if name in self._tools:
                self._called[index] = self._tools[name]
            case ToolCallDelta(index=index, arguments=arguments) if index in self._called:
                self._arguments.setdefault(index, []).append(arguments)
            case Finished(reason=reason) if reason != "length":
                await self._check()
            case _:
                pass

    async def _check(self) -> None:
        if self._may_stop:  # A stop string may have cut it anywhere, which was asked for.
            return
        if self._text:
            await self._text.check("".join(self._said))
        for index, promise in self._called.items():
            await promise.check("".join(self._arguments.get(index, ())))
