"""Constrained decoding: grammars for schemas, tool calls, regular expressions, Lark."""
