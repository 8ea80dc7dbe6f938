"""Facts about one model of an Ollama, from `/api/show`."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from adapters.memory import Footprint
from adapters.ollama.context.kv_size import KeyValues, key_values
from adapters.ollama.translate.template import Template, to_template
from adapters.ollama.wire import Show

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FROM = re.compile(r"^FROM (.*[/\\]sha256-([0-9a-f]{64}))$", re.MULTILINE)
_ADAPTER = re.compile(r"^ADAPTER ", re.MULTILINE)
_PRIMING = re.compile(r"^(SYSTEM|MESSAGE) ", re.MULTILINE)
_FILE = re.compile(r"^(FROM|ADAPTER) .*[/\\](sha256-[0-9a-f]{64})$", re.MULTILINE)
_RUNNERS_OWN = re.compile(r"^(num_gpu|main_gpu|num_thread|num_batch|use_mmap)\s.*$", re.MULTILINE)
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
    )


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
    from adapters.gguf.tokenizer import build_tokenizer

    try:
        # A file of that name with another size belongs to another model.
        if size is not None and not size / files / 2 <= blob.stat().st_size <= size:
            return None
        return build_tokenizer(read_metadata(blob, lambda key: key.startswith("tokenizer.")))
    except (OSError, UnsupportedGGUFError):
        return None
