"""`POST /v1/chat/completions`.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from proxy.endpoints.openai.chat_completions.handler import create_chat_completion

__all__ = ["create_chat_completion"]
