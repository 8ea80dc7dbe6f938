"""`POST /v1/embeddings`.

Source: https://platform.openai.com/docs/api-reference/embeddings/create
"""

import asyncio
import base64
import sys
from array import array
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse
from msgspec import Meta, Struct
from msgspec.structs import replace

from adapters.backend import Embeddings
from adapters.errors import BackendError, InvalidRequestError
from adapters.request import EmbeddingRequest, TokenIds
from proxy.endpoints.server_request import ServerRequest
from proxy.endpoints.wire_types import TokenCount, TokenId
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import KeepAlive, to_keep_alive
from proxy.openapi import Operation

_SMALL = 20_000
"""Numbers that are encoded on the event loop, which takes a few milliseconds."""

E = TypeVar("E")
Ids = Annotated[list[TokenId], Meta(min_length=1)]
Format = Literal["float", "base64"]


class EmbeddingsBody(Struct, kw_only=True):
    model: str
    input: str | Annotated[list[str | TokenId | Ids], Meta(min_length=1, max_length=2048)]
    encoding_format: Format | None = None
    dimensions: TokenCount | None = None
    user: str | None = None
    backend: str | None = None
    """The name of the backend that must answer."""
    keep_alive: KeepAlive | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None


class Embedding(Struct, kw_only=True):
    object: str = "embedding"
    index: int
    embedding: tuple[float, ...] | str


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, Generic[E], kw_only=True):
    object: str = "list"
    data: list[E]
    model: str
    usage: EmbeddingUsage


def to_embedding_request(body: EmbeddingsBody) -> EmbeddingRequest:
    """Translate the body; the model keeps its public name.

    Raises:
        InvalidRequestError: an input is empty, or texts and tokens are mixed.
    """
    return EmbeddingRequest(
        model=body.model,
        inputs=to_inputs(body.input),
        dimensions=body.dimensions,
        keep_alive=to_keep_alive(body.keep_alive, body.ttl),
    )


def to_inputs(value: str | list[Any]) -> tuple[str | TokenIds, ...]:
    """Read a text, several texts, the tokens of a text, or those of several texts."""
    inputs: list[Any] = [value] if isinstance(value, str) else value
    if any(type(item) is not type(inputs[0]) for item in inputs):
        raise InvalidRequestError("'input' mixes texts and tokens: send one kind.", param="input")
    if isinstance(inputs[0], int):
        return (TokenIds(tuple(inputs)),)
    for at, item in enumerate(inputs):
        if not item:
            path = "input" if isinstance(value, str) else f"input[{at}]"
            raise InvalidRequestError(f"'{path}' is empty.", param=path)
    return tuple(item if isinstance(item, str) else TokenIds(tuple(item)) for item in inputs)


def to_param(feature: str | None, body: EmbeddingsBody) -> str | None:
    names = {"embedding_tokens": "input", "inputs": "input", "embeddings": "model"}
    if feature == "keep_alive" and body.keep_alive is None:
        return "ttl"
    return names.get(feature, feature) if feature is not None else None


def encode(body: EmbeddingsBody, embeddings: Embeddings) -> bytes:
    """Encode the answer, a vector at a time: other threads get the interpreter in between."""
    in_base64 = body.encoding_format == "base64"
    data = [
        msgspec.Raw(
            msgspec.json.encode(
                Embedding(index=at, embedding=to_base64(vector) if in_base64 else vector)
            )
        )
        for at, vector in enumerate(embeddings.vectors)
    ]
    usage = EmbeddingUsage(embeddings.prompt_tokens, embeddings.prompt_tokens)
    return msgspec.json.encode(EmbeddingList(data=data, model=body.model, usage=usage))


def to_base64(vector: tuple[float, ...]) -> str:
    """Encode as float32, little-endian: the default of OpenAI's SDK."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


_EMBED = Operation(
    summary="OpenAI's embeddings",
    asks=(EmbeddingsBody,),
    answers=(EmbeddingList[Embedding],),
    may_force=True,
)


@post("/v1/embeddings", status_code=200, operation=_EMBED, fast=True)
async def create_embedding(request: ServerRequest) -> ASGIResponse:
    request.record.operation = "embeddings"
    body = await request.read(EmbeddingsBody)
    model = request.forced(body.model, body.backend)
    routed = replace(to_embedding_request(body), model=model)
    try:
        embeddings = await request.embed(routed)
    except BackendError as exc:
        exc.param = to_param(exc.param, body)
        raise
    if sum(map(len, embeddings.vectors)) <= _SMALL:
        return JSONResponse(encode(body, embeddings))
    return JSONResponse(await asyncio.to_thread(encode, body, embeddings))
