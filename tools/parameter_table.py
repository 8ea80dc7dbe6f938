"""The table parameter x backend of docs/parameters.md: `uv run python tools/parameter_table.py`.

Each field of a chat completion passes the endpoint's own translation with a value that has an
effect. A cell is the result: refused there, without effect, or honoured by the backend or not.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parameters.md"
sys.path.insert(0, str(ROOT))

from adapters.errors import InvalidRequestError, UnsupportedParameterError  # noqa: E402
from adapters.mlx.backend import MLXBackend  # noqa: E402
from adapters.ollama.backend import OllamaBackend  # noqa: E402
from adapters.ollama.translate.request import to_body  # noqa: E402
from adapters.request import GenerationRequest, needs  # noqa: E402
from proxy.endpoints.generation_fields import FORMER_OPTIONS, OLLAMA_ONLY  # noqa: E402
from proxy.endpoints.openai.chat_completions.request import ChatCompletionRequest  # noqa: E402
from proxy.endpoints.openai.chat_completions.translate import to_generation_request  # noqa: E402
from tools.markdown_pages import with_part  # noqa: E402

BEGIN = "<!-- parameters: generated from the code by `uv run python tools/parameter_table.py` -->"
END = "<!-- end of parameters -->"
BACKENDS = (MLXBackend, OllamaBackend)

_TOOLS = [{"type": "function", "function": {"name": "f"}}]
_IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
PLAIN: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ASKING: dict[str, dict[str, Any]] = {
    "model": {},
    "backend": {"backend": "mlx"},
    "messages": {},
    "messages: images": {"messages": [{"role": "user", "content": _IMAGE}]},
    "max_tokens": {"max_tokens": 5},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "num_predict": {"num_predict": 5},
    "n_predict": {"n_predict": 5},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 5},
    "min_p": {"min_p": 0.1},
    "seed": {"seed": 1},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "presence_penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"1": 1}},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "repeat_penalty": {"repeat_penalty": 1.1},
    "repeat_last_n": {"repeat_last_n": 64},
    "stop": {"stop": ["x"]},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "response_format": {"response_format": {"type": "json_object"}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "reasoning": {"reasoning": {"effort": "low"}},
    "think": {"think": True},
    "enable_thinking": {"enable_thinking": True},
    "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": True}},
    "continue_final_message": {"continue_final_message": True},
    "add_generation_prompt": {"continue_final_message": True, "add_generation_prompt": False},
    "guided_json": {"guided_json": {}},
    "json_schema": {"json_schema": {"type": "object"}},
    "format": {"format": "json"},
    "guided_regex": {"guided_regex": "a"},
    "guided_choice": {"guided_choice": ["a"]},
    "guided_grammar": {"guided_grammar": "start: A"},
    "structured_outputs": {"structured_outputs": {"regex": "a"}},
    "num_ctx": {"num_ctx": 512},
    "keep_alive": {"keep_alive": "5m"},
    "ttl": {"ttl": 300},
    "options": {"options": {"typical_p": 0.5}},
    **{name: {name: 2} for name in OLLAMA_ONLY},
    "typical_p": {"typical_p": 0.5},
    "use_mmap": {"use_mmap": True},
    "tools": {"tools": _TOOLS},
    "tool_choice": {"tools": _TOOLS, "tool_choice": "required"},
    "parallel_tool_calls": {"tools": _TOOLS, "parallel_tool_calls": False},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "metadata": {"metadata": {"a": "b"}},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "prompt_cache_key": {"prompt_cache_key": "x"},
    "prompt_cache_options": {"prompt_cache_options": {}},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "safety_identifier": {"safety_identifier": "x"},
    "service_tier": {"service_tier": "auto"},
    "store": {"store": True},
    "user": {"user": "x"},
    "audio": {"audio": {"voice": "x"}},
    "function_call": {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
    "functions": {"functions": [{"name": "f"}]},
    "modalities": {"modalities": ["audio"]},
    "moderation": {"moderation": {}},
    "n": {"n": 2},
    "verbosity": {"verbosity": "low"},
    "web_search_options": {"web_search_options": {}},
}
"""A body for every field of the request, with a value that is not neutral."""

BY_THE_SERVER = frozenset({"model", "backend", "messages", "stream", "stream_options"}) | {
    "metadata",
    "store",
}
NOTES = {
    "backend": "Tandem's: `mlx` or `ollama`, without fallback",
    "metadata": "kept with the answer where `store` is true",
    "store": "the answer is kept",
    "tool_choice": "forced calls; `auto` and `none` work on both",
    "parallel_tool_calls": "`false`",
    "n": "more than 1",
    "verbosity": "other than `medium`",
    "repetition_penalty": "vLLM's",
    "num_predict": "Ollama's name for it",
    "n_predict": "llama.cpp's name for it",
    "repeat_penalty": "Ollama's name for it",
    "repeat_last_n": "Ollama's: tokens that it looks back, -1 for all; without it, all on MLX and "
    "64 on Ollama, where `frequency_penalty` and `presence_penalty` look back as far",
    "reasoning": "`effort` in it",
    "think": "Ollama's; `reasoning_effort` takes precedence",
    "enable_thinking": "`reasoning_effort` takes precedence",
    "chat_template_kwargs": "vLLM's; `enable_thinking` in it, all else is a 400",
    "continue_final_message": "vLLM's; not with forced calls or `response_format`",
    "add_generation_prompt": "vLLM's: the opposite of `continue_final_message`",
    "guided_json": "vLLM's",
    "json_schema": "llama.cpp's name for it",
    "format": "Ollama's: the same as `response_format`",
    "guided_regex": "vLLM's",
    "guided_choice": "vLLM's: one of these texts",
    "guided_grammar": "vLLM's, in Lark's notation",
    "structured_outputs": "vLLM's: one of `json`, `regex`, `choice`, `json_object`, and `grammar` "
    "as `guided_grammar`",
    "num_ctx": "Ollama's",
    "keep_alive": "Ollama's: seconds, `5m`, -1 for ever",
    "ttl": "LM Studio's: `keep_alive` in seconds",
    "options": "Ollama's; an option that has a field of its own counts as that field",
    **dict.fromkeys(OLLAMA_ONLY, "Ollama's"),
    "typical_p": "Ollama's; 1 cuts nothing off, and is accepted on MLX",
    **dict.fromkeys(FORMER_OPTIONS, "a former option of Ollama, which ignores it now"),
    "function_call": "a forced call, in the form that preceded `tools`",
    "functions": "answered in the form that preceded `tools`",
    "top_k": "not OpenAI's",
    "min_p": "not OpenAI's",
    "messages: images": "for models with vision: `data:` URLs, and hosts in `server.images`",
    "tools": "MLX: described in words where the template has none; Ollama: for models with tools",
    "reasoning_effort": "for models that reason",
}


def translate(extra: dict[str, Any]) -> GenerationRequest:
    body = msgspec.json.encode({**PLAIN, **extra})
    return to_generation_request(msgspec.json.decode(body, type=ChatCompletionRequest))


def cells(field: str) -> list[str]:
    """The cells of `field`, one for each backend."""
    if field in BY_THE_SERVER:
        return ["yes"] * len(BACKENDS)
    try:
        request = translate(ASKING[field])
    except UnsupportedParameterError:
        return ["400"] * len(BACKENDS)
    if not needs(request):  # Options without a need are for Ollama, and no other engine.
        passed = OllamaBackend if request.options else None
        return ["yes" if backend is passed else "no effect" for backend in BACKENDS]
    return ["yes" if is_taken(request, backend) else "400" for backend in BACKENDS]


def is_taken(request: GenerationRequest, backend: type[MLXBackend | OllamaBackend]) -> bool:
    """Return true if `backend` honours `request`; Ollama checks single options as it translates."""
    if not needs(request) <= backend.honours:
        return False
    try:
        if backend is OllamaBackend:
            to_body(request)
    except InvalidRequestError:
        return False
    return True


def table() -> str:
    rows = ["| parameter | MLX | Ollama | |", "|---|---|---|---|"]
    for field in ASKING:
        row = [f"`{field}`", *cells(field), NOTES.get(field, "")]
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    return with_part(page, BEGIN, END, table())


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
