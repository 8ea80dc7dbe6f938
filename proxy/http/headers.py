"""What every answer carries besides its body: who it is, who made it, what was ignored."""

from litestar.types import Message, Scope, Send
from msgspec import Struct

from adapters.errors import BackendError
from adapters.events import Started
from proxy.errors import to_code
from proxy.ids import new_id
from proxy.routing.router import Route

_MOST_NAMES = 20
_LONGEST_NAME = 80


class AnswerNotes(Struct):
    """Filled in while a request is worked on; one per request."""

    request_id: str
    backend: str = "none"
    """The kind that was asked, `none` as long as none was."""
    fallback_from: str | None = None
    """The kind that failed before, and the error's code."""
    context: int | None = None
    """Tokens that prompt and answer have room for; the least where several prompts are read."""
    ignored: tuple[str, ...] = ()
    """Paths of request fields that nobody knows."""

    def routed(self, route: Route) -> None:
        self.backend = route.backend_name

    def fell_back(self, route: Route, error: BackendError) -> None:
        self.fallback_from = f"{route.backend_name}; reason={to_code(error)}"
        self.context = None  # That was the other's.

    def started(self, event: Started) -> None:
        known = [each for each in (self.context, event.context) if each is not None]
        self.context = min(known, default=None)


def new_request_id() -> str:
    return new_id("req_")


def notes_of(scope: Scope) -> AnswerNotes:
    state = scope["state"]  # Litestar puts it there before anything of ours runs
    if "notes" not in state:
        state["notes"] = AnswerNotes(new_request_id())
    return state["notes"]


def signed(send: Send, notes: AnswerNotes) -> Send:
    """`send`, which writes what is noted by then into the head of the answer."""

    async def send_signed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_written(notes)]
        await send(message)

    return send_signed


def _written(notes: AnswerNotes) -> list[tuple[bytes, bytes]]:
    written = [
        (b"x-request-id", notes.request_id.encode()),
        (b"x-tandem-backend", notes.backend.encode()),
    ]
    if notes.fallback_from is not None:
        written.append((b"x-tandem-fallback-from", notes.fallback_from.encode()))
    if notes.context is not None:
        written.append((b"x-tandem-context", b"%d" % notes.context))
    if notes.ignored:
        written.append((b"x-tandem-ignored", _list(notes.ignored).encode()))
    return written


def _list(names: tuple[str, ...]) -> str:
    """Names in ASCII without line breaks, and not too many of them: clients choose them."""
    shown = ", ".join(
        name[:_LONGEST_NAME].encode("unicode_escape").decode("ascii")
        for name in names[:_MOST_NAMES]
    )
    more = len(names) - _MOST_NAMES
    return f"{shown} (and {more} more)" if more > 0 else shown
