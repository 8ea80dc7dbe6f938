"""What a model's own folder makes of a conversation, without its weights."""

# pyright: basic
from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from mlx_lm.utils import load_tokenizer


class FolderTokenizer:
    """The tokenizer and the chat template that a folder is served with."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)

    def render(self, messages: Sequence[tuple[str, str]]) -> str | None:
        """The prompt for `messages`, each a role and a text.

        `None` where there is no template, or it refuses them.
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
        """The token that it puts before every text, as text; "" where it puts none."""
        bare, whole = self.ids("a"), tuple(self._tokenizer.encode("a"))
        return str(self._tokenizer.decode(whole[: len(whole) - len(bare)]))

    def ids(self, text: str) -> tuple[int, ...]:
        """Control tokens in `text` are read as such; nothing is put before it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))
