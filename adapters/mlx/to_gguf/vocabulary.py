# pyright: basic
"""A model's `tokenizer.json` as the metadata of a GGUF, and the proof that it is the same.

How text is cut has no name in `tokenizer.json`: the name is found by what it does to texts. In the
end the metadata is read as an import would read it, and must give the same ids.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.tokenizer import PRE_TOKENIZERS, build_tokenizer, cut_into

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
"""Texts that tell the known ways of cutting apart."""


def vocabulary(folder: Path, config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """`rows` is how many tokens the weights know, which may be more than the vocabulary has.

    Raises:
        UnsupportedGGUFError: another kind than BPE, or one that a GGUF would not reproduce.
        OSError: a file is missing.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    about = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    found = _words(tokenizer, rows) | _ends(tokenizer, about, config)
    found["tokenizer.ggml.add_bos_token"] = _adds_bos(tokenizer)
    if template := _template(folder, about):
        found["tokenizer.chat_template"] = template
    _require_same_ids(tokenizer, found)
    return found


def _words(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        raise UnsupportedGGUFError(f"A tokenizer of type {model['type']} is not supported.")
    tokens, kinds = _tokens(tokenizer, model, rows)
    found: dict[str, Any] = {"tokens": tokens, "token_type": kinds}
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if model.get("byte_fallback"):
        found |= {"model": "llama", "scores": _scores(tokens, merges)}
        found["add_space_prefix"] = "▁" in _first_token(tokenizer)
    else:
        found |= {"model": "gpt2", "merges": [" ".join(merge) for merge in merges]}
        found["pre"] = _pre(tokenizer)
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _tokens(tokenizer: Tokenizer, model: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """All of them by id, and `tokenizer.ggml.token_type` of each; rows without one are unused."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    kinds = [_UNUSED] * rows
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if index >= rows:
            raise UnsupportedGGUFError(f"Token {index} has no weights: there are {rows}.")
        is_byte = bool(model.get("byte_fallback") and _BYTE_TOKEN.fullmatch(token))
        tokens[index], kinds[index] = token, _BYTE if is_byte else _NORMAL
    for index, added in tokenizer.get_added_tokens_decoder().items():
        kinds[index] = _CONTROL if added.special else _USER_DEFINED
    unknown = model.get("unk_token")
    if unknown is not None:
        kinds[model["vocab"][unknown]] = _UNKNOWN
    return tokens, kinds


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """The earlier a piece is made, the higher its score; those that no merge makes come last."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _first_token(tokenizer: Tokenizer) -> str:
    return tokenizer.encode("a", add_special_tokens=False).tokens[0]


def _pre(tokenizer: Tokenizer) -> str:
    for name in PRE_TOKENIZERS:
        if all(_pieces(tokenizer, text) == cut_into(name, text) for text in PROBES):
            return name
    known = ", ".join(PRE_TOKENIZERS)
    raise UnsupportedGGUFError(f"Its way to cut text is none of {known}.")


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    pre = tokenizer.pre_tokenizer
    return [piece for piece, _ in pre.pre_tokenize_str(text)] if pre is not None else [text]


def _adds_bos(tokenizer: Tokenizer) -> bool:
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    if full[len(full) - len(bare) :] != bare or len(full) - len(bare) > 1:
        raise UnsupportedGGUFError("It puts more around a text than one first token.")
    return len(full) > len(bare)


def _ends(
    tokenizer: Tokenizer, about: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    """The ids of the tokens that have a part of their own."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found: dict[str, int] = {}
    for short, long in names.items():
        token = about.get(f"{short}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if text is not None and (index := tokenizer.token_to_id(text)) is not None:
            found[f"tokenizer.ggml.{long}_token_id"] = index
    ends = config.get("eos_token_id")
    others = [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]
    for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"):
        left = [end for end in others if end not in found.values()]
        if key not in found and left:
            found[key] = left[0]
    return found


def _template(folder: Path, about: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = about.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template


def _require_same_ids(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    ours = build_tokenizer(metadata)
    for text in PROBES:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if ours.encode(text, add_special_tokens=False).ids != expected:
            raise UnsupportedGGUFError(f"Its vocabulary would give other ids for {text!r}.")
