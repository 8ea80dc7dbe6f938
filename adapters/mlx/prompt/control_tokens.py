"""Encode the names of control tokens in messages as text, so that no message can end its turn.

A chat template mixes its own control tokens with the text of messages, and a tokenizer cannot tell
them apart. Here the names in messages are replaced by stand-ins before the template is rendered.
Then the template's own control tokens get other names, which only a copy of the tokenizer knows,
and the stand-ins become text again. The copy encodes all of it at once, so that the text between
control tokens has the tokens that it always has.
"""

# pyright: basic
# Tokenizers of Hugging Face are untyped.
import json
import re
from functools import cached_property
from secrets import token_hex
from typing import Any

from adapters.mlx.models.tokenizer import rename_tokens


class ControlTokens:
    """The control tokens of one model. Not for two threads at once."""

    def __init__(self, tokenizer: Any, marks: tuple[str, ...] = ()) -> None:
        """`tokenizer` is mlx-lm's wrapper around that of Hugging Face; `marks` are texts without a
        token of their own that have a meaning in a rendered prompt, such as `<image>`."""
        self._rust: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._tokenizer = tokenizer
        ids = _control_ids(tokenizer, self._rust)
        # Unpredictable for clients, and unchanged by templates: no character is escaped in JSON.
        prefix = f"zq{token_hex(8)}"
        self._ids = ids
        names = (*ids, *(mark for mark in marks if mark not in ids))
        self._hidden = {name: f"{prefix}x{number}z" for number, name in enumerate(names)}
        self._own = {name: f"{prefix}y{number}z" for number, name in enumerate(ids)}
        self._names = _any_of(self._hidden)
        self._stand_ins = {hidden: name for name, hidden in self._hidden.items()}

    def occur_in(self, value: Any) -> bool:
        """True if a string in `value`, of JSON's types, contains the name of a control token."""
        match value:
            case str():
                return self._names is not None and self._names.search(value) is not None
            case dict():
                return any(self.occur_in(part) for pair in value.items() for part in pair)
            case list():
                return any(map(self.occur_in, value))
            case _:
                return False

    def hide(self, value: Any) -> Any:
        """Replace the names of control tokens in all strings of `value` by stand-ins."""
        match value:
            case str():
                return self._replace(value, self._hidden)
            case dict():
                return {self.hide(key): self.hide(part) for key, part in value.items()}
            case list():
                return [self.hide(part) for part in value]
            case _:
                return value

    def encode(self, rendered: str) -> list[int]:
        """Tokenize a rendered template: stand-ins as text, other control tokens as such."""
        stand_ins = _any_of(self._stand_ins)
        assert stand_ins is not None  # noqa: S101 - a name has been hidden.
        if self._copy is None:
            # A space in the name makes it text for any tokenizer.
            text = stand_ins.sub(lambda m: _split(self._stand_ins[m[0]]), rendered)
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        text = self._replace(rendered, self._own)
        text = stand_ins.sub(lambda match: self._stand_ins[match[0]], text)
        return list(self._copy.encode(text, add_special_tokens=False).ids)

    def _replace(self, text: str, names: dict[str, str]) -> str:
        return (
            text if self._names is None else self._names.sub(lambda m: names.get(m[0], m[0]), text)
        )

    @cached_property
    def _copy(self) -> Any | None:
        """A tokenizer that has the control tokens under other names; `None` if there can be none.

        Made once, because it takes a second for a large vocabulary, and few chats need it.
        """
        if self._rust is None:
            return None
        from tokenizers import Tokenizer

        described = rename_tokens(json.loads(self._rust.to_str()), self._own)
        copy: Any = Tokenizer.from_str(json.dumps(described))
        copy.no_padding()
        copy.no_truncation()
        same = all(copy.token_to_id(self._own[name]) == token for name, token in self._ids.items())
        return copy if same else None


def _control_ids(tokenizer: Any, rust: Any) -> dict[str, int]:
    """Return the control tokens with their ids: special tokens, and those that end an answer."""
    if rust is None:
        return {
            name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens
        }
    added = rust.get_added_tokens_decoder()
    ends = frozenset(tokenizer.eos_token_ids)
    return {token.content: id_ for id_, token in added.items() if token.special or id_ in ends}


def _any_of(texts: dict[str, str]) -> re.Pattern[str] | None:
    """Return the pattern of all keys, the longest first."""
    if not texts:
        return None
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def _split(name: str) -> str:
    return f"{name[:1]} {name[1:]}"
