# pyright: basic
"""Convert a model's `tokenizer.json` to the metadata of a GGUF, and check that ids stay the same.

Pre-tokenizers have no name in `tokenizer.json`: the name is found by comparing their output. At the
end the metadata is read like an import reads it, and has to result in the ids that MLX has for the
folder's prompts. These are not always those of `tokenizer.json`: transformers replaces parts of it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.sentencepiece import is_spaces
from adapters.gguf.tokenizer import (
    ENDS,
    NEVER_STRIPPED,
    PRE_TOKENIZER_NAMES,
    STRIPPING_NAME,
    build_tokenizer,
    ignores_merges,
    pre_tokenized,
)
from adapters.mlx.prompt.template import FolderTokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
PROBES = (
    "Hello, World! It's we're I'LL DON'T  a   b",
    "1234567 3.14 2026-11-24 x2y3 ½²Ⅷ",
    "XMLHttpRequest getURLFor iPhone ABCdefGHI",
    "a/b//c ?!\n\n\n  x\r\n\ty \t z   ",
    "naïve Zürich Привет 你好，世界！ こんにちは 안녕 😀👍🏽",
    "for (int i = 0; i < n; i++) {\n    return -x;\n}\n",
)
"""Texts that distinguish the supported pre-tokenizers."""
_PREFIX = "tokenizer.ggml.add_space_prefix"
_ACCENTS = "cafe\u0301 na\u0308ive हिन्दी"
"""Distinguishes those that agree on all probes. Not a probe: Tekken's accents on the hub are not
llama.cpp's."""


def vocabulary(folder: Path, config: Mapping[str, Any], rows: int, spaced: str) -> dict[str, Any]:
    """Metadata of the vocabulary. `rows` of the embedding may exceed the size of the vocabulary.

    `spaced` is the type of one that writes spaces as ▁: `llama`, or `gemma4`, which has merges.

    Raises:
        UnsupportedGGUFError: not BPE, or a GGUF cannot reproduce it.
        OSError: a file is missing.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    metadata = _tokens_and_merges(tokenizer, rows, spaced) | _special_tokens(
        tokenizer, settings, config
    )
    metadata["tokenizer.ggml.add_bos_token"] = _adds_bos(tokenizer)
    if template := _template(folder, settings):
        metadata["tokenizer.chat_template"] = template
    if _strips_after_tokens(tokenizer):
        metadata["general.name"] = STRIPPING_NAME
    return _with_same_ids(metadata, FolderTokenizer(folder))


def _with_same_ids(metadata: dict[str, Any], folder: FolderTokenizer) -> dict[str, Any]:
    """Return `metadata` with which llama.cpp has the ids of the folder's prompts, or of bare texts
    where it has no chat template.

    llama.cpp writes SentencePiece's space before each stretch of text, after control tokens too, or
    nowhere; MLX often writes it at the beginning of a prompt only, where chats have none.
    """
    prompts = [prompt for probe in PROBES if (prompt := folder.render([("user", probe)]))]
    changed = ""
    for candidate in (metadata, {**metadata, _PREFIX: not metadata.get(_PREFIX)}):
        imported = build_tokenizer(candidate)
        different = (
            text
            for text in prompts or PROBES
            if tuple(imported.encode(text, add_special_tokens=False).ids) != folder.ids(text)
        )
        if (found := next(different, None)) is None:
            return candidate
        changed = changed or found
    raise UnsupportedGGUFError(
        f"The vocabulary cannot be converted: the ids of {changed!r} would change."
    )


def _tokens_and_merges(tokenizer: Tokenizer, rows: int, spaced: str) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        raise UnsupportedGGUFError(f"A tokenizer of type {model['type']} is not supported.")
    tokens, kinds = _tokens(tokenizer, model, rows)
    metadata: dict[str, Any] = {"tokens": tokens, "token_type": kinds}
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if model.get("byte_fallback"):
        first = tokenizer.encode("a", add_special_tokens=False).tokens[0]
        # In the order of the merges, highest first; tokens without a merge have the lowest.
        ranks: dict[str, int] = {}
        for rank, merge in enumerate(merges):
            ranks.setdefault("".join(merge), rank)
        scores = [-float(ranks.get(token, len(merges))) for token in tokens]
        metadata |= {"model": spaced, "scores": scores}
        metadata["add_space_prefix"] = "▁" in first
    else:
        metadata["model"] = "gpt2"
        metadata["pre"] = _pre_tokenizer_name(tokenizer, bool(model.get("ignore_merges")))
    if metadata["model"] != "llama":
        metadata["merges"] = [" ".join(merge) for merge in merges]
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def _tokens(tokenizer: Tokenizer, model: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """All tokens by id and their `tokenizer.ggml.token_type`; rows without a token are unused."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    kinds = [_UNUSED] * rows
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if index >= rows:
            raise UnsupportedGGUFError(f"Token {index} has no weights: there are {rows}.")
        is_byte = bool(model.get("byte_fallback") and _BYTE_TOKEN.fullmatch(token))
        tokens[index], kinds[index] = token, _BYTE if is_byte else _NORMAL
    for index, added in tokenizer.get_added_tokens_decoder().items():
        if added.special or not is_spaces(added.content):
            kinds[index] = _CONTROL if added.special else _USER_DEFINED
    unknown = model.get("unk_token")
    if unknown is not None:
        kinds[model["vocab"][unknown]] = _UNKNOWN
    return tokens, kinds


