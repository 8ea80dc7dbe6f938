"""The types of stored answers and of lists of them."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Kind = Literal["chat.completion", "response", "conversation"]
Status = Literal["completed", "incomplete", "failed", "cancelled", "queued", "in_progress"]
Order = Literal["asc", "desc"]
Metadata = Mapping[str, str]


class Entry(Struct, frozen=True, kw_only=True):
    """One answer, or one conversation."""

    id: str
    kind: Kind
    caller: str
    """The digest of the API key; the entry does not exist for others."""
    object: bytes
    """The JSON object that a client gets."""
    input: bytes = b"[]"
    """The JSON list of messages or items that the client sent with the request."""
    model: str = ""
    status: Status = "completed"
    previous: str | None = None
    """The id of the response that this one continues."""
    conversation: str | None = None
    """The id of the conversation that the response belongs to."""
    last_item: int | None = None
    """The number of the conversation's last item when the response began."""
    events: bytes | None = None
    """The server-sent events of a streamed background response."""
    server: str | None = None
    """The id of the server that has it in progress."""

    @property
    def size(self) -> int:
        """The bytes that count for the limit."""
        return len(self.object) + len(self.input) + len(self.events or b"")


class Item(Struct, frozen=True):
    """A member of a list: an entry, or an item of a conversation."""

    id: str
    object: bytes
    """JSON."""
    number: int = 0
    """Larger than those of all earlier items."""


class Page(Struct, frozen=True, kw_only=True):
    """The part of a list that a client asks for."""

    limit: int | None = 20
    """`None`: all."""
    order: Order = "asc"
    after: str | None = None
    """The id of the last member of the page before."""
