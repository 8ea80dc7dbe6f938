"""The chat template of an MLX model, read from its folder and its tokenizer.

`FolderTokenizer` renders and tokenizes without the weights, to compare the prompts of both engines.
"""

# pyright: basic
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.chat_template.folder import read_templates, renderer_name
from adapters.chat_template.jinja import TemplateRefusalError
from adapters.chat_template.template import ChatTemplate, JinjaTemplates
from adapters.mlx.models.tokenizer import open_tokenizer
from adapters.mlx.output.reasoning import find_reasoning
from adapters.mlx.prompt.learned import Learned, learn, learn_from_texts


class FunctionTemplate:
    """A template that is a function of mlx-lm (`chat_template_type`)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        arguments: Mapping[str, Any],
    ) -> str:
        given = {"tools": tools} if tools else {}
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, tokenize=False, **given, **arguments)
            )
        except Exception as error:
            # The same as with Jinja: whatever it raises is about this conversation.
            raise TemplateRefusalError(str(error) or type(error).__name__) from error


def read_template(path: Path, tokenizer: Any) -> tuple[ChatTemplate | None, Learned | None]:
    """Return the template of a model and what it shows; `None` for a model without one."""
    parser = str(tokenizer.init_kwargs.get("tool_parser_type") or "")
    ends = frozenset(str(tokenizer.convert_ids_to_tokens(end)) for end in tokenizer.eos_token_ids)
    if tokenizer.has_chat_template and (name := renderer_name(path)) is not None:
        function = FunctionTemplate(tokenizer)
        return function, learn(function, name, ends=ends, parser=parser)
    texts = _texts(tokenizer.chat_template) or read_templates(path)
    if not texts:
        return None, None
    tokens = {name: str(text) for name, text in tokenizer.special_tokens_map.items()}
    return JinjaTemplates(texts, tokens), learn_from_texts(texts, tokens, ends=ends, parser=parser)


def _texts(template: Any) -> dict[str, str]:
    """The templates of a tokenizer by name."""
    if isinstance(template, dict):
        return {str(name): str(text) for name, text in template.items()}
    return {"default": template} if isinstance(template, str) and template else {}


class FolderTokenizer:
    """Renders and tokenizes as the server does for a model in this folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = open_tokenizer(folder)
        self._template, learned = read_template(folder, self._tokenizer)
        markers = None if learned is None else learned.markers
        self._thinks = find_reasoning(self._tokenizer, markers) is not None

    def render(self, messages: Sequence[tuple[str, str]]) -> str | None:
        """The prompt for `messages`, each a role and a text, with nothing rewritten.

        `None` if there is no template, or it rejects them.
        """
        if self._template is None:
            return None
        chat = [{"role": role, "content": content} for role, content in messages]
        arguments = {"add_generation_prompt": True, "enable_thinking": self._thinks}
        try:
            return self._template.render(chat, None, arguments)
        except TemplateRefusalError:
            return None

    @property
    def first(self) -> str:
        """The token that is prepended to every text, as text; "" if there is none."""
        bare, ids = self.ids("a"), tuple(self._tokenizer.encode("a"))
        return str(self._tokenizer.decode(ids[: len(ids) - len(bare)]))

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokenize `text`, control tokens included; no token is prepended."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))
