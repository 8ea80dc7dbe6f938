"""`GET /v1/models` and `GET /v1/models/{id}`, which OpenAI's and Anthropic's clients share.

Anthropic's send `anthropic-version`; all others get OpenAI's cards.
"""

from litestar import get
from litestar.params import FromPath

from proxy.endpoints.anthropic.errors import HEADER
from proxy.endpoints.anthropic.models import ModelInfo, ModelPage, to_info, to_page, to_paging
from proxy.endpoints.openai.models import (
    LISTING_SECONDS,
    ModelCard,
    ModelList,
    find_named,
    to_card,
    to_list,
)
from proxy.endpoints.server_request import ServerRequest
from proxy.openapi import Operation


@get(
    "/v1/models",
    operation=Operation(summary="All models by all names", answers=(ModelList, ModelPage)),
)
async def list_models(request: ServerRequest) -> ModelList | ModelPage:
    await request.registry.refresh(LISTING_SECONDS, only_new=True)
    if HEADER not in request.fields:
        return to_list(request.entries())
    query = request.query_params
    paging = to_paging(query.get("after_id"), query.get("before_id"), query.get("limit"))
    return to_page(request.entries(), paging)


@get(
    "/v1/models/{model:path}",
    operation=Operation(summary="A model by any of its names", answers=(ModelCard, ModelInfo)),
)
async def retrieve_model(model: FromPath[str], request: ServerRequest) -> ModelCard | ModelInfo:
    entry, name = await find_named(request.router, model.removeprefix("/"))
    return to_info(entry, name) if HEADER in request.fields else to_card(entry, name)