def _pre_tokenizer_name(tokenizer: Tokenizer, ignores: bool) -> str:
    """The name of what splits texts like `tokenizer`, which `ignores` merges for whole tokens."""
    pre = tokenizer.pre_tokenizer

    def agrees(name: str, text: str) -> bool:
        parts = [part for part, _ in pre.pre_tokenize_str(text)] if pre is not None else [text]
        return parts in pre_tokenized(name, text)

    def closeness(name: str) -> tuple[bool, bool]:
        return agrees(name, _ACCENTS), ignores_merges(name) == ignores

    names = [n for n in PRE_TOKENIZER_NAMES if all(agrees(n, text) for text in PROBES)]
    if not names:
        known = ", ".join(PRE_TOKENIZER_NAMES)
        raise UnsupportedGGUFError(f"The pre-tokenizer is not supported, only {known}.")
    return max(names, key=closeness)


def _adds_bos(tokenizer: Tokenizer) -> bool:
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    if full[len(full) - len(bare) :] != bare or len(full) - len(bare) > 1:
        raise UnsupportedGGUFError(
            "The tokenizer adds more than one token at the beginning of a text, which is not "
            "supported."
        )
    return len(full) > len(bare)


def _strips_after_tokens(tokenizer: Tokenizer) -> bool:
    """Return whether control tokens take the white space after them, as llama.cpp has it."""
    added = tokenizer.get_added_tokens_decoder().values()
    others = [token for token in added if token.special and token.content not in NEVER_STRIPPED]
    is_known = all(tokenizer.token_to_id(text) is not None for text in (*NEVER_STRIPPED, "</s>"))
    return is_known and bool(others) and all(token.rstrip for token in others)


def _special_tokens(
    tokenizer: Tokenizer, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    """Ids of the tokens with a role: first, last, unknown, padding, end of turn."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids: dict[str, int] = {}
    for short, long in names.items():
        token = settings.get(f"{short}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if text is not None and (index := tokenizer.token_to_id(text)) is not None:
            ids[f"tokenizer.ggml.{long}_token_id"] = index
    ends = config.get("eos_token_id")
    others = [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]
    for key in (f"tokenizer.ggml.{end}_token_id" for end in ENDS):
        left = [end for end in others if end not in ids.values()]
        if key not in ids and left:
            ids[key] = left[0]
    return ids


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template
