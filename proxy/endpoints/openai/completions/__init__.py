"""`POST /v1/completions`.

Source: https://platform.openai.com/docs/api-reference/completions/create
"""

from proxy.endpoints.openai.completions.handler import create_completion

__all__ = ["create_completion"]
