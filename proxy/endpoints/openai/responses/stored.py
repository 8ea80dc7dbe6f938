"""Stored responses: read, listed by their input items, and deleted.

Source: https://platform.openai.com/docs/api-reference/responses/get
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from litestar import delete, get
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta, Struct

from adapters.errors import InvalidRequestError
from proxy.endpoints.openai.pages import PageQuery, StoredList, select, to_list
from proxy.endpoints.openai.responses.background import resume
from proxy.endpoints.openai.responses.database_store import opening
from proxy.endpoints.openai.responses.items import InputItem
from proxy.endpoints.openai.responses.request import Include
from proxy.endpoints.openai.responses.response import Response
from proxy.endpoints.openai.responses.stored_items import input_of, items_of, to_members
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import NotStoredError
from proxy.http.json_response import JSONResponse
from proxy.openapi import Operation
from proxy.stored.entry import Entry
from proxy.stored.store import Store

_ALWAYS_INCLUDED = "message.input_image.image_url"


class ResponseQuery(Struct, kw_only=True):
    stream: bool = False
    starting_after: Annotated[int, Meta(ge=0)] | None = None
    """The sequence number of the last event that the client has."""
    include: Include | tuple[Include, ...] = ()
    """Nothing is added to the stored object; it has all that was included at its creation."""
    include_obfuscation: bool | None = None
    """Events are sent as they were created."""


class ItemsQuery(PageQuery, kw_only=True):
    order: Literal["asc", "desc"] = "desc"
    include: Include | tuple[Include, ...] = ()


class DeletedResponse(Struct, kw_only=True):
    id: str
    object: str = "response"
    deleted: bool = True


@get(
    "/v1/responses/{response_id:str}",
    operation=Operation(
        summary="A stored response, or its events", query=ResponseQuery, answers=(Response,)
    ),
)
async def retrieve_response(response_id: FromPath[str], request: ServerRequest) -> ASGIResponse:
    query = request.read_query(ResponseQuery)
    ignore_include(request, query.include)
    if query.include_obfuscation is not None:
        request.record.unknown += ("include_obfuscation",)
    if query.stream:
        return await resume(request, response_id, query.starting_after)
    if query.starting_after is not None:
        raise InvalidRequestError(
            "'starting_after' needs 'stream' to be true.", param="starting_after"
        )
    entry = await request.stored().get("response", response_id, request.caller())
    return JSONResponse(entry.object)


@delete(
    "/v1/responses/{response_id:str}",
    status_code=200,
    operation=Operation(summary="Delete a stored response", answers=(DeletedResponse,)),
)
async def delete_response(response_id: FromPath[str], request: ServerRequest) -> JSONResponse:
    caller = request.caller()
    await request.running.cancel(caller, response_id)
    await request.stored().delete("response", response_id, caller)
    return JSONResponse(DeletedResponse(id=response_id))


@get(
    "/v1/responses/{response_id:str}/input_items",
    operation=Operation(
        summary="The items that a response answers, earlier ones included",
        query=ItemsQuery,
        answers=(StoredList,),
    ),
)
async def list_input_items(response_id: FromPath[str], request: ServerRequest) -> JSONResponse:
    query = request.read_query(ItemsQuery)
    ignore_include(request, query.include)
    store = request.stored()
    entry = await store.get("response", response_id, request.caller())
    items = await _input_items(store, entry)
    return JSONResponse(to_list(*select(to_members(items), query.page)))


async def _input_items(store: Store, entry: Entry) -> list[InputItem]:
    """Return the items before a response, and its own input; where an earlier response was
    deleted, the latter alone."""
    earlier: Sequence[Entry] = ()
    try:
        if entry.previous is not None:
            earlier = await store.chain(entry.previous, entry.caller)
    except NotStoredError:
        return input_of(entry)
    before = await opening(store, [*earlier, entry][0])
    return [*before, *[item for each in earlier for item in items_of(each)], *input_of(entry)]


def ignore_include(request: ServerRequest, include: Include | tuple[Include, ...]) -> None:
    """Name `include` in `x-tandem-ignored` if it asks for what may not be there."""
    names = (include,) if isinstance(include, str) else include
    if any(name != _ALWAYS_INCLUDED for name in names):
        request.record.unknown += ("include",)
