"""Inference engines behind one contract, independent of HTTP and of the dialects of clients."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module

from adapters.backend import Backend
from adapters.config import BackendConfig, EchoConfig, MLXConfig, OllamaConfig

BACKENDS: dict[type[BackendConfig], str] = {
    MLXConfig: "adapters.mlx.backend:MLXBackend",
    OllamaConfig: "adapters.ollama.backend:OllamaBackend",
    EchoConfig: "adapters.echo:EchoBackend",
}
"""Configuration of a backend -> its class, as `module:name`."""
MLX_PROCESS = "adapters.mlx.process.backend:MLXProcessBackend"
"""In place of `MLXBackend` where the configuration says `engine: process`."""


@asynccontextmanager
async def open_backend(config: BackendConfig) -> AsyncGenerator[Backend]:
    """Open the backend that `config` describes and close it at the end. Only the module of its kind
    is imported."""
    in_process = isinstance(config, MLXConfig) and config.engine == "process"
    module, name = (MLX_PROCESS if in_process else BACKENDS[type(config)]).split(":")
    backend: Backend = getattr(import_module(module), name)(config)
    try:
        yield backend
    finally:
        await backend.aclose()
