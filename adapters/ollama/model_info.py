"""Facts about one model of an Ollama, from `/api/show`."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from adapters.memory import Footprint
from adapters.ollama.context.kv_size import KeyValues, key_values
from adapters.ollama.translate.template import Template, to_template
from adapters.ollama.wire import Show, ShownVocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

_FROM = re.compile(r"^FROM (.*[/\\]sha256-([0-9a-f]{64}))$", re.MULTILINE)
_ADAPTER = re.compile(r"^ADAPTER ", re.MULTILINE)
_PRIMING = re.compile(r"^(SYSTEM|MESSAGE) ", re.MULTILINE)
_FILE = re.compile(r"^(FROM|ADAPTER) .*[/\\](sha256-[0-9a-f]{64})$", re.MULTILINE)
_RUNNERS_OWN = re.compile(r"^(num_gpu|main_gpu|num_thread|num_batch|use_mmap)\s.*$", re.MULTILINE)
_PARSER = re.compile(r"^PARSER (\S+)$", re.MULTILINE)
_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)$", re.MULTILINE)

_LEAST_CONTEXT = 4
_LEAST_CONTEXT_THAT_SEES = 2048
"""Ollama silently raises less to this (`getRunner` of its scheduler)."""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """`None` is "not known"."""

    context_length: int | None = None
    """Tokens it was trained for; Ollama never allows more."""
    num_ctx: int | None = None
    """Set by its Modelfile."""
    least_context: int = _LEAST_CONTEXT
    """Tokens that Ollama allocates at least."""
    cost: KeyValues | None = None
    size: int | None = None
    """Bytes of the model on disk."""
    blob: str | None = None
    """Path of its weights, on the machine of that server."""
    files: int = 1
    """Number of weight files: a vision model may have a second."""
    template: Template = Template()
    jinja: str = ""
    """The template, where it is in Jinja: llama-server renders it, and reads the answers."""
    thinks: bool = False
    """Ollama lets it think."""
    only_embeds: bool = False
    """It answers neither chats nor prompts."""
    parser: str = ""
    """Name of the parser built into Ollama that reads its answers, if any."""
    adds_first_token: bool = False
    """Its vocabulary puts a first token before every text, so that no text may begin with it."""

    @property
    def is_parsed(self) -> bool:
        """A parser of llama-server's or of Ollama's own reads its answers, and may fail to."""
        return bool(self.jinja or self.parser)

    def footprint(self, num_ctx: int | None) -> Footprint:
        """Estimate its memory with a context of `num_ctx`, with nothing on a GPU."""
        if num_ctx is None or self.cost is None:
            return Footprint(weights=self.size)
        return Footprint(weights=self.size, context=self.cost.bytes(num_ctx))


def to_model_info(shown: Show, size: int | None) -> ModelInfo:
    blob = _FROM.search(shown.modelfile)
    num_ctx = _NUM_CTX.search(shown.parameters)
    length = context_length(shown)
    least = _LEAST_CONTEXT
    if "vision" in (shown.capabilities or ()):
        least = min(_LEAST_CONTEXT_THAT_SEES, length or _LEAST_CONTEXT_THAT_SEES)
    return ModelInfo(
        context_length=length,
        num_ctx=int(num_ctx[1]) if num_ctx else None,
        least_context=least,
        cost=key_values(shown.model_info),
        size=size,
        blob=blob[1] if blob else None,
        files=max(len(_FROM.findall(shown.modelfile)), 1),
        template=to_template(shown),
        jinja=shown.template if "{%" in shown.template else "",
        thinks="thinking" in (shown.capabilities or ()),
        only_embeds=shown.capabilities == ("embedding",),
        parser=parser[1] if (parser := _PARSER.search(shown.modelfile)) else "",
        adds_first_token=_adds_first_token(shown.model_info),
    )


def _adds_first_token(model_info: dict[str, Any]) -> bool:
    """Source: `tokenizerAddsBOS` in Ollama's `llm/llama_server.go`."""
    kind = model_info.get("tokenizer.ggml.model"), model_info.get("tokenizer.ggml.pre")
    return "gemma4" in kind or kind[1] == "lfm2" or bool(model_info.get(_ADD_FIRST))


_ADD_FIRST = "tokenizer.ggml.add_bos_token"
_FIRST = "tokenizer.ggml.bos_token_id"
_CONTROL_TYPES = frozenset({2, 3})
"""`UNKNOWN` and `CONTROL` of GGUF's token types: they are no text of an answer."""


class ControlTokens(Struct, frozen=True):
    """The control tokens of a vocabulary."""

    first: str = ""
    """The token before every text."""
    names: frozenset[str] = frozenset()


def to_control_tokens(shown: ShownVocabulary) -> ControlTokens:
    """Decode a vocabulary, which takes a tenth of a second where it is large.

    Raises:
        msgspec.MsgspecError: it is not what Ollama's API describes.
    """
    info = shown.model_info
    tokens = _decoded(info, "tokenizer.ggml.tokens", list[str])
    types = _decoded(info, "tokenizer.ggml.token_type", list[int])
    first = msgspec.json.decode(info[_FIRST], type=int) if _FIRST in info else -1
    return ControlTokens(
        first=tokens[first] if 0 <= first < len(tokens) else "",
        names=frozenset(
            token for token, kind in zip(tokens, types, strict=False) if kind in _CONTROL_TYPES
        ),
    )


def _decoded(info: dict[str, msgspec.Raw], key: str, kind: type[list[T]]) -> list[T]:
    return msgspec.json.decode(info[key], type=kind) if key in info else []


def runner(shown: Show) -> tuple[str, ...]:
    """Return the arguments of its runner, without the context. Ollama has one runner for all models
    of the same weights, listed by the name of the model that it was started for.

    Source: https://github.com/ollama/ollama/blob/main/server/sched.go (schedulerModelKey,
    needsReload)
    """
    files = [" ".join(file) for file in _FILE.findall(shown.modelfile)]
    options = [option[0] for option in _RUNNERS_OWN.finditer(shown.parameters)]
    return (*files, *sorted(options)) if files else ()


def origin(shown: Show) -> str | None:
    """Return `sha256:…` of the weight file; `None` also where an adapter changes the weights."""
    blob = None if _ADAPTER.search(shown.modelfile) else _FROM.search(shown.modelfile)
    return f"sha256:{blob[2]}" if blob else None


def is_primed(shown: Show) -> bool:
    return _PRIMING.search(shown.modelfile) is not None


def context_length(shown: Show) -> int | None:
    lengths = (v for k, v in shown.model_info.items() if k.endswith(".context_length"))
    return next((value for value in lengths if isinstance(value, int) and value > 0), None)


async def open_vocabulary(facts: ModelInfo) -> "Tokenizer | None":
    """Return the model's own tokenizer, where its weights are on this machine and readable."""
    if facts.blob is None:
        return None
    return await asyncio.to_thread(_read_vocabulary, Path(facts.blob), facts.size, facts.files)


def _read_vocabulary(blob: Path, size: int | None, files: int) -> "Tokenizer | None":
    # Imported here: an idle server does without it.
    from adapters.gguf.conversion import UnsupportedGGUFError
    from adapters.gguf.metadata import read_metadata
    from adapters.gguf.tokenizer import build_tokenizer, is_of_tokenizer

    try:
        # A file of that name with another size belongs to another model.
        if size is not None and not size / files / 2 <= blob.stat().st_size <= size:
            return None
        return build_tokenizer(read_metadata(blob, is_of_tokenizer))
    except (OSError, UnsupportedGGUFError):
        return None
