"""A chat without messages, or a prompt without text: the model is loaded or unloaded."""

from datetime import UTC, datetime
from typing import Any

from litestar.response.base import ASGIResponse

from proxy.endpoints.model_loading import load, unload
from proxy.endpoints.ollama.answer import OllamaAnswer
from proxy.endpoints.ollama.fields import OllamaFields
from proxy.endpoints.server_request import ServerRequest
from proxy.http.json_response import JSONResponse
from proxy.keep_alive import to_keep_alive


async def load_or_unload(
    body: OllamaFields, empty: dict[str, Any], request: ServerRequest
) -> ASGIResponse:
    """Answer with one object, streamed or not, as Ollama does.

    `empty`: the field of the answer that has no text.
    """
    if body.options is not None and body.options.set():
        request.record.unknown += ("options",)  # They are an answer's, and there is none.
    model = request.forced(body.model, body.backend)
    keep_alive = to_keep_alive(body.keep_alive, None)
    if keep_alive == 0:
        await unload(request, model)
    else:
        await load(request, model, keep_alive)
    return JSONResponse(
        OllamaAnswer(
            model=body.model,
            created_at=datetime.now(UTC),
            done=True,
            done_reason="unload" if keep_alive == 0 else "load",
            **empty,
        )
    )
