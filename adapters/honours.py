"""What each engine can honour on some model at least, told without importing the engine.

A refusal names the engine that could, be it there or not.
"""

from collections.abc import Mapping

from adapters.request import Feature

MLX: frozenset[Feature] = frozenset(
    {
        "prompt",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "n",
        "max_tokens",
        "stop",
        "embeddings",
        "tokens",
        "suffix",
        "echo",
        "echo_logprobs",
        "empty_answer",
        "num_ctx",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "guided_regex",
        "guided_grammar",
        "reasoning_effort",
        "logprobs",
        "keep_alive",
    }
)

# Not here, and so refused by name: logit_bias, which Ollama accepts and ignores, token ids and
# grammars.
OLLAMA: frozenset[Feature] = frozenset(
    {
        "embeddings",
        "prompt",
        "suffix",
        "echo",
        "images",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "num_ctx",
        "keep_alive",
        "options",
        "max_tokens",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "logprobs",
    }
)

ENGINES: Mapping[str, frozenset[Feature]] = {"mlx": MLX, "ollama": OLLAMA}
"""By kind."""
