"""The vocabulary of a model as llguidance has to read it."""

# pyright: basic
# Tokenizers of Hugging Face are untyped.
from typing import Any

import msgspec
from llguidance import LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from adapters.mlx.models.tokenizer import rename_tokens


def renamed(tokenizer: str) -> str:
    """Rename the control tokens in the JSON of a tokenizer; leave out padding and truncation.

    llguidance reads texts that a grammar forces as Hugging Face does, which takes the name of a
    control token for the token: `{"enum": ["<|im_end|>"]}` would end the answer in its middle.
    """
    whole = msgspec.json.decode(tokenizer)
    control = _control_names(whole["added_tokens"])
    whole = rename_tokens(whole, {name: f"{name[:1]}\uf8ff{name[1:]}" for name in control})
    whole["decoder"] = _in_parts(whole["decoder"])
    return msgspec.json.encode({**whole, "padding": None, "truncation": None}).decode()


def _in_parts(decoder: Any) -> Any:
    """Return a decoder with `Metaspace` in it by parts that llguidance knows, without the one for
    the space before the first word."""
    parts = (decoder or {}).get("decoders", [decoder or {}])
    spaces = next((part for part in parts if part.get("type") == "Metaspace"), None)
    if spaces is None:
        return decoder
    replaced = {"type": "Replace", "pattern": {"String": spaces["replacement"]}, "content": " "}
    return {"type": "Sequence", "decoders": [replaced, {"type": "ByteFallback"}, {"type": "Fuse"}]}


def _control_names(added: list[dict[str, Any]]) -> list[str]:
    """Return the added tokens that llguidance takes for control tokens: those that say so, and some
    that look so, as `<tool_call>`. It is asked with a vocabulary that has no others."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    small: Any = Tokenizer(BPE({letter: token for token, letter in enumerate(letters)}, []))
    small.decoder = decoders.ByteLevel()
    names = [each["content"] for each in added]
    small.add_tokens([AddedToken(each["content"], special=each["special"]) for each in added])
    read = LLTokenizer(small.to_str(), eos_token=0)
    return [name for name in names if read.is_special_token(small.token_to_id(name))]
