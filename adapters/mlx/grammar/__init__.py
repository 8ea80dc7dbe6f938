"""Answers that a grammar allows and no others: schemas, tool calls, patterns, Lark."""
