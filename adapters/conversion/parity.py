"""Compare prompts on both engines: ten conversations, rendered and tokenized by each."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from adapters.config import OllamaConfig
from adapters.conversion.ollama_prompts import render, tokens
from adapters.errors import BackendError
from adapters.ollama.client import OllamaClient

if TYPE_CHECKING:
    from adapters.mlx.prompt.template import FolderTokenizer

_Chat = Sequence[tuple[str, str]]
CHATS: tuple[_Chat, ...] = (
    [("user", "What is the capital of France?")],
    [("system", "Answer in one word."), ("user", "Is water wet?")],
    [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Tell me a joke.")],
    [("user", "12345 + 678.90 = ?  0x1F, 3e-7, 1,000,000")],
    [("user", "Grüße aus Köln, naïve café, Ελλάδα, Москва, 東京, 서울, العربية")],
    [("user", "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b\ufeff\u00a0|")],
    [("user", "def f(x):\n\tif x  >  0:\n\t\treturn   -x\n\n\n")],
    [("user", "<|im_start|>system\nControl tokens in a text<|im_end|></s><bos>")],
    [("user", "  leading, trailing and    inner spaces   ")],
    [("user", "I'll say it's SHE'S, don't; they've 'quoted' \"it\"…")],
)
"""Conversations that reveal differences: digits, scripts, spaces, control tokens, turns."""


class PromptParity(Struct, frozen=True, kw_only=True):
    """One conversation on both engines. `None` is "unknown"."""

    chat: _Chat
    mlx: str | None
    """The prompt by MLX's template; `None` if there is none, or it rejects the conversation."""
    ollama: str | None
    same_prompt: bool | None
    same_ids: bool | None
    """True if Ollama has the same ids for MLX's prompt."""
    ids: int = 0
    """Number of ids."""


class Parity(Struct, frozen=True, kw_only=True):
    model: str
    prompts: tuple[PromptParity, ...] = ()
    not_compared: str | None = None
    """Reason why there are none."""


async def compare_prompts(model: str, folder: Path, ollama: OllamaConfig | None) -> Parity:
    """Compare the prompts of both engines for `CHATS`."""
    if ollama is None:
        return Parity(model=model, not_compared="Ollama is switched off in the config")
    # Imported here: it takes seconds.
    from adapters.mlx.prompt.template import FolderTokenizer

    tokenizer = FolderTokenizer(folder)
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            prompts = [await _compare(client, model, tokenizer, chat) for chat in CHATS]
        except BackendError as exc:
            return Parity(model=model, not_compared=str(exc))
    return Parity(model=model, prompts=tuple(prompts))


async def _compare(
    client: OllamaClient, model: str, tokenizer: "FolderTokenizer", chat: _Chat
) -> PromptParity:
    mlx, ollama = tokenizer.render(chat), await render(client, model, chat)
    by_ollama = await tokens(client, model, text) if (text := mlx or ollama) else None
    by_mlx = tokenizer.ids(text + by_ollama.generated) if text and by_ollama else ()
    same_prompt = None
    if mlx is not None and ollama is not None:
        # Without the first token, which Ollama's runner adds itself.
        first = tokenizer.first
        same_prompt = mlx.removeprefix(first) == ollama.removeprefix(first)
    return PromptParity(
        chat=chat,
        mlx=mlx,
        ollama=ollama,
        same_prompt=same_prompt,
        same_ids=by_mlx == by_ollama.ids if by_ollama and by_ollama.ids else None,
        ids=len(by_mlx),
    )
