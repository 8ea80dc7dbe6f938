"""Render and tokenize prompts with Ollama."""

from collections.abc import Sequence

from msgspec import Struct, field

from adapters.ollama.client import OllamaClient
from adapters.ollama.wire import ChatMessage, Options

_SECONDS = 120.0
"""Includes the time to load the model."""


class Tokens(Struct, frozen=True):
    ids: tuple[int, ...]
    """Ids of the text and of `generated`."""
    generated: str
    """Text generated after it: Ollama returns ids only together with an answer."""


def _one_token() -> Options:
    return Options(num_predict=1, temperature=0)


class _RenderBody(Struct, kw_only=True):
    model: str
    messages: list[ChatMessage]
    stream: bool = False
    options: Options = field(default_factory=_one_token)
    render_only: bool = field(default=True, name="_debug_render_only")


class _Rendered(Struct):
    rendered_template: str


class _RenderAnswer(Struct):
    debug: _Rendered | None = field(default=None, name="_debug_info")


class _TokensBody(Struct, kw_only=True):
    model: str
    prompt: str
    template: str = "{{ .Prompt }}"
    stream: bool = False
    options: Options = field(default_factory=_one_token)


class _TokensAnswer(Struct):
    response: str = ""
    context: tuple[int, ...] = ()


async def render(
    client: OllamaClient, model: str, messages: Sequence[tuple[str, str]]
) -> str | None:
    """The prompt for `messages`, each a role and a text; `None` if this Ollama cannot render it.

    Raises:
        BackendError: see `OllamaClient.post`.
    """
    chat = [ChatMessage(role=role, content=content) for role, content in messages]
    body = _RenderBody(model=model, messages=chat)
    answer = await client.post("/api/chat", body, _RenderAnswer, _SECONDS)
    return answer.debug.rendered_template if answer.debug else None


async def tokens(client: OllamaClient, model: str, text: str) -> Tokens:
    """Tokenize `text` with the model's vocabulary, control tokens included.

    Raises:
        BackendError: see `OllamaClient.post`.
    """
    body = _TokensBody(model=model, prompt=text)
    answer = await client.post("/api/generate", body, _TokensAnswer, _SECONDS)
    return Tokens(answer.context, answer.response)
