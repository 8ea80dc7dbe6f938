"""Chat template and tokenizer of a model folder, without its weights."""

# pyright: basic
from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from mlx_lm.utils import load_tokenizer


class FolderTokenizer:
    """Renders and tokenizes as the server does for a model in this folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)

    def render(self, messages: Sequence[tuple[str, str]]) -> str | None:
        """The prompt for `messages`, each a role and a text.

        `None` if there is no template, or it rejects them.
        """
        if not self._tokenizer.has_chat_template:
            return None
        chat = [{"role": role, "content": content} for role, content in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError:
            return None

    @property
    def first(self) -> str:
        """The token that is prepended to every text, as text; "" if there is none."""
        bare, ids = self.ids("a"), tuple(self._tokenizer.encode("a"))
        return str(self._tokenizer.decode(ids[: len(ids) - len(bare)]))

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokenize `text`, control tokens included; no token is prepended."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))
