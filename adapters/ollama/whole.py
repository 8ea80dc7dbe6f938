"""An answer that nobody sees before its end: where a host fails in it, the next begins it anew."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.errors import BackendError
from adapters.events import Event, Restarted, Started
from adapters.ollama.counted import Counted
from adapters.ollama.ndjson import Lines
from adapters.ollama.servers import Failover
from adapters.ollama.translate.stream import to_events
from adapters.ollama.wire import Line
from adapters.request import GenerationRequest


def _nobody(**_: int) -> None:
    """Counts."""


_UNCOUNTED = Counted(_nobody)
"""No attempt is begun by itself: what counts is the whole."""


async def to_whole(
    request: GenerationRequest, asking: Failover[Lines[Line]]
) -> AsyncGenerator[Event]:
    """As `to_events`, of the first host that gives all of it.

    Raises:
        BackendError: what the last of them raised.
    """
    began = False
    while True:
        try:
            async with aclosing(to_events(request, asking.answer, _UNCOUNTED)) as events:
                async for event in events:
                    yield _anew(event) if began else event
                    began = True
            return
        except BackendError as error:
            if not await asking.goes_on(error):
                raise


def _anew(event: Event) -> Event:
    """Of an answer that somebody else has begun before."""
    return Restarted(event.context) if isinstance(event, Started) else event
