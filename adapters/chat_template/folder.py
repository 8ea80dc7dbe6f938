"""Read the chat templates of a model folder, wherever its authors' tools put them."""

import json
from pathlib import Path
from typing import Any, cast

DEFAULT = "default"
TOOL_USE = "tool_use"
"""Name of the template for conversations with tools, where a model has one of its own."""
ADDITIONAL = "additional_chat_templates"
"""Folder of named templates. Source: transformers.utils.hub.list_repo_templates"""


def read_templates(folder: Path) -> dict[str, str]:
    """Return the templates by name; empty if there is none.

    A file of its own comes before the configuration of the tokenizer, as in transformers.
    """
    configured = _configured(_object(folder / "tokenizer_config.json").get("chat_template"))
    of_processor = _configured(_object(folder / "chat_template.json").get("chat_template"))
    own = {DEFAULT: text} if (text := _text(folder / "chat_template.jinja")) else {}
    named = {
        file.stem: text
        for file in sorted((folder / ADDITIONAL).glob("*.jinja"))
        if (text := _text(file))
    }
    return {**(configured or of_processor), **named, **own}


def choose(templates: dict[str, str], *, tools: bool) -> str:
    """Return the template of a conversation; `tools`: whether functions are offered."""
    if tools and TOOL_USE in templates:
        return templates[TOOL_USE]
    return templates.get(DEFAULT) or next(iter(templates.values()))


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the texts of `bos_token` and the like, which templates read."""
    config = _object(folder / "tokenizer_config.json")
    files = (_object(folder / "special_tokens_map.json"), config)
    merged = {name: value for file in files for name, value in file.items()}
    return {
        name: text
        for name, value in merged.items()
        if name.endswith("_token") and (text := _token(value)) is not None
    }


def renderer_name(folder: Path) -> str | None:
    """Return the name of mlx-lm's own renderer, for a model with a function as template."""
    name = _object(folder / "tokenizer_config.json").get("chat_template_type")
    return name if isinstance(name, str) and name.isidentifier() else None


def _configured(value: Any) -> dict[str, str]:
    """One template, or a list of named ones."""
    if isinstance(value, str):
        return {DEFAULT: value}
    named = cast(list[Any], value) if isinstance(value, list) else []
    entries = [cast(dict[str, Any], entry) for entry in named if isinstance(entry, dict)]
    return {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }


def _token(value: Any) -> str | None:
    if isinstance(value, dict):
        value = cast(dict[str, Any], value).get("content")
    return value if isinstance(value, str) else None


def _object(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or holds something else."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
