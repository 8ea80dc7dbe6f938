"""What Ollama makes of a conversation: the text its template gives, and the ids of a text."""

from collections.abc import Sequence

from msgspec import Struct, field

from adapters.ollama.client import OllamaClient
from adapters.ollama.wire import ChatMessage, Options

_SECONDS = 120.0
"""The model may have to be loaded."""


class Tokens(Struct, frozen=True):
    ids: tuple[int, ...]
    """Of the text that was asked for and of `more`."""
    more: str
    """What the model said after it: Ollama tells no ids before it has said something."""


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
    """The prompt for `messages`, each a role and a text; `None` where this Ollama does not tell.

    Raises:
        BackendError: as of `OllamaClient.post`.
    """
    chat = [ChatMessage(role=role, content=content) for role, content in messages]
    body = _RenderBody(model=model, messages=chat)
    answer = await client.post("/api/chat", body, _RenderAnswer, _SECONDS)
    return answer.debug.rendered_template if answer.debug else None


async def tokens(client: OllamaClient, model: str, text: str) -> Tokens:
    """The ids that the model's own vocabulary has for `text`, control tokens read as such.

    Raises:
        BackendError: as of `OllamaClient.post`.
    """
    body = _TokensBody(model=model, prompt=text)
    answer = await client.post("/api/generate", body, _TokensAnswer, _SECONDS)
    return Tokens(answer.context, answer.response)
