"""`POST /api/embed`, and `POST /api/embeddings`, which older clients use.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.backend import Embeddings
from adapters.errors import BackendError, ContextLengthError, InvalidRequestError
from adapters.request import EmbeddingRequest
from proxy.endpoints.generation_fields import Options
from proxy.endpoints.model_loading import load
from proxy.endpoints.ollama.answer import OLLAMA_ERRORS
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.wire_types import TokenCountOrZero
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import KeepAlive, to_keep_alive
from proxy.openapi import Operation

_MOST_INPUTS = 2048
_TOO_LONG = {
    False: "the input length exceeds the context length",
    True: "input after truncation exceeds maximum context length",
}
"""`truncate` -> Ollama's own words, by which its clients know the error."""


class EmbedFields(Struct, kw_only=True):
    model: str
    options: Options | None = None
    """Without effect but for `num_ctx`: they are those of text generation."""
    keep_alive: KeepAlive | None = None
    backend: str | None = None


class EmbedRequest(EmbedFields, kw_only=True):
    """The body of `/api/embed`."""

    input: str | Annotated[list[str], Meta(max_length=_MOST_INPUTS)] | None = None
    """Without text the model is loaded."""
    truncate: bool | None = None
    """True by default, as in Ollama: an input that is too long is cut at its end. False: it is
    refused."""
    dimensions: TokenCountOrZero | None = None
    """A value of 0 stands for all."""


class OldEmbedRequest(EmbedFields, kw_only=True):
    """The body of `/api/embeddings`, which never cuts a text, as in Ollama."""

    prompt: str | None = None


class EmbedAnswer(Struct, kw_only=True):
    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int | UnsetType = UNSET
    """Nanoseconds by the server's clock. This and what follows is absent where nothing was to
    embed, as in Ollama."""
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET


class OldEmbedAnswer(Struct):
    embedding: tuple[float, ...]


_EMBED = Operation(
    summary="Ollama's embeddings", asks=(EmbedRequest,), answers=(EmbedAnswer,), may_force=True
)
_EMBED_OLD = Operation(
    summary="Ollama's older embeddings of one text",
    asks=(OldEmbedRequest,),
    answers=(OldEmbedAnswer,),
    may_force=True,
)


@post("/api/embed", status_code=200, operation=_EMBED, errors=OLLAMA_ERRORS)
async def create_embed(request: ServerRequest) -> ASGIResponse:
    began_at = time.perf_counter()
    request.record.operation = "embeddings"
    body = await request.read(EmbedRequest)
    # A text that is empty by itself is nothing to embed; in a list it has a vector.
    inputs = tuple(filter(None, [body.input])) if isinstance(body.input, str) else body.input or ()
    embeddings = await _embed(request, body, inputs, body.truncate is not False, body.dimensions)
    answer = EmbedAnswer(model=body.model, embeddings=embeddings.vectors)
    if embeddings.vectors:
        answer.total_duration = round((time.perf_counter() - began_at) * 1e9)
        answer.load_duration = 0
        answer.prompt_eval_count = embeddings.prompt_tokens
    # In a thread: many vectors are megabytes of text.
    return JSONResponse(await asyncio.to_thread(msgspec.json.encode, answer))


@post("/api/embeddings", status_code=200, operation=_EMBED_OLD, errors=OLLAMA_ERRORS)
async def create_old_embedding(request: ServerRequest) -> ASGIResponse:
    request.record.operation = "embeddings"
    body = await request.read(OldEmbedRequest)
    embeddings = await _embed(request, body, tuple(filter(None, [body.prompt])), truncate=False)
    return JSONResponse(OldEmbedAnswer(embeddings.vectors[0] if embeddings.vectors else ()))


async def _embed(
    request: ServerRequest,
    body: EmbedFields,
    inputs: Sequence[str],
    truncate: bool,
    dimensions: int | None = None,
) -> Embeddings:
    """Embed `inputs`; without text, load the model and return nothing, as Ollama does."""
    options = body.options.set() if body.options is not None else {}
    request.record.unknown += tuple([f"options.{name}" for name in options if name != "num_ctx"])
    num_ctx: object = options.get("num_ctx")
    if num_ctx is not None and not (isinstance(num_ctx, int) and num_ctx >= 0):
        raise InvalidRequestError("'options.num_ctx' must be a number.", param="options.num_ctx")
    model = request.forced(body.model, body.backend)
    keep_alive = to_keep_alive(body.keep_alive, None)
    if not inputs:
        await load(request, model, keep_alive)
        return Embeddings((), 0)
    routed = EmbeddingRequest(
        model=model,
        inputs=tuple(inputs),
        dimensions=dimensions or None,
        keep_alive=keep_alive,
        truncate=truncate,
        num_ctx=num_ctx,
    )
    try:
        return await request.embed(routed)
    except BackendError as exc:
        exc.param = {"inputs": "input", "embeddings": "model"}.get(exc.param or "", exc.param)
        known = _TOO_LONG[routed.truncate]
        if isinstance(exc, ContextLengthError) and known not in exc.message:
            exc.message = f"{exc.message} ({known})"
        raise
