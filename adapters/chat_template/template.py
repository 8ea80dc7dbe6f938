"""The chat template of one model: rendering in its own form, and the plan made for it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from adapters.chat_template.confined import RENDERERS
from adapters.chat_template.folder import choose
from adapters.chat_template.form import to_template_message, to_template_tool
from adapters.chat_template.jinja import TemplateRefusalError, mentions
from adapters.chat_template.probing import Probe, Refusal


class ChatTemplate(Protocol):
    """Renders conversations of one model."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        arguments: Mapping[str, Any],
    ) -> str:
        """
        Raises:
            TemplateRefusalError: the template's own reason.
            TemplateLimitError: it takes too long, or too much memory.
        """
        ...


class JinjaTemplates:
    """One Jinja template, or one for conversations with tools and one for others."""

    def __init__(self, texts: Mapping[str, str], tokens: Mapping[str, str]) -> None:
        """`tokens`: the texts of `bos_token` and the like."""
        self.texts = dict(texts)
        self._tokens = dict(tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        arguments: Mapping[str, Any],
    ) -> str:
        text = choose(self.texts, tools=bool(tools))
        given = {**self._tokens, **arguments}
        if "enable_thinking" in arguments and mentions(text, "thinking"):
            # DeepSeek's and Granite's name for it.
            given.setdefault("thinking", arguments["enable_thinking"])
        return RENDERERS.render(text, messages, tools, given)


def answer_probe(template: ChatTemplate, probe: Probe) -> str | Refusal:
    """Render a probe of `adapters.chat_template`."""
    messages = [to_template_message(message, probe.form) for message in probe.messages]
    arguments: dict[str, Any] = {"add_generation_prompt": probe.generate}
    if probe.thinking is not None:
        arguments["enable_thinking"] = probe.thinking
    if probe.effort is not None:
        arguments["reasoning_effort"] = probe.effort
    empty: list[dict[str, Any]] | None = None if probe.form.no_tools == "null" else []
    tools = [to_template_tool(tool) for tool in probe.tools] or empty
    try:
        return template.render(messages, tools, arguments)
    except TemplateRefusalError as error:
        return Refusal(str(error))
