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

from adapters.errors import BackendError
from adapters.request import GenerationRequest, Message, TextPart
from proxy.endpoints.generate import Call, generate, to_routed
from proxy.endpoints.openai.responses.dialect import RESPONSES, begin, look_up, needs_store, to_call
from proxy.endpoints.openai.responses.items import (
    CompactionItem,
    InputItem,
    InputText,
    MessageItem,
    OutputItem,
    OutputText,
)
from proxy.endpoints.openai.responses.kept import store_of
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.response import Usage, to_usage
from proxy.endpoints.openai.responses.translate import to_param
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import decode
from proxy.http.json_response import ErrorDialect, JSONResponse
from proxy.openapi import Operation
from proxy.record import new_id
from proxy.sinks import Collector

_INSTRUCTION = (
    "Summarise the conversation so far, so that another assistant can continue it without reading "
    "it: what the user wants, decisions, facts, names, results of tools, and what is left to do. "
    "Write the summary only."
)
_PREFACE = "Summary of the conversation so far:\n"
_SHARE = 4
"""A summary has at most one of so many tokens of what it replaces."""
_LEAST_TOKENS = 16


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
    turn = await request.parse(
        await request.read_body(),
        lambda raw: begin(request, decode(raw, object), store_of(request)),
    )
    if needs_store(turn):
        turn = await look_up(turn)
    older, kept = split_turns([*turn.earlier, *turn.items])
    summary = await summarise(request, replace(turn, earlier=(), items=older))
    item = CompactionItem(
        id=new_id("cmp_"), encrypted_content=turn.encryption.seal_summary(summary)
    )
    return JSONResponse(
        Compaction(
            id=new_id("resp_"),
            created_at=int(time.time()),
            output=[item, *map(complete, kept)],
            usage=to_usage(request.record),
        )
    )


def split_turns(items: Sequence[InputItem]) -> tuple[Sequence[InputItem], Sequence[InputItem]]:
    """Return the items to summarise and those of the last turn; a single turn is summarised."""
    starts = [
        at for at, item in enumerate(items) if isinstance(item, MessageItem) and item.role == "user"
    ]
    last = starts[-1] if len(starts) > 1 else len(items)
    return items[:last], items[last:]


async def summarise(request: ServerRequest, turn: Turn) -> str:
    """Return a summary of the items of `turn` by its model.

    Raises:
        BackendError: as an answer.
    """
    call = to_call(request, turn)
    try:
        (prompt,) = await to_routed(request, call)
        counted = await request.router.count_tokens(prompt, request.record)
    except BackendError as exc:
        exc.param = to_param(exc.param, call.body)
        raise
    limit = max(_LEAST_TOKENS, counted.tokens // _SHARE)
    asking = replace(call, requests=(_asking(call, limit),), stream=False)
    collector = Collector()
    await request.finish(generate(request, RESPONSES, asking, collector))
    (answer,) = collector.answers()
    return _PREFACE + answer.text.strip()


def _asking(call: Call[Turn], limit: int) -> GenerationRequest:
    """Ask for a summary of the messages of a request, without tools and formats."""
    prompt = call.requests[0].prompt
    messages = prompt if isinstance(prompt, tuple) else ()
    instruction = Message(role="user", content=(TextPart(_INSTRUCTION),))
    return GenerationRequest(
        model=call.requests[0].model,
        prompt=(*messages, instruction),
        max_tokens=limit,
        sampling=call.requests[0].sampling,
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
