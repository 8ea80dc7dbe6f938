"""`POST /v1/responses/compact`: a conversation in fewer tokens.

The model summarises all turns but the last, which is kept whole. The summary is encrypted for the
client, as OpenAI does, and is a message of the user where the client sends it back.
"""

import time
from collections.abc import Sequence

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import Struct
from msgspec.structs import replace

from proxy.endpoints.openai.responses.database_store import store_of
from proxy.endpoints.openai.responses.dialect import RESPONSES, begin, look_up, needs_store, to_call
from proxy.endpoints.openai.responses.items import (
    InputItem,
    InputText,
    MessageItem,
    OutputItem,
    OutputText,
)
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.response import Usage, to_usage
from proxy.endpoints.openai.responses.summary import split_turns, summarise
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import decode
from proxy.http.json_response import ErrorDialect, JSONResponse
from proxy.openapi import Operation
from proxy.record import new_id


class Compaction(Struct, kw_only=True):
    id: str
    object: str = "response.compaction"
    created_at: int
    output: Sequence[InputItem | OutputItem]
    usage: Usage


@post(
    "/v1/responses/compact",
    status_code=200,
    operation=Operation(
        summary="Compact a conversation",
        asks=(ResponseRequest,),
        answers=(Compaction,),
        may_force=True,
    ),
    errors=ErrorDialect(RESPONSES.failure),
    fast=True,
)
async def compact_response(request: ServerRequest) -> ASGIResponse:
    """Answer with the summary of the earlier turns, and the items of the last one."""
    request.record.operation = RESPONSES.operation
    turn = await request.parse(
        await request.read_body(),
        lambda raw: begin(request, decode(raw, object), store_of(request)),
    )
    if needs_store(turn):
        turn = await look_up(turn)
    older, kept = split_turns([*turn.earlier, *turn.items])
    call = to_call(request, replace(turn, earlier=(), items=older))
    item = await summarise(request, RESPONSES, call)
    return JSONResponse(
        Compaction(
            id=new_id("resp_"),
            created_at=int(time.time()),
            output=[item, *map(complete, kept)],
            usage=to_usage(request.record),
        )
    )


def complete(item: InputItem) -> InputItem:
    """Give an item of an input the fields that items of an output have."""
    if not isinstance(item, MessageItem):
        return item
    content = item.content
    if isinstance(content, str):
        is_own = item.role == "assistant"
        content = [OutputText(text=content) if is_own else InputText(text=content)]
    return replace(
        item,
        id=item.id or new_id("msg_"),
        status=item.status or "completed",
        content=content,
    )
