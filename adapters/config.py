"""Settings of each backend: the `backends` section of `config.yaml`."""

import os
from typing import Annotated, Literal

from msgspec import Meta, Struct

from adapters.upstream.address import is_address, to_address, usual_address

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class MLXModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model composed of others, each given as a listed name or as the path of a folder."""

    base: str
    lora: str | None = None
    """Folder of an adapter trained by mlx-lm: `adapter_config.json`, `adapters.safetensors`."""
    draft: str | None = None
    """Smaller model with the same vocabulary for speculative decoding; disables batching."""


class MLXConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="mlx", forbid_unknown_fields=True
):
    folders: tuple[str, ...] = ()
    """Folders with models as subfolders (`config.json`, `*.safetensors`, a tokenizer)."""
    huggingface_cache: bool = True
    """List the MLX models in the Hugging Face cache."""
    embedded: Literal["auto", "always", "never"] = "auto"
    """List the bundled small model; `auto`: only if no other model is installed."""
    cache_folder: str | None = None
    """Folder of converted models; by default the user's cache folder."""
    max_concurrent: Count = 8
    """Maximum batch size per model."""
    max_queue: Annotated[int, Meta(ge=0)] = 64
    """Maximum length of the queue per model; further requests are a 429."""
    max_wait: Seconds = 600.0
    """Seconds after which a queued request is a 429."""
    kv_budget_bytes: Count | None = None
    """Bytes for the KV cache of all answers of one model, each counted with its maximum length; by
    default a quarter of the device's recommended working set, or of the memory."""
    kv_bits: Literal[4, 8] | None = None
    """Quantise the KV cache to 4 or 8 bits: saves memory, but disables batching."""
    stall_seconds: Seconds = 120.0
    """Duration of an engine step after which /health reports a stalled engine."""
    prefill_chunk: Count | None = None
    """Prompt tokens per prefill step; default: 2048 on a GPU (512 while decoding), 128 on a CPU."""
    dequantize: Literal["auto", "always", "never"] = "auto"
    """Dequantise weights to float32 at load; `auto`: only on a CPU, where it is far faster."""

    prefix_cache_bytes: Annotated[int, Meta(ge=0)] | None = None
    """Size of the prefix cache per model; by default 5 % of the memory, 0 disables it."""
    prefix_cache_folder: str | None = None
    """Folder in which models with plain attention store their prefix cache across restarts."""
    prefix_cache_disk_bytes: Annotated[int, Meta(ge=0)] = 8 * 1024**3
    """Maximum size of that folder for all models together."""

    keep_alive: float | None = None
    """Seconds until an idle model is unloaded; negative or by default: never."""
    keep_alive_of: dict[str, float] = {}
    """`keep_alive` of single models, by name."""

    models: dict[str, MLXModel] = {}
    """Models composed of others, by the names under which they are listed."""


class OllamaConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="ollama", forbid_unknown_fields=True
):
    host: str | None = None
    """Address of the server. Without `host` and `hosts`, it is taken from `$OLLAMA_HOST` as by
    Ollama's own programs, else `http://127.0.0.1:11434`."""
    hosts: tuple[str, ...] = ()
    """Addresses of several servers; requests go to the least busy server that has the model."""
    connect_timeout: Seconds = 2.0
    first_token_timeout: Seconds = 300.0
    """Includes loading the model and processing the prompt."""
    token_timeout: Seconds = 30.0
    """Maximum time between two chunks of an answer."""
    refresh: Seconds = 1.0
    """Maximum age of the cached lists of installed and loaded models, in seconds."""
    min_context: Count = 4096
    """Minimum `num_ctx` of a load, so that short requests never cause a reload."""
    max_context: Count | None = None
    """Maximum `num_ctx` of a load; by default the model's context length."""
    answer_room: Count = 2048
    """Tokens reserved for an answer without `max_tokens`."""
    memory_bytes: Count | None = None
    """Memory limit for a model and its context; by default the memory of this machine, and no limit
    for remote servers."""
    keep_alive: float | None = None
    """Seconds until an idle model is unloaded; negative: never; by default Ollama's setting."""
    keep_alive_of: dict[str, float] = {}
    """`keep_alive` of single models, by tag."""

    def __post_init__(self) -> None:
        if self.host is not None and self.hosts:
            raise ValueError("`host` conflicts with `hosts`: set only one of them")
        for address in self._configured:
            if not is_address(address):
                raise ValueError(
                    f"{address!r} is not a server address such as box:11434 or https://box/ollama"
                )
        if len(set(map(to_address, self._configured))) < len(self._configured):
            raise ValueError("`hosts` contains the same server twice")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the servers as URLs.

        Raises:
            ValueError: `$OLLAMA_HOST` is used and invalid.
        """
        return tuple(map(to_address, self._configured)) or (usual_address(os.environ),)

    @property
    def _configured(self) -> tuple[str, ...]:
        return self.hosts or (() if self.host is None else (self.host,))


class EchoConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="echo", forbid_unknown_fields=True
):
    models: tuple[str, ...] = ("echo",)
    reply: str | None = None
    """Text of every answer; by default the last message, word by word."""
    delay: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds between two words."""


BackendConfig = MLXConfig | OllamaConfig | EchoConfig
