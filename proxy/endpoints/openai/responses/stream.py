"""Events of a backend -> events of the Responses API.

An answer is a row of items; one is open at a time. Nearly all events are pieces of the open item's
text: they are encoded from bytes that are made when the item is opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec
from msgspec import Struct

from adapters import events as backend
from adapters.events import TokenLogprob
from adapters.request import ToolCall
from proxy.endpoints.openai.chunks import padding
from proxy.endpoints.openai.responses import events as wire
from proxy.endpoints.openai.responses.items import (
    JSON,
    CustomToolCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    SummaryText,
)
from proxy.endpoints.openai.responses.response import (
    Response,
    call_item,
    empty_response,
    ended,
    failed,
    message_item,
    reasoning_item,
    to_logprobs,
    to_response,
)
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.tools import InputReader
from proxy.errors import Failure
from proxy.http.event_stream import Put, sse
from proxy.record import Record, new_id

encode = msgspec.json.Encoder().encode
Frame = Callable[[bytes, str], bytes]
"""Frames the JSON of an event; the second argument is its type."""

_TextEvent = backend.TextDelta | backend.ReasoningDelta
_TEXT = "\x00text"
_NUMBER = -1
"""Placeholders for what differs between two pieces of a text; no answer has them."""


DONE = sse(b"[DONE]")
"""The end of a stream. Source: https://www.openresponses.org/specification"""


