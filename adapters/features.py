"""Features that each engine can honour on at least one model, without importing the engine.

The error for an unsupported feature names the engine that supports it, even if it is disabled.
"""

from collections.abc import Mapping

from adapters.request import Feature

_BOTH: frozenset[Feature] = frozenset(
    {
        "embeddings",
        "prompt",
        "suffix",
        "echo",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "repeat_last_n",
        "max_tokens",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "reasoning_budget",
        "logprobs",
        "num_ctx",
        "keep_alive",
        "continue_final_message",
        "guided_regex",
        "images",
    }
)

# Not supported by Ollama and rejected by name: token ids, grammars, and logit_bias, which Ollama
# accepts and ignores.
_ONLY_MLX: frozenset[Feature] = frozenset(
    {
        "tokens",
        "echo_logprobs",
        "empty_answer",
        "logit_bias",
        "guided_grammar",
    }
)
_ONLY_OLLAMA: frozenset[Feature] = frozenset({"options"})

MLX = _BOTH | _ONLY_MLX
OLLAMA = _BOTH | _ONLY_OLLAMA
ENGINES: Mapping[str, frozenset[Feature]] = {"mlx": MLX, "ollama": OLLAMA}
"""Features by kind of backend."""
