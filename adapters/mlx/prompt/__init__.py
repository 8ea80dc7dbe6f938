"""Turns requests into prompts: chat templates, raw text, token ids, grammars."""
