"""The answers of one WebSocket, which it can continue whether they are stored or not.

OpenAI keeps the latest in the memory of the connection, and drops one if its continuation fails.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from proxy.endpoints.openai.responses.items import InputItem
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.response import Response
from proxy.endpoints.openai.responses.store import ResponseStore
from proxy.endpoints.openai.responses.stored_items import id_of
from proxy.endpoints.openai.responses.turn import Turn

_MAX_ANSWERS = 16
"""Conversations share their items in memory, so that an answer costs what it adds."""
_CONTINUED = ("completed", "incomplete")
"""The statuses of an answer that can be continued."""


class Remembered:
    """The latest answers of a connection: id -> all items up to the end of the answer."""

    def __init__(self) -> None:
        self._items: dict[str, Sequence[InputItem]] = {}
        self._stored: set[str] = set()

    def get(self, key: str | None) -> Sequence[InputItem] | None:
        return None if key is None else self._items.get(key)

    def is_stored(self, key: str | None) -> bool:
        """True if the answer can be read from the store too, or is not of this connection."""
        return key not in self._items or key in self._stored

    def add(self, turn: Turn, response: Response) -> None:
        self._items[turn.id] = [*turn.earlier, *turn.items, *response.output]
        if turn.is_stored:
            self._stored.add(turn.id)
        if len(self._items) > _MAX_ANSWERS:
            self.forget(next(iter(self._items)))

    def forget(self, key: str | None) -> None:
        if key is not None:
            self._items.pop(key, None)
            self._stored.discard(key)

    def find(self, ids: Sequence[str]) -> dict[str, InputItem]:
        return {id_of(i): i for items in self._items.values() for i in items if id_of(i) in ids}


class ConnectionStore:
    """A `ResponseStore` for one answer of a connection, in front of the server's own."""

    def __init__(self, behind: ResponseStore, remembered: Remembered) -> None:
        self._behind = behind
        self._remembered = remembered
        self.keeps = behind.keeps

    async def earlier(self, body: ResponseRequest, client: str) -> Sequence[InputItem]:
        items = self._remembered.get(body.previous_response_id)
        return await self._behind.earlier(body, client) if items is None else items

    async def find(self, ids: Sequence[str], client: str) -> Mapping[str, InputItem]:
        here = self._remembered.find(ids)
        others = [key for key in ids if key not in here]
        return {**here, **(await self._behind.find(others, client) if others else {})}

    def keep(
        self, turn: Turn, response: Response, send: Callable[[], object] | None = None
    ) -> None:
        previous = turn.body.previous_response_id
        turn = replace(turn, items=turn.completed_items)
        if response.status in _CONTINUED:
            self._remembered.add(turn, response)
        if turn.is_stored and not self._remembered.is_stored(previous):
            # The answers before it are nowhere else: its own input begins with them.
            body = replace(turn.body, previous_response_id=None)
            turn = replace(turn, body=body, items=[*turn.earlier, *turn.items], earlier=())
        self._behind.keep(turn, response, send)

    async def settle(self) -> None:
        await self._behind.settle()
