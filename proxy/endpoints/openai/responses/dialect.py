"""`POST /v1/responses`.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Mapping, Sequence
from functools import partial

from litestar.response.base import ASGIResponse
from msgspec import Struct
from msgspec.structs import replace

from proxy.endpoints.generate import Call, answer, generating_route
from proxy.endpoints.openai.responses.background import check_background, start_background
from proxy.endpoints.openai.responses.compaction import compacted, renderer_of
from proxy.endpoints.openai.responses.database_store import store_of
from proxy.endpoints.openai.responses.encrypted import EncryptedContent
from proxy.endpoints.openai.responses.events import EVENTS
from proxy.endpoints.openai.responses.items import InputItem, ItemReference
from proxy.endpoints.openai.responses.request import OTHER_NAMES, ResponseRequest
from proxy.endpoints.openai.responses.response import Response, whole_response
from proxy.endpoints.openai.responses.store import ResponseStore
from proxy.endpoints.openai.responses.stream import DONE, ResponseRenderer
from proxy.endpoints.openai.responses.summary import to_summary
from proxy.endpoints.openai.responses.translate import (
    check,
    fill_types,
    ignored_hints,
    input_items,
    to_param,
    to_turn,
)
from proxy.endpoints.openai.responses.truncation import shorten
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.server_request import ServerRequest
from proxy.errors import Failure
from proxy.http.body import decode
from proxy.http.event_stream import SSE, Put
from proxy.openapi import Operation
from proxy.record import ModelOperation, Record
from proxy.sinks import Answer


class ResponsesDialect:
    framing = SSE
    operation: ModelOperation = "chat"

    def parse(self, request: ServerRequest, raw: bytes) -> Call[Turn]:
        turn = begin(request, decode(raw, object), store_of(request))
        if needs_store(turn) or turn.compacts:
            return _prepared(turn)
        return to_call(request, turn)

    def renderer(self, call: Call[Turn], record: Record, put: Put) -> ResponseRenderer:
        return renderer_of(call.body, record, put, last=DONE)

    def whole(self, call: Call[Turn], answers: Sequence[Answer], record: Record) -> Response:
        turn, (answer,) = call.body, answers
        return (
            compacted(turn, answer, record)
            if turn.compacts
            else whole_response(turn, answer, record)
        )

    def to_param(self, feature: str | None, body: Turn) -> str | None:
        return to_param(feature, body)

    def failure(self, failure: Failure) -> Struct:
        return failure.body


def begin(request: ServerRequest, body: object, store: ResponseStore) -> Turn:
    """Read a decoded body.

    Raises:
        InvalidRequestError: it is malformed, or its fields conflict.
        UnsupportedParameterError: no backend can honour a field; `param` is its path.
    """
    parsed = request.convert(fill_types(body), ResponseRequest, OTHER_NAMES)
    check(parsed)
    request.record.unknown += ignored_hints(parsed, store.keeps)
    return Turn(
        body=parsed,
        encryption=EncryptedContent(request.encryption),
        items=input_items(parsed),
        store=store,
        client=request.caller(),
    )


def needs_store(turn: Turn) -> bool:
    """True if the request refers to stored answers."""
    body = turn.body
    return (
        body.previous_response_id is not None
        or body.conversation is not None
        or any(isinstance(item, ItemReference) for item in turn.items)
    )


async def look_up(turn: Turn) -> Turn:
    """Complete the input by what the store has; errors as `ResponseStore.earlier`."""
    earlier: Sequence[InputItem] = ()
    if turn.body.previous_response_id is not None or turn.body.conversation is not None:
        earlier = await turn.store.earlier(turn.body, turn.client)
    ids = [item.id for item in turn.items if isinstance(item, ItemReference)]
    found: Mapping[str, InputItem] = await turn.store.find(ids, turn.client) if ids else {}
    items: list[InputItem] = [
        found.get(item.id, item) if isinstance(item, ItemReference) else item for item in turn.items
    ]
    return replace(turn, earlier=earlier, items=items)


def to_call(request: ServerRequest, turn: Turn) -> Call[Turn]:
    """Translate a turn, complete with the items before it; errors as `begin`."""
    turn, generation, ignored = to_turn(turn)
    request.record.unknown += ignored
    call = Call(
        body=turn,
        requests=(generation,),
        stream=bool(turn.body.stream),
        backend=turn.body.backend,
        cache_key=turn.body.prompt_cache_key,
        finish=turn.store.settle,
        shorten=shorten if turn.body.truncation == "auto" else None,
    )
    if not turn.body.background:
        return call
    check_background(turn)
    return replace(call, respond=partial(start_background, dialect=RESPONSES, call=call))


def _prepared(turn: Turn) -> Call[Turn]:
    return Call(
        body=turn, requests=(), stream=False, respond=partial(_prepare_and_answer, turn=turn)
    )


async def _prepare_and_answer(request: ServerRequest, turn: Turn) -> ASGIResponse:
    return await answer(request, RESPONSES, await prepare(request, turn))


async def prepare(request: ServerRequest, turn: Turn) -> Call[Turn]:
    """Translate a turn that needs the store, or the count of its tokens.

    Raises:
        BackendError: as `look_up`, `to_call` or `to_summary`.
    """
    call = to_call(request, await look_up(turn) if needs_store(turn) else turn)
    return await to_summary(request, RESPONSES, call) if turn.compacts else call


RESPONSES = ResponsesDialect()

create_response = generating_route(
    "/v1/responses",
    RESPONSES,
    Operation(
        summary="OpenAI's responses",
        asks=(ResponseRequest,),
        answers=(Response,),
        events=EVENTS,
        may_force=True,
    ),
    name="create_response",
)
