"""Tool calls in a model's text: how each model writes them, and how they are read."""

from adapters.mlx.output.tool_calls.syntax import (
    PLAIN_JSON,
    ToolSyntax,
    find_syntax,
    syntax_of_template,
    template_text,
)

__all__ = ["PLAIN_JSON", "ToolSyntax", "find_syntax", "syntax_of_template", "template_text"]
