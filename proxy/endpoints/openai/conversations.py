"""`/v1/conversations`: stored items that requests to `/v1/responses` continue.

Source: https://platform.openai.com/docs/api-reference/conversations
"""

import time
from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath
from msgspec import Meta, Struct

from adapters.errors import InvalidRequestError
from proxy.endpoints.openai.pages import Metadata, MetadataHolder, StoredList, to_list
from proxy.endpoints.openai.responses.items import CompactionTrigger, InputItem, ItemReference
from proxy.endpoints.openai.responses.stored import ItemsQuery, ignore_include
from proxy.endpoints.openai.responses.stored_items import complete_all, to_members
from proxy.endpoints.openai.responses.translate import fill_types
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import decode
from proxy.http.json_response import JSONResponse
from proxy.openapi import Operation
from proxy.record import new_id
from proxy.stored.entry import Entry, Item

_KIND = "conversation"
NewItems = Annotated[list[InputItem], Meta(max_length=20)]


class NewConversation(Struct, kw_only=True):
    """All fields are optional, and so is the body."""

    items: NewItems | None = None
    metadata: Metadata | None = None


class ItemsToAdd(Struct, kw_only=True):
    items: NewItems


class Conversation(Struct, kw_only=True):
    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(Struct, kw_only=True):
    id: str
    object: str = "conversation.deleted"
    deleted: bool = True


@post(
    "/v1/conversations",
    status_code=200,
    operation=Operation(
        summary="Create a conversation",
        asks=(NewConversation,),
        may_be_empty=True,
        answers=(Conversation,),
    ),
)
async def create_conversation(request: ServerRequest) -> JSONResponse:
    body = await request.parse(
        await request.read_body() or b"{}",
        lambda raw: request.convert(fill_types(decode(raw, object), "items"), NewConversation),
    )
    store, caller = request.stored(), request.caller()
    members = to_stored(body.items or [])
    conversation = Conversation(
        id=new_id("conv_"), created_at=int(time.time()), metadata=body.metadata or {}
    )
    entry = Entry(
        id=conversation.id, kind=_KIND, caller=caller, object=msgspec.json.encode(conversation)
    )
    await store.keep(entry, conversation.metadata)
    await store.append(conversation.id, caller, members)
    return JSONResponse(conversation)


def to_stored(items: list[InputItem]) -> list[Item]:
    """Complete new items.

    Raises:
        InvalidRequestError: one of them is an instruction to the server and no item.
    """
    for at, item in enumerate(items):
        if isinstance(item, ItemReference | CompactionTrigger):
            raise InvalidRequestError(
                f"'items[{at}]' cannot be an item of a conversation.", param=f"items[{at}]"
            )
    return to_members(complete_all(items))


@get(
    "/v1/conversations/{conversation_id:str}",
    operation=Operation(summary="A conversation", answers=(Conversation,)),
)
async def retrieve_conversation(
    conversation_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    entry = await request.stored().get(_KIND, conversation_id, request.caller())
    return JSONResponse(entry.object)


@post(
    "/v1/conversations/{conversation_id:str}",
    status_code=200,
    operation=Operation(
        summary="Replace the metadata of a conversation",
        asks=(MetadataHolder,),
        answers=(Conversation,),
    ),
)
async def update_conversation(
    conversation_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    body = await request.read(MetadataHolder)
    return JSONResponse(
        await request.stored().set_metadata(
            _KIND, conversation_id, request.caller(), body.metadata or {}
        )
    )


@delete(
    "/v1/conversations/{conversation_id:str}",
    status_code=200,
    operation=Operation(
        summary="Delete a conversation with its items", answers=(DeletedConversation,)
    ),
)
async def delete_conversation(
    conversation_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    await request.stored().delete(_KIND, conversation_id, request.caller())
    return JSONResponse(DeletedConversation(id=conversation_id))


@post(
    "/v1/conversations/{conversation_id:str}/items",
    status_code=200,
    operation=Operation(
        summary="Add items to a conversation", asks=(ItemsToAdd,), answers=(StoredList,)
    ),
)
async def create_items(conversation_id: FromPath[str], request: ServerRequest) -> JSONResponse:
    body = await request.parse(
        await request.read_body(),
        lambda raw: request.convert(fill_types(decode(raw, object), "items"), ItemsToAdd),
    )
    members = to_stored(body.items)
    await request.stored().append(conversation_id, request.caller(), members)
    return JSONResponse(to_list(members, has_more=False))


@get(
    "/v1/conversations/{conversation_id:str}/items",
    operation=Operation(
        summary="The items of a conversation", query=ItemsQuery, answers=(StoredList,)
    ),
)
async def list_items(conversation_id: FromPath[str], request: ServerRequest) -> JSONResponse:
    query = request.read_query(ItemsQuery)
    ignore_include(request, query.include)
    found = await request.stored().items(conversation_id, request.caller(), query.page)
    return JSONResponse(to_list(*found))


@get(
    "/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    operation=Operation(summary="An item of a conversation", answers=(InputItem,)),
)
async def retrieve_item(
    conversation_id: FromPath[str], item_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    item = await request.stored().item(conversation_id, request.caller(), item_id)
    return JSONResponse(item.object)


@delete(
    "/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    status_code=200,
    operation=Operation(summary="Delete an item of a conversation", answers=(Conversation,)),
)
async def delete_item(
    conversation_id: FromPath[str], item_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    store, caller = request.stored(), request.caller()
    await store.delete_item(conversation_id, caller, item_id)
    entry = await store.get(_KIND, conversation_id, caller)
    return JSONResponse(entry.object)
