"""Requests to prompts: chat templates, raw text, token ids, grammars."""
