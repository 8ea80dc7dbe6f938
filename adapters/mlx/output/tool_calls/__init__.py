"""Tool calls in model output: the syntax of each model, and streaming parsers for it."""

from adapters.mlx.output.tool_calls.syntax import PLAIN_JSON, ToolSyntax, syntax_of_template

__all__ = ["PLAIN_JSON", "ToolSyntax", "syntax_of_template"]
