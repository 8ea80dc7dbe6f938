"""Prompts and answers of the latest requests, for the page. Off until it is switched on.

They are private: they stay in memory, and are forgotten when it is switched off.
"""

from collections import OrderedDict

from msgspec import Struct

from adapters.events import Event, ReasoningDelta, Restarted, TextDelta, ToolCallDelta
from adapters.events import ToolCallStarted as CallStarted
from adapters.sink import Sink

_REQUESTS = 50
_BODY_BYTES = 256 * 1024
"""The most of a body that is kept."""
_PIECES = 20_000
"""The most pieces of an answer that are kept."""


class Call(Struct):
    name: str
    arguments: str = ""


class Inspection(Struct):
    """The body that a client sent, and the answer that it got."""

    request_id: str
    body: str
    """The JSON of the request, cut where it is very long."""
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = []


class Inspector:
    def __init__(self, requests: int = _REQUESTS) -> None:
        """`requests`: how many of the latest are kept."""
        self.enabled = False
        self._most = requests
        self._inspected: OrderedDict[str, tuple[Inspection, list[Event]]] = OrderedDict()

    def switch(self, *, enabled: bool) -> None:
        """Start, or stop and forget everything."""
        self.enabled = enabled
        if not enabled:
            self._inspected.clear()

    def begin(self, request_id: str, body: bytes) -> None:
        """Keep the body of a request, if switched on."""
        if not self.enabled or not body:
            return
        text = body[:_BODY_BYTES].decode("utf-8", "replace")
        self._inspected[request_id] = Inspection(request_id, text), []
        while len(self._inspected) > self._most:
            self._inspected.popitem(last=False)

    def watched(self, request_id: str, sink: Sink) -> Sink:
        """Wrap `sink` so that the answer is kept, if the body of its request was."""
        inspected = self._inspected.get(request_id)
        return sink if inspected is None else _Watched(sink, inspected[1])

    def find(self, request_id: str) -> Inspection | None:
        """Return what is known of a request so far; `None` if nothing was kept."""
        inspected = self._inspected.get(request_id)
        if inspected is None:
            return None
        inspection, events = inspected
        return _filled(Inspection(inspection.request_id, inspection.body), events)


class _Watched:
    """Passes events on and keeps them."""

    def __init__(self, sink: Sink, events: list[Event]) -> None:
        self._pass_on = sink.write
        self.drain = sink.drain
        self._events = events

    def write(self, event: Event, /) -> bool:
        if len(self._events) < _PIECES:
            self._events.append(event)
        return self._pass_on(event)


def _filled(inspection: Inspection, events: list[Event]) -> Inspection:
    """Add the events to `inspection`; several choices follow each other."""
    for event in sorted(events, key=lambda event: getattr(event, "choice", 0)):
        match event:
            case Restarted():
                inspection.text = inspection.reasoning = ""
                inspection.calls = []
            case TextDelta(text=text):
                inspection.text += text
            case ReasoningDelta(text=text):
                inspection.reasoning += text
            case CallStarted(name=name):
                inspection.calls.append(Call(name))
            case ToolCallDelta(arguments=arguments) if inspection.calls:
                inspection.calls[-1].arguments += arguments
            case _:
                pass
    return inspection