class ResponseRenderer:
    """Encodes an answer as events, and keeps its items for the object at its end."""

    def __init__(
        self, turn: Turn, record: Record, put: Put, frame: Frame = sse, last: bytes = b""
    ) -> None:
        """`last` is sent after the last event."""
        self._last = last
        self._turn = turn
        self._record = record
        self._put = put
        self._frame = frame
        options = turn.body.stream_options
        self._obfuscates = bool(options and options.include_obfuscation)
        self._sequence = 0
        self._was_queued = False
        self._output: list[OutputItem] = []
        self._open: _OpenItem | None = None
        # What the fast path needs of an open text.
        self._flowing: type[_TextEvent] | None = None
        self._pieces: list[str] = []
        self._before = self._between = self._after = b""

    def write(self, event: backend.Event, /) -> bool:
        if type(event) is self._flowing:  # nearly all events
            text = cast(_TextEvent, event).text
            self._pieces.append(text)
            number = self._sequence
            self._sequence = number + 1
            numbered = self._before + b"%d" % number + self._between
            return self._put(numbered + encode(text) + self._after)
        return self._put(self._render(event))

    @property
    def has_begun(self) -> bool:
        """True once the client has been sent an event."""
        return self._sequence > 0

    def error(self, failure: Failure, /) -> bytes:
        """Encode the end of an answer that failed: an error, and the object as far as it came."""
        error = self._encode(
            wire.Error,
            code=failure.code or failure.type,
            message=failure.message,
            param=failure.param,
        )
        return error + self.fail(failure) + self._last

    def fail(self, failure: Failure) -> bytes:
        """Encode the object of an answer that failed, as far as it came."""
        self._pause()
        if self._open is not None:
            self._output.append(self._open.item("incomplete"))
        response = failed(self._turn, self._output, failure)
        self._turn.store.keep(self._turn, response)
        return self._encode(wire.Failed, response=response)

    def warm_up(self) -> None:
        """Send an answer without output, which only keeps its input to be continued."""
        created = self._encode(wire.Created, response=to_response(self._turn, "in_progress"))
        response = empty_response(self._turn)
        completed = self._encode(wire.Completed, response=response)
        self._turn.store.keep(self._turn, response, partial(self._put, created + completed))

    def queue(self, response: Response) -> None:
        """Begin an answer that waits, with `response` as its object."""
        self._was_queued = True
        created = self._encode(wire.Created, response=response)
        self._put(created + self._encode(wire.Queued, response=response))

    def cancel(self) -> None:
        """End an answer that was cancelled: no event says so, and its items are kept."""
        self._pause()
        if self._open is not None:
            self._output.append(self._open.item("incomplete"))
        response = to_response(self._turn, "cancelled", self._output)
        self._turn.store.keep(self._turn, response)

    def _render(self, event: backend.Event) -> bytes:
        match event:
            case backend.Started():
                response = to_response(self._turn, "in_progress")
                created = b""
                if not self._was_queued:
                    created = self._encode(wire.Created, response=response)
                return created + self._encode(wire.InProgress, response=response)
            case backend.TextDelta(text=text, logprobs=logprobs):
                return self._text(_OpenMessage, text, logprobs or ())
            case backend.ReasoningDelta(text=text):
                kind = _OpenSummary if self._turn.wants_summary else _OpenReasoning
                return self._text(kind, text, ())
            case backend.ToolCallStarted():
                closed = self._close("completed")
                return closed + self._begin(_OpenCall(self._turn, self._index, event))
            case backend.ToolCallDelta(arguments=arguments):
                return self._arguments(arguments)
            case backend.Finished():
                return self._end(event)
            case backend.Restarted() | backend.PromptProgress():
                return b""  # never in a streamed answer of the router

    @property
    def _index(self) -> int:
        """The place of the next item in the output."""
        return len(self._output)

    def _text(self, kind: "_TextKind", text: str, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        """Encode a piece of text, after the beginning of its item if none of its kind is open."""
        begin, item = b"", self._open
        if not isinstance(item, _OpenText) or type(item) not in (kind,):
            begin = self._close("completed")
            item = kind(self._turn, self._index)
            begin += self._begin(item)
        shown = to_logprobs(logprobs)
        item.add(text, shown)
        delta = begin + self._delta(item.delta(text, shown), text)
        if not self._obfuscates and not self._turn.wants_logprobs:
            self._flow(item)
        return delta

    def _flow(self, item: "_OpenText") -> None:
        """Prepare the fast path for the pieces of `item` that follow."""
        event = item.delta(_TEXT, [])
        encoded = self._framed(event.kind, sequence_number=_NUMBER, **event.fields)
        self._before, _, rest = encoded.partition(b"%d" % _NUMBER)
        self._between, _, self._after = rest.partition(encode(_TEXT))
        self._pieces, self._flowing = item.pieces, item.event

    def _arguments(self, arguments: str) -> bytes:
        call = self._open
        assert isinstance(call, _OpenCall)  # noqa: S101 - a call's pieces follow its beginning.
        text = call.add(arguments)
        return self._delta(call.delta(text), text) if text else b""

    def _delta(self, event: "_Event", text: str) -> bytes:
        if self._obfuscates:
            return self._encode(event.kind, **event.fields, obfuscation=padding(len(text)))
        return self._encode(event.kind, **event.fields)

    def _begin(self, item: "_OpenItem") -> bytes:
        self._open = item
        return b"".join([self._encode(event.kind, **event.fields) for event in item.begin()])

    def _close(self, status: Status) -> bytes:
        """Encode the end of the open item, if there is one."""
        self._pause()
        item, self._open = self._open, None
        if item is None:
            return b""
        complete = item.item(status)
        ending = [self._encode(event.kind, **event.fields) for event in item.end()]
        done = self._encode(wire.ItemDone, output_index=self._index, item=complete)
        self._output.append(complete)
        return b"".join(ending) + done

    def _pause(self) -> None:
        self._flowing = None

    def _end(self, finished: backend.Finished) -> bytes:
        status: Status = "incomplete" if finished.reason == "length" else "completed"
        ending = b""
        if self._open is None and all(isinstance(i, ReasoningItem) for i in self._output):
            ending = self._begin(_OpenMessage(self._turn, self._index))
        elif isinstance(self._open, _OpenReasoning) and status == "completed":
            ending = self._close(status) + self._begin(_OpenMessage(self._turn, self._index))
        ending += self._close(status)
        response = ended(self._turn, self._output, finished, self._record)
        kind = wire.Incomplete if status == "incomplete" else wire.Completed
        ending += self._encode(kind, response=response) + self._last
        self._turn.store.keep(self._turn, response, partial(self._put, ending))
        return b""

    def _encode(self, kind: type[wire.Event], **fields: Any) -> bytes:
        number = self._sequence
        self._sequence = number + 1
        return self._framed(kind, sequence_number=number, **fields)

    def _framed(self, kind: type[wire.Event], **fields: Any) -> bytes:
        return self._frame(encode(kind(**fields)), str(kind.__struct_config__.tag))


class _Event(Struct):
    """An event without its number."""

    kind: type[wire.Event]
    fields: dict[str, Any]


class _OpenItem(ABC):
    """The item of an answer that is being written."""

    def __init__(self, turn: Turn, index: int, prefix: str) -> None:
        self._turn = turn
        self._index = index
        self._id = new_id(prefix)

    @abstractmethod
    def item(self, status: Status) -> OutputItem:
        """The item as far as it came."""

    @abstractmethod
    def begin(self) -> list[_Event]:
        """The first events: the item without content, and its part."""

    @abstractmethod
    def end(self) -> list[_Event]:
        """The last events before that of the complete item."""

    def _event(self, kind: type[wire.Event], **fields: Any) -> _Event:
        """Create an event inside this item."""
        return _Event(kind, {"item_id": self._id, "output_index": self._index, **fields})

    def _added(self, item: OutputItem) -> _Event:
        return _Event(wire.ItemAdded, {"output_index": self._index, "item": item})


class _OpenText(_OpenItem):
    """An item with one text."""

    event: type[_TextEvent]
    """Type of the backend's events with its pieces."""

    def __init__(self, turn: Turn, index: int, prefix: str) -> None:
        super().__init__(turn, index, prefix)
        self.pieces: list[str] = []
        self._logprobs: list[JSON] = []

    def add(self, text: str, logprobs: list[JSON]) -> None:
        self.pieces.append(text)
        self._logprobs += logprobs

    @property
    def _text(self) -> str:
        return "".join(self.pieces)

    @abstractmethod
    def delta(self, text: str, logprobs: list[JSON]) -> _Event: ...


class _OpenMessage(_OpenText):
    event = backend.TextDelta

    def __init__(self, turn: Turn, index: int) -> None:
        super().__init__(turn, index, "msg_")

    def item(self, status: Status) -> OutputItem:
        return message_item(self._id, self._text, self._logprobs, status)

    def begin(self) -> list[_Event]:
        empty = MessageItem(id=self._id, status="in_progress", role="assistant", content=[])
        part = self._event(wire.PartAdded, content_index=0, part=OutputText(text=""))
        return [self._added(empty), part]

    def delta(self, text: str, logprobs: list[JSON]) -> _Event:
        return self._event(wire.TextDelta, content_index=0, delta=text, logprobs=logprobs)

    def end(self) -> list[_Event]:
        text, logprobs = self._text, self._logprobs
        part = OutputText(text=text, logprobs=logprobs)
        return [
            self._event(wire.TextDone, content_index=0, text=text, logprobs=logprobs),
            self._event(wire.PartDone, content_index=0, part=part),
        ]


class _OpenReasoning(_OpenText):
    """Reasoning that is shown in full."""

    event = backend.ReasoningDelta

    def __init__(self, turn: Turn, index: int) -> None:
        super().__init__(turn, index, "rs_")

    def item(self, status: Status) -> OutputItem:
        return reasoning_item(self._turn, self._id, self._text)

    def begin(self) -> list[_Event]:
        part = self._event(wire.PartAdded, content_index=0, part=ReasoningText(text=""))
        return [self._added(ReasoningItem(id=self._id, summary=[])), part]

    def delta(self, text: str, logprobs: list[JSON]) -> _Event:
        return self._event(wire.ReasoningDelta, content_index=0, delta=text)

    def end(self) -> list[_Event]:
        text = self._text
        return [
            self._event(wire.ReasoningDone, content_index=0, text=text),
            self._event(wire.PartDone, content_index=0, part=ReasoningText(text=text)),
        ]


class _OpenSummary(_OpenReasoning):
    """Reasoning that is shown as its summary."""

    def begin(self) -> list[_Event]:
        part = self._event(wire.SummaryPartAdded, summary_index=0, part=SummaryText(text=""))
        return [self._added(ReasoningItem(id=self._id, summary=[])), part]

    def delta(self, text: str, logprobs: list[JSON]) -> _Event:
        return self._event(wire.SummaryDelta, summary_index=0, delta=text)

    def end(self) -> list[_Event]:
        text = self._text
        return [
            self._event(wire.SummaryDone, summary_index=0, text=text),
            self._event(wire.SummaryPartDone, summary_index=0, part=SummaryText(text=text)),
        ]


class _OpenCall(_OpenItem):
    """A call of a function, or of a tool that takes a text."""

    def __init__(self, turn: Turn, index: int, started: backend.ToolCallStarted) -> None:
        offered = turn.toolbox.offered.get(started.name)
        self._is_custom = offered is not None and offered.is_custom
        super().__init__(turn, index, "ctc_" if self._is_custom else "fc_")
        self._call = started
        self._arguments: list[str] = []
        self._reader = InputReader() if self._is_custom else None

    def add(self, arguments: str) -> str:
        """Add a piece of the arguments; return the piece of text for the client."""
        self._arguments.append(arguments)
        return arguments if self._reader is None else self._reader.feed(arguments)

    def delta(self, text: str) -> _Event:
        return self._event(wire.InputDelta if self._is_custom else wire.ArgumentsDelta, delta=text)

    def item(self, status: Status) -> FunctionCallItem | CustomToolCallItem:
        call = ToolCall(self._call.id, self._call.name, "".join(self._arguments))
        return call_item(self._turn, call, status, self._id)

    def begin(self) -> list[_Event]:
        empty = ToolCall(self._call.id, self._call.name, "")
        return [self._added(call_item(self._turn, empty, "in_progress", self._id))]

    def end(self) -> list[_Event]:
        item = self.item("completed")
        if isinstance(item, FunctionCallItem):
            return [self._event(wire.ArgumentsDone, name=item.name, arguments=item.arguments)]
        rest = self._reader.rest() if self._reader is not None else ""
        missing = [self.delta(rest)] if rest else []
        return [*missing, self._event(wire.InputDone, input=item.input)]


_TextKind = type[_OpenMessage] | type[_OpenReasoning]
