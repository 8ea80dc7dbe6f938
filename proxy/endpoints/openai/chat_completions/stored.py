"""Stored chat completions: kept with `store: true`, listed, read, updated and deleted.

Source: https://platform.openai.com/docs/api-reference/chat/list
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import asdict

from proxy.endpoints.openai.chat_completions.request import (
    ChatCompletionRequest,
    Message,
)
from proxy.endpoints.openai.chat_completions.response import ChatCompletion
from proxy.endpoints.openai.pages import (
    MetadataHolder,
    PageQuery,
    StoredList,
    select,
    to_list,
    to_metadata,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.http.json_response import JSONResponse
from proxy.openapi import Operation
from proxy.stored.entry import Entry, Item

_KIND = "chat.completion"
_ECHOED = (
    "tool_choice",
    "seed",
    "top_p",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "tools",
    "response_format",
)
"""Fields of the request that a stored completion repeats."""


class StoredChatCompletion(ChatCompletion, kw_only=True):
    """An answer with the parameters of its request."""

    metadata: dict[str, str]
    request_id: str
    input_user: str | None
    tool_choice: Any = None
    seed: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: Any = None
    response_format: Any = None


class StoredMessage(Struct, kw_only=True):
    """A message of the request."""

    id: str
    role: str
    content: str | None
    """`null` where the client sent parts."""
    content_parts: list[Any] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[Any] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    function_call: Any | UnsetType = UNSET


class ChatCompletionsQuery(PageQuery, kw_only=True):
    model: str | None = None
    metadata: dict[str, str] | None = None
    """`metadata[key]=value`; several select what has all."""


class DeletedChatCompletion(Struct, kw_only=True):
    object: str = "chat.completion.deleted"
    id: str
    deleted: bool = True


def keeper(
    request: ServerRequest, body: ChatCompletionRequest
) -> Callable[[ChatCompletion], Awaitable[None]] | None:
    """Return what stores the answer to `body`; `None` where it is not to be stored.

    Raises:
        InvalidRequestError: the metadata cannot be stored.
    """
    if not body.store or request.store is None:
        return None
    metadata = to_metadata(body.metadata)

    async def keep(completion: ChatCompletion) -> None:
        stored = StoredChatCompletion(
            **asdict(completion),
            **{name: getattr(body, name) for name in _ECHOED},
            metadata=metadata,
            request_id=request.record.request_id,
            input_user=body.user,
        )
        entry = Entry(
            id=completion.id,
            kind=_KIND,
            caller=request.caller(),
            object=msgspec.json.encode(stored),
            input=msgspec.json.encode(
                [to_stored(m, f"{completion.id}-{at}") for at, m in enumerate(body.messages)]
            ),
            model=body.model,
        )
        await request.keep(entry, metadata)

    return keep


def to_stored(message: Message, key: str) -> StoredMessage:
    content = message.content
    fields = ("refusal", "name", "tool_calls", "tool_call_id", "function_call")
    sent = {name: getattr(message, name, None) for name in fields}
    return StoredMessage(
        id=key,
        role=str(type(message).__struct_config__.tag),
        content=content if isinstance(content, str) else None,
        content_parts=content if isinstance(content, list) else None,
        **{name: value for name, value in sent.items() if value is not None},
    )


@get(
    "/v1/chat/completions",
    operation=Operation(
        summary="Stored chat completions", query=ChatCompletionsQuery, answers=(StoredList,)
    ),
)
async def list_chat_completions(request: ServerRequest) -> JSONResponse:
    query = request.read_query(ChatCompletionsQuery)
    found = await request.stored().list(
        _KIND, request.caller(), query.page, model=query.model, metadata=query.metadata
    )
    return JSONResponse(to_list(*found))


@get(
    "/v1/chat/completions/{completion_id:str}",
    operation=Operation(summary="A stored chat completion", answers=(StoredChatCompletion,)),
)
async def retrieve_chat_completion(
    completion_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    entry = await request.stored().get(_KIND, completion_id, request.caller())
    return JSONResponse(entry.object)


@post(
    "/v1/chat/completions/{completion_id:str}",
    status_code=200,
    operation=Operation(
        summary="Replace the metadata of a stored chat completion",
        asks=(MetadataHolder,),
        answers=(StoredChatCompletion,),
    ),
)
async def update_chat_completion(
    completion_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    body = await request.read(MetadataHolder)
    return JSONResponse(
        await request.stored().set_metadata(
            _KIND, completion_id, request.caller(), body.metadata or {}
        )
    )


@delete(
    "/v1/chat/completions/{completion_id:str}",
    status_code=200,
    operation=Operation(
        summary="Delete a stored chat completion", answers=(DeletedChatCompletion,)
    ),
)
async def delete_chat_completion(
    completion_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    await request.stored().delete(_KIND, completion_id, request.caller())
    return JSONResponse(DeletedChatCompletion(id=completion_id))


@get(
    "/v1/chat/completions/{completion_id:str}/messages",
    operation=Operation(
        summary="The messages of a stored chat completion's request",
        query=PageQuery,
        answers=(StoredList,),
    ),
)
async def list_chat_completion_messages(
    completion_id: FromPath[str], request: ServerRequest
) -> JSONResponse:
    page = request.read_query(PageQuery).page
    entry = await request.stored().get(_KIND, completion_id, request.caller())
    raw = msgspec.json.decode(entry.input, type=list[Raw])
    members = [Item(f"{completion_id}-{at}", bytes(message)) for at, message in enumerate(raw)]
    return JSONResponse(to_list(*select(members, page)))
