"""Baseline of `tandem bench relay`: a minimal relay from OpenAI's API to an upstream client.

It uses Litestar's `Stream`, uvicorn, and one encoded Struct per chunk. Run as
`python -m proxy.bench.developers.plain_relay PORT UPSTREAM MODULE CLASS`, where CLASS in MODULE
is a `Client` constructed with the URL UPSTREAM.
"""

import importlib
import sys
from collections.abc import AsyncGenerator
from typing import Any, Protocol, runtime_checkable

import msgspec
import uvicorn
from litestar import Litestar, Response, post
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody
from litestar.response import Stream
from msgspec import Struct


@runtime_checkable
class Client(Protocol):
    def streamed(
        self, model: str, messages: list[dict[str, Any]], max_tokens: int
    ) -> AsyncGenerator[str]: ...

    async def whole(self, model: str, messages: list[dict[str, Any]], max_tokens: int) -> str: ...


class Body(Struct):
    model: str
    messages: list[dict[str, Any]]
    max_tokens: int
    stream: bool = False


class Delta(Struct):
    content: str


class Choice(Struct):
    delta: Delta
    index: int = 0
    finish_reason: str | None = None


class Chunk(Struct):
    model: str
    choices: list[Choice]
    id: str = "chatcmpl-0"
    object: str = "chat.completion.chunk"
    created: int = 0


@post("/v1/chat/completions", status_code=200)
async def create_chat_completion(
    data: JSONBody[Body], client: NamedDependency[Client]
) -> Response[Any]:
    if data.stream:
        return Stream(_frames(data, client), media_type="text/event-stream")
    text = await client.whole(data.model, data.messages, data.max_tokens)
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Response({"id": "chatcmpl-0", "object": "chat.completion", "choices": [choice]})


async def _frames(body: Body, client: Client) -> AsyncGenerator[bytes]:
    async for text in client.streamed(body.model, body.messages, body.max_tokens):
        yield b"data: %b\n\n" % msgspec.json.encode(Chunk(body.model, [Choice(Delta(text))]))
    yield b"data: [DONE]\n\n"


def _main(port: int, upstream: str, module: str, name: str) -> None:
    client: Client = getattr(importlib.import_module(module), name)(upstream)
    app = Litestar(
        [create_chat_completion],
        dependencies={"client": Provide(lambda: client, sync_to_thread=False)},
        openapi_config=None,
        logging_config=None,
    )
    # Uvicorn's defaults without its optional extras, even if they are installed.
    uvicorn.run(app, host="127.0.0.1", port=port, http="h11", loop="asyncio", log_level="warning")


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:5])
