"""Ollama's official client as documented: the baseline of `tandem bench relay`."""

from collections.abc import AsyncGenerator
from typing import Any

from adapters.ollama.official import ollama


class OfficialChat:
    def __init__(self, host: str) -> None:
        # Typed loosely, as the client itself is.
        self._client: Any = ollama.AsyncClient(host)

    async def streamed(
        self, model: str, messages: list[dict[str, Any]], max_tokens: int
    ) -> AsyncGenerator[str]:
        options = {"num_predict": max_tokens}
        answer = await self._client.chat(model, messages, options=options, stream=True)
        async for part in answer:
            if part.message.content:
                yield part.message.content

    async def whole(self, model: str, messages: list[dict[str, Any]], max_tokens: int) -> str:
        options = {"num_predict": max_tokens}
        answer = await self._client.chat(model, messages, options=options)
        return answer.message.content or ""
