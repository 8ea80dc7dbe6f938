"""Answers to `compaction_trigger`: one item, the summary of the input.

Source: https://platform.openai.com/docs/guides/conversation-state
"""

from functools import partial

from msgspec.structs import replace

from adapters.events import Event, Finished, ReasoningDelta, TextDelta
from proxy.endpoints.openai.responses import events as wire
from proxy.endpoints.openai.responses.response import Response, ended
from proxy.endpoints.openai.responses.stream import Frame, ResponseRenderer
from proxy.endpoints.openai.responses.summary import compaction_item
from proxy.endpoints.openai.responses.turn import Turn
from proxy.http.event_stream import Put, sse
from proxy.record import Record
from proxy.sinks import Answer


def renderer_of(
    turn: Turn, record: Record, put: Put, frame: Frame = sse, last: bytes = b""
) -> ResponseRenderer:
    """Create what encodes the answer to `turn`; `last` is sent after the last event."""
    kind = _CompactionRenderer if turn.compacts else ResponseRenderer
    return kind(turn, record, put, frame, last)


def compacted(turn: Turn, answer: Answer, record: Record) -> Response:
    """Translate a summary in one piece, and hand it to the store."""
    response = _ended(turn, answer.text, answer.finished, record)
    turn.store.keep(turn, response)
    return response


def _ended(turn: Turn, summary: str, finished: Finished, record: Record) -> Response:
    """Create the object of the answer. A summary that its limit has cut is complete."""
    item = compaction_item(turn, summary)
    return ended(turn, [item], replace(finished, reason="stop"), record)


class _CompactionRenderer(ResponseRenderer):
    """Sends the summary as one item, once it is complete."""

    def _render(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text):
                self._pieces.append(text)
                return b""
            case ReasoningDelta():
                return b""
            case Finished():
                return self._compact(event)
            case _:
                return super()._render(event)

    def _compact(self, finished: Finished) -> bytes:
        response = _ended(self._turn, "".join(self._pieces), finished, self._record)
        (item,) = response.output
        added = self._encode(wire.ItemAdded, output_index=0, item=item)
        done = self._encode(wire.ItemDone, output_index=0, item=item)
        ending = added + done + self._encode(wire.Completed, response=response) + self._last
        self._turn.store.keep(self._turn, response, partial(self._put, ending))
        return b""
