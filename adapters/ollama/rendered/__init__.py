"""Answers generated from a prompt that Ollama renders and Tandem completes.

Ollama renders a conversation (`/api/chat` with `_debug_render_only`), and the answer is generated
from that text (`/api/generate` with `raw`) under a grammar from its first token on. So a schema, a
forced call or the continuation of a message is the same for every way in which Ollama renders and
parses chats.
"""
