"""`GET /api/events`, `/api/requests/{id}`, `/api/inspector` and `/api/logs`: what the page shows.

The events are read from records on a timer while a client listens: requests do not wait for them,
and a token costs nothing.
"""

import asyncio
import time
from functools import partial
from importlib.metadata import version

import msgspec
from litestar import get, post
from litestar.params import FromPath, FromQuery
from litestar.response.base import ASGIResponse
from msgspec import Struct

from proxy.endpoints.server_request import ServerRequest
from proxy.errors import ExplainedHTTPError, Failure
from proxy.http.event_stream import EventSink, Put, sse
from proxy.inspector import Inspection
from proxy.live import Ended, Running
from proxy.log_buffer import LogRecord
from proxy.openapi import Operation

_SECONDS = 0.5
"""Between two looks at the records."""

_encode = msgspec.json.Encoder().encode


class Activity(Struct, frozen=True, kw_only=True):
    """Requests in progress, and those that ended since the event before; the first has the history.

    Sent when something has changed, and every half second while requests run.
    """

    at: float
    """Seconds since 1970."""
    version: str
    running: list[Running]
    """Requests for models in progress, the oldest first."""
    ended: list[Ended]
    """The oldest first."""
    inspecting: bool
    """Prompts and answers are kept."""


class InspectorState(Struct):
    enabled: bool


class LogLines(Struct):
    lines: list[LogRecord]
    """The oldest first."""


_EVENTS = Operation(
    summary="Requests in progress and those that ended, as server-sent events",
    answers=(),
    events=(Activity,),
)
_INSPECTION = Operation(
    summary="Prompt and answer of a request, where the inspector kept them", answers=(Inspection,)
)
_SWITCH = Operation(
    summary="Switch the inspector on, or off, which forgets what it kept",
    asks=(InspectorState,),
    answers=(InspectorState,),
)
_LOGS = Operation(summary="The latest lines of the log", answers=(LogLines,))


@get("/api/events", operation=_EVENTS, access="admin")
async def stream_activity(request: ServerRequest) -> ASGIResponse:
    return await request.begin_stream(partial(_watch, request), _ActivityRenderer)


@get("/api/requests/{request_id:str}", operation=_INSPECTION, access="admin")
async def inspect_request(request_id: FromPath[str], request: ServerRequest) -> Inspection:
    inspection = request.inspector.find(request_id)
    if inspection is None:
        raise ExplainedHTTPError(
            status_code=404,
            detail=f"Nothing is kept of the request '{request_id[:80]}'. The inspector keeps the "
            "latest requests that arrive while it is on.",
        )
    return inspection


@post("/api/inspector", status_code=200, operation=_SWITCH, access="admin")
async def switch_inspector(request: ServerRequest) -> InspectorState:
    wanted = await request.read(InspectorState)
    request.inspector.switch(enabled=wanted.enabled)
    return wanted


@get("/api/logs", operation=_LOGS, access="admin")
async def list_logs(request: ServerRequest, after: FromQuery[int] = 0) -> LogLines:
    return LogLines(request.logs.after(after))


async def _watch(request: ServerRequest, sink: EventSink[Activity]) -> None:
    """Write what has changed until the client disconnects, or the server begins to end."""
    live, last = request.activity, 0
    before: tuple[bool, bool] | None = None
    while not request.grace.began:
        running = live.running(request.registry.backends)
        state = bool(running), request.inspector.enabled
        if running or live.last != last or state != before:
            activity = Activity(
                at=round(time.time(), 3),
                version=version("tandem-proxy"),
                running=running,
                ended=live.ended_after(last),
                inspecting=request.inspector.enabled,
            )
            last, before = live.last, state
            if sink.write(activity):
                await sink.drain()
        await asyncio.sleep(_SECONDS)


class _ActivityRenderer:
    def __init__(self, put: Put) -> None:
        self._put = put

    def write(self, event: Activity, /) -> bool:
        return self._put(sse(_encode(event)))

    def error(self, failure: Failure, /) -> bytes:
        return sse(_encode(failure.body), "error")
