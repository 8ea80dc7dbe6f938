"""An Ollama model, or any GGUF, as a folder for MLX: made, and held against its source."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from adapters.config import MLXConfig, OllamaConfig
from adapters.errors import BackendError, InvalidRequestError, ModelNotFoundError
from adapters.mlx.embedded import imports_folder
from adapters.mlx.gguf import Report, convert
from adapters.ollama.client import OllamaClient
from adapters.ollama.facts import to_facts
from adapters.ollama.rendering import render, tokens
from adapters.ollama.store import StoredModel, find_stored, store_folders
from adapters.ollama.wire import Show, ShowBody

if TYPE_CHECKING:
    from adapters.mlx.rendering import FolderTokenizer

PARITY = "parity.json"
_ROOM = 1.25
"""An MLX folder is larger than its GGUF: scales for 32 weights each, not for 256."""

_LOOK_SECONDS = 5.0

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
"""What tells tokenizers and templates apart: digits, scripts, spaces, control tokens, turns."""


class PromptParity(Struct, frozen=True, kw_only=True):
    """One conversation on both engines. `None` is "not known"."""

    chat: _Chat
    mlx: str | None
    """What MLX's template makes of it; `None`: it refuses, or there is none."""
    ollama: str | None
    same_prompt: bool | None
    same_ids: bool | None
    """Whether Ollama has the same ids for MLX's prompt."""
    ids: int = 0
    """How many."""


class Parity(Struct, frozen=True, kw_only=True):
    model: str
    prompts: tuple[PromptParity, ...] = ()
    not_compared: str | None = None
    """Why there are none."""


class Imported(Struct, frozen=True):
    folder: Path
    report: Report
    parity: Parity


def find_source(named: str, ollama: OllamaConfig | None) -> StoredModel:
    """`ollama:NAME`, or the path of a GGUF.

    Raises:
        BackendError: there is no such model, or it is more than a GGUF.
        OSError: it cannot be read.
    """
    kind, _, name = named.partition(":")
    if kind == "ollama":
        told = asyncio.run(_store_in_use(name, ollama)) if ollama is not None else None
        return find_stored(name, (*([told] if told else []), *store_folders()))
    path = Path(named).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"There is no file '{named}'; a model is `ollama:NAME`.")
    return StoredModel(name=path.stem, weights=path)


async def _store_in_use(name: str, ollama: OllamaConfig) -> Path | None:
    """The store of the Ollama that runs, which may be another one than this user's."""
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            shown = await client.post("/api/show", ShowBody(name), Show, _LOOK_SECONDS)
        except BackendError:  # Its files can be read without it.
            return None
    blob = to_facts(shown, None).blob
    return Path(blob).parents[1] if blob else None


def default_target(source: StoredModel, mlx: MLXConfig) -> Path:
    """Where the MLX backend lists it: by the name that it has on Ollama."""
    return imports_folder(mlx.cache_folder) / source.name


def import_model(
    source: StoredModel,
    target: Path,
    ollama: OllamaConfig | None,
    progress: Callable[[int, int], None],
) -> Imported:
    """Convert, and compare prompts where an Ollama with the model answers.

    Raises:
        UnsupportedGGUFError: something of the model cannot be carried over; says what.
        InexactGGUFError: a tensor would not be the source's.
        InvalidRequestError: the disk has no room for it.
        FileExistsError: `target` is something else.
        OSError: the disk.
    """
    if not target.exists():
        _require_room(source.weights, target)
    report = convert(source.weights, target, progress)
    parity = asyncio.run(compare_prompts(source.name, target, ollama))
    _write(target / PARITY, parity)
    return Imported(target, report, parity)


def _require_room(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = int(source.stat().st_size * _ROOM)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise InvalidRequestError(
            f"{target.parent} has {free / 1e9:.1f} GB free; about {needed / 1e9:.1f} are needed."
        )


async def compare_prompts(model: str, folder: Path, ollama: OllamaConfig | None) -> Parity:
    """What both engines read for each of `CHATS`."""
    if ollama is None:
        return Parity(model=model, not_compared="Ollama is switched off in the config")
    # Here, for it takes seconds to import.
    from adapters.mlx.rendering import FolderTokenizer

    tokenizer = FolderTokenizer(folder)
    async with aclosing(OllamaClient(ollama.addresses[0], ollama)) as client:
        try:
            found = [await _compare(client, model, tokenizer, chat) for chat in CHATS]
        except BackendError as exc:
            return Parity(model=model, not_compared=str(exc))
    return Parity(model=model, prompts=tuple(found))


async def _compare(
    client: OllamaClient, model: str, tokenizer: "FolderTokenizer", chat: _Chat
) -> PromptParity:
    mlx, ollama = tokenizer.render(chat), await render(client, model, chat)
    read = await tokens(client, model, text) if (text := mlx or ollama) else None
    ours = tokenizer.ids(text + read.more) if text and read else ()
    return PromptParity(
        chat=chat,
        mlx=mlx,
        ollama=ollama,
        same_prompt=None if mlx is None or ollama is None else mlx == ollama,
        same_ids=ours == read.ids if read and read.ids else None,
        ids=len(ours),
    )


def _write(path: Path, parity: Parity) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(parity)))
    partial.rename(path)
