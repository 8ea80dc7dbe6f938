"""The store of the dialect over the server's database: what one request reads and writes there."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from adapters.errors import InvalidRequestError
from proxy.endpoints.openai.responses.items import JSON, InputItem
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.store import (
    NoStore,
    ResponseStore,
    previous_response_not_found,
)
from proxy.endpoints.openai.responses.stored_items import (
    decode_item,
    id_of,
    items_of,
    to_members,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import NotStoredError
from proxy.stored.entry import Entry, Page
from proxy.stored.store import Store

if TYPE_CHECKING:
    from proxy.endpoints.openai.responses.response import Response
    from proxy.endpoints.openai.responses.turn import Turn

_ALL = Page(limit=None)
_UNFINISHED = ("queued", "in_progress")
_APPENDED = ("completed", "incomplete")
"""The statuses of an answer that becomes a part of its conversation."""


def store_of(request: ServerRequest) -> ResponseStore:
    """Return a store for the answer to `request`."""
    return NoStore() if request.store is None else KeptResponses(request, request.store)


class KeptResponses:
    """A `ResponseStore`; one for each request."""

    keeps = True

    def __init__(self, request: ServerRequest, store: Store, last_item: int | None = None) -> None:
        self._request = request
        self._store = store
        self.last_item = last_item
        """The number of the last item of the conversation when this request began."""
        self._writing: asyncio.Task[None] | None = None
        self._send: Callable[[], object] | None = None

    async def earlier(self, body: ResponseRequest, client: str) -> Sequence[InputItem]:
        if body.previous_response_id is not None:
            return await self._before(body.previous_response_id, client)
        key = conversation_id(body.conversation)
        try:
            items, _ = await self._store.items(key, client, _ALL)
        except NotStoredError as exc:
            raise NotStoredError("conversation", key, "conversation") from exc
        self.last_item = items[-1].number if items else 0
        return [decode_item(item.object) for item in items]

    async def _before(self, key: str, client: str) -> Sequence[InputItem]:
        try:
            chain = await self._store.chain(key, client)
        except NotStoredError as exc:
            raise previous_response_not_found(exc.key) from exc
        if chain[-1].status in _UNFINISHED:
            raise InvalidRequestError(
                f"Response '{key}' is {chain[-1].status}: it can be continued once it has ended.",
                param="previous_response_id",
            )
        return await history(self._store, chain)

    async def find(self, ids: Sequence[str], client: str) -> Mapping[str, InputItem]:
        found: dict[str, InputItem] = {}
        for key, holder in (await self._store.holders(ids, client)).items():
            items = items_of(holder) if isinstance(holder, Entry) else [decode_item(holder.object)]
            found |= {id_of(item): item for item in items if id_of(item) == key}
        return found

    def keep(
        self, turn: "Turn", response: "Response", send: Callable[[], object] | None = None
    ) -> None:
        self._send = send
        self._writing = asyncio.create_task(self._keep(turn, response))

    async def settle(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)
        send, self._send = self._send, None
        if send is not None:
            send()

    async def _keep(self, turn: "Turn", response: "Response", events: bytes | None = None) -> None:
        items = turn.completed_items
        new = to_members([*items, *response.output])
        entry = to_entry(turn, response, items, self.last_item, events)
        appended = new if entry.conversation and response.status in _APPENDED else []
        if turn.is_stored:
            parts = [item.id for item in new]
            await self._request.keep(entry, response.metadata, appended, parts)
        elif entry.conversation and appended:
            await self._request.append(entry.conversation, appended)


def to_entry(
    turn: "Turn",
    response: "Response",
    items: Sequence[InputItem],
    last_item: int | None,
    events: bytes | None = None,
) -> Entry:
    """Create the entry of a response; `items` is its own input, complete."""
    conversation = turn.body.conversation
    return Entry(
        id=turn.id,
        kind="response",
        caller=turn.client,
        object=msgspec.json.encode(response),
        input=msgspec.json.encode(items),
        model=turn.body.model,
        status=response.status,
        previous=turn.body.previous_response_id,
        conversation=None if conversation is None else conversation_id(conversation),
        last_item=last_item,
        events=events,
    )


async def history(store: Store, chain: Sequence[Entry]) -> list[InputItem]:
    """Return the items before an answer that continues `chain`."""
    return [*await opening(store, chain[0]), *[i for entry in chain for i in items_of(entry)]]


async def opening(store: Store, first: Entry) -> list[InputItem]:
    """Return the items of the conversation that the first answer of a chain belongs to."""
    if first.conversation is None:
        return []
    try:
        items, _ = await store.items(first.conversation, first.caller, _ALL, last=first.last_item)
    except NotStoredError:  # The conversation was deleted, and its items with it.
        return []
    return [decode_item(item.object) for item in items]


def conversation_id(conversation: str | JSON | None) -> str:
    """Read the id of a conversation: a text, or an object with it.

    Raises:
        InvalidRequestError: it is neither.
    """
    key = conversation.get("id") if isinstance(conversation, dict) else conversation
    if not isinstance(key, str):
        raise InvalidRequestError("'conversation.id' must be a text.", param="conversation.id")
    return key
