"""Settings of agents, editors and web interfaces.

Each function has the settings of one client. `proof` in `CLIENTS` says how they were tried; without
it they follow the client's documentation, and were not run.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from proxy.connect import programs
from proxy.connect.settings import Part, Server, Settings, User

Maker = Callable[[Server, User], Settings]


class Client(Struct, frozen=True, kw_only=True):
    title: str
    settings: Maker
    proof: str | None = None
    """The program that was run with these settings; `None`: none."""


def codex(server: Server, user: User) -> Settings:
    """Codex forgets `apply_patch` and images of models that are not in a catalog."""
    folder = Path(user.environ.get("CODEX_HOME") or user.home / ".codex")
    catalog = folder / "tandem-models.json"
    provider: dict[str, Any] = {
        "name": "Tandem",
        "base_url": server.base_url,
        "wire_api": "responses",
    }
    if server.key is not None:
        provider["env_key"] = "TANDEM_API_KEY"
    config = {
        "model": server.model,
        "model_provider": "tandem",
        "model_catalog_json": str(catalog),
        "model_providers": {"tandem": provider},
    }
    return Settings(
        parts=(
            Part(path=folder / "config.toml", form="toml", content=config),
            Part(path=catalog, form="json", content=_codex_catalog(server), is_own=True),
        ),
        next_step="Run `codex`.",
    )


def _codex_catalog(server: Server) -> dict[str, Any]:
    """Source: https://github.com/openai/codex/blob/main/codex-rs/models-manager/models.json"""
    return {
        "models": [
            {
                "slug": server.model,
                "display_name": server.model,
                "base_instructions": "You are Codex, a coding agent. Work in the user's folder "
                "with the tools that you have, and say briefly what you did.",
                "apply_patch_tool_type": "freeform",
                "shell_type": "unified_exec",
                "context_window": server.context,
                "input_modalities": ["text", "image"] if server.sees else ["text"],
                "truncation_policy": {"mode": "tokens", "limit": min(10_000, server.context // 4)},
                "supported_reasoning_levels": [],
                "supports_parallel_tool_calls": True,
                "support_verbosity": False,
                "experimental_supported_tools": [],
                "visibility": "list",
                "supported_in_api": True,
                "priority": 1,
            }
        ]
    }


def claude_code(server: Server, user: User) -> Settings:
    """Claude Code refuses names with a slash: such a model needs an alias."""
    environment = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": server.key_or_any,
        "ANTHROPIC_MODEL": server.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": server.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": server.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": server.model,
        # It asks for 32000 tokens, more than the context of many models.
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(server.answer_tokens),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    folder = Path(user.environ.get("CLAUDE_CONFIG_DIR") or user.home / ".claude")
    part = Part(path=folder / "settings.json", form="json", content={"env": environment})
    alias = (
        f"Claude Code takes no name with a slash: give '{server.model}' an alias in config.yaml. "
        if "/" in server.model
        else ""
    )
    return Settings(parts=(part,), next_step=f"{alias}Run `claude`.")


def continue_dev(server: Server, user: User) -> Settings:
    """Source: https://docs.continue.dev/reference"""
    model = {
        "name": f"{server.model} (Tandem)",
        "provider": "openai",
        "model": server.model,
        "apiBase": server.base_url,
        "apiKey": server.key_or_any,
        "roles": ["chat", "edit", "apply"],
        "capabilities": [
            *(["tool_use"] if server.calls else []),
            *(["image_input"] if server.sees else []),
        ],
        "defaultCompletionOptions": {
            "contextLength": server.context,
            "maxTokens": server.answer_tokens,
        },
    }
    part = Part(
        path=user.home / ".continue" / "config.yaml",
        form="yaml",
        initial={"name": "Local", "version": "1.0.0", "schema": "v1"},
        content={"models": [model]},
    )
    return Settings(
        parts=(part,),
        next_step="Choose the model in Continue's panel.",
    )


def cline(server: Server, user: User) -> Settings:
    text = f"""\
In Cline's settings (the gear in its panel):
  API Provider         OpenAI Compatible
  Base URL             {server.base_url}
  API Key              {server.key_or_any}
  Model ID             {server.model}
  Context Window Size  {server.context}
  Max Output Tokens    {server.answer_tokens}
  Supports Images      {"on" if server.sees else "off"}"""
    return Settings(text=text, language="text")


def zed(server: Server, user: User) -> Settings:
    """Source: https://zed.dev/docs/ai/llm-providers#openai-api-compatible"""
    model = {
        "name": server.model,
        "display_name": f"{server.model} (Tandem)",
        "max_tokens": server.context,
        "max_output_tokens": server.answer_tokens,
        "capabilities": {
            "tools": server.calls,
            "images": server.sees,
            "parallel_tool_calls": server.calls,
            "prompt_cache_key": True,
        },
    }
    provider = {"Tandem": {"api_url": server.base_url, "available_models": [model]}}
    content = {"language_models": {"openai_compatible": provider}}
    path = user.config_home / "zed" / "settings.json"
    step = "Start Zed with TANDEM_API_KEY set, to any text where the server has no keys."
    return Settings(parts=(Part(path=path, form="json", content=content),), next_step=step)


def aider(server: Server, user: User) -> Settings:
    """Source: https://aider.chat/docs/llms/openai-compat.html"""
    model = f"openai/{server.model}"
    metadata_file = user.home / ".aider.tandem.json"
    config = {
        "model": model,
        "weak-model": model,
        "openai-api-base": server.base_url,
        "openai-api-key": server.key_or_any,
        "model-metadata-file": str(metadata_file),
    }
    metadata = {
        model: {
            "max_input_tokens": server.context,
            "max_output_tokens": server.answer_tokens,
            "max_tokens": server.answer_tokens,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
    }
    return Settings(
        parts=(
            Part(path=user.home / ".aider.conf.yml", form="yaml", content=config),
            Part(path=metadata_file, form="json", content=metadata, is_own=True),
        ),
        next_step="Run `aider`.",
    )


def open_webui(server: Server, user: User) -> Settings:
    host = "host.docker.internal"
    address = server.base_url.replace("127.0.0.1", host).replace("localhost", host)
    text = f"""\
docker run -d -p 3000:8080 --add-host=host.docker.internal:host-gateway \\
  -e OPENAI_API_BASE_URL={address} -e OPENAI_API_KEY={server.key_or_any} \\
  -e ENABLE_OLLAMA_API=false -v open-webui:/app/backend/data --name open-webui \\
  ghcr.io/open-webui/open-webui:main"""
    step = (
        "A container reaches the server by `server.host: 0.0.0.0` and `server.allowed_hosts: "
        f"[{host}]`. Without Docker: `OPENAI_API_BASE_URL={server.base_url} open-webui serve`."
    )
    return Settings(text=text, language="sh", next_step=step)


def copilot(server: Server, user: User) -> Settings:
    """Copilot in VS Code speaks Ollama's API to find models, and OpenAI's to chat."""
    is_mac = sys.platform == "darwin"
    folder = user.home / "Library" / "Application Support" if is_mac else user.config_home
    path = folder / "Code" / "User" / "settings.json"
    content = {"github.copilot.chat.byok.ollamaEndpoint": server.url}
    return Settings(
        parts=(Part(path=path, form="json", content=content),),
        next_step="In VS Code: Chat: Manage Language Models, Ollama, and choose the models.",
    )


def jetbrains(server: Server, user: User) -> Settings:
    text = f"""\
In Settings, Tools, AI Assistant, Models:
  Provider   Ollama
  URL        {server.url}
  Core features and completion: {server.model}"""
    return Settings(text=text, language="text")


_ANSWERED = "the program itself: an answer"
CLIENTS: Mapping[str, Client] = {
    "codex": Client(title="Codex", settings=codex, proof=_ANSWERED),
    "claude-code": Client(title="Claude Code", settings=claude_code, proof=_ANSWERED),
    "continue": Client(
        title="Continue", settings=continue_dev, proof="its program `cn`: an answer"
    ),
    "cline": Client(title="Cline", settings=cline),
    "zed": Client(title="Zed", settings=zed),
    "aider": Client(title="aider", settings=aider, proof=_ANSWERED),
    "open-webui": Client(title="Open WebUI", settings=open_webui),
    "copilot": Client(title="Copilot in VS Code", settings=copilot),
    "jetbrains": Client(title="JetBrains AI Assistant", settings=jetbrains),
    **{
        name: Client(title=title, settings=programs.maker(text, language, step), proof=proof)
        for name, (title, language, text, step, proof) in programs.PROGRAMS.items()
    },
}
