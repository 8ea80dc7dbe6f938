"""`POST /v1/responses/input_tokens`: count the tokens of a prompt without generating an answer."""

from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import Struct

from proxy.endpoints.generate import count
from proxy.endpoints.openai.responses.database_store import store_of
from proxy.endpoints.openai.responses.dialect import RESPONSES, begin, look_up, needs_store, to_call
from proxy.endpoints.openai.responses.request import ResponseRequest
from proxy.endpoints.openai.responses.translate import to_param
from proxy.endpoints.server_request import ServerRequest
from proxy.http.body import decode
from proxy.http.json_response import ErrorDialect, JSONResponse
from proxy.openapi import Operation


class InputTokens(Struct, kw_only=True):
    object: str = "response.input_tokens"
    input_tokens: int


@post(
    "/v1/responses/input_tokens",
    status_code=200,
    operation=Operation(
        summary="Count the tokens of an input",
        asks=(ResponseRequest,),
        answers=(InputTokens,),
        may_force=True,
    ),
    errors=ErrorDialect(RESPONSES.failure),
    fast=True,
)
async def count_input_tokens(request: ServerRequest) -> ASGIResponse:
    """Count as for an answer; `x-tandem-token-count` says whether exactly."""
    turn = await request.parse(
        await request.read_body(),
        lambda raw: begin(request, decode(raw, object), store_of(request)),
    )
    call = to_call(request, await look_up(turn) if needs_store(turn) else turn)
    counted = await count(request, call, to_param)
    how = {"x-tandem-token-count": "exact" if counted.exact else "estimate"}
    return JSONResponse(InputTokens(input_tokens=counted.tokens), headers=how)
