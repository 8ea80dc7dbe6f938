"""How each backend is set up: the `backends` part of `config.yaml`."""

import os
from typing import Annotated, ClassVar, Literal, get_args

from msgspec import Meta, Struct

from adapters import naming
from adapters.naming import Naming
from adapters.upstream.address import is_address, to_address, usual_address

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class MLXModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model made of others; each of them a name that is listed, or a folder's path."""

    base: str
    lora: str | None = None
    """A folder that mlx-lm trained: `adapter_config.json` and `adapters.safetensors`."""
    draft: str | None = None
    """A smaller model with the same tokens, which guesses ahead; one answer at a time then."""


class MLXConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="mlx", forbid_unknown_fields=True
):
    naming: ClassVar[Naming] = naming.MLX

    folders: tuple[str, ...] = ()
    """Folders whose subfolders are models (`config.json`, `*.safetensors`, a tokenizer)."""
    huggingface_cache: bool = True
    """List the MLX-ready models of the Hugging Face cache."""
    embedded: Literal["auto", "always", "never"] = "auto"
    """Offer the small model that comes along: `auto` when no other model is there."""
    cache_folder: str | None = None
    """Where converted models are kept; by default the user's cache folder."""
    max_concurrent: Count = 8
    """Answers generated in one batch, per model."""
    max_queue: Annotated[int, Meta(ge=0)] = 64
    """Requests that may wait beyond those, per model; one more is 429."""
    max_wait: Seconds = 600.0
    """The longest a request waits for its turn; then it is 429."""
    kv_budget_bytes: Count | None = None
    """For the keys and values of all answers of one model, prompt and answer counted in full; by
    default a quarter of what the device recommends to use, or of the memory."""
    kv_bits: Literal[4, 8] | None = None
    """Keep keys and values in so many bits: less memory, and one answer at a time."""
    stall_seconds: Seconds = 120.0
    """A step that takes longer is reported as a stalled engine by /health."""
    prefill_chunk: Count | None = None
    """Prompt tokens per step. By default 2048 on a GPU (512 while others decode), 128 on a CPU."""
    dequantize: Literal["auto", "always", "never"] = "auto"
    """Unpack quantised weights to float32 at load: `auto` on a CPU, where packed is far slower."""

    prefix_cache_bytes: Annotated[int, Meta(ge=0)] | None = None
    """What each model may keep of prompts it has read; by default 5 % of the memory, 0 is none."""
    prefix_cache_folder: str | None = None
    """Where plain attention models keep it for the next start as well."""
    prefix_cache_disk_bytes: Annotated[int, Meta(ge=0)] = 8 * 1024**3
    """What all models may keep there together."""

    keep_alive: float | None = None
    """Seconds an unused model stays loaded, negative for ever; by default for ever."""
    keep_alive_of: dict[str, float] = {}
    """The same for single models, by name."""

    models: dict[str, MLXModel] = {}
    """Models made of others, by the names they are listed under."""


class OllamaConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="ollama", forbid_unknown_fields=True
):
    naming: ClassVar[Naming] = naming.OLLAMA

    host: str | None = None
    """The server's address. Where neither this nor `hosts` is given, `$OLLAMA_HOST` says it as it
    does for Ollama's own programs, else it is `http://127.0.0.1:11434`."""
    hosts: tuple[str, ...] = ()
    """Several servers instead: the least busy that has the model answers."""
    connect_timeout: Seconds = 2.0
    first_token_timeout: Seconds = 300.0
    """Covers loading the model and reading the prompt."""
    token_timeout: Seconds = 30.0
    """The longest silence between two pieces of an answer."""
    refresh: Seconds = 1.0
    """How long a request believes the last look at the models it has, and at what is loaded."""
    min_context: Count = 4096
    """The shortest context that a model is loaded with, so that short requests never reload it."""
    max_context: Count | None = None
    """The longest; by default the model's own."""
    answer_room: Count = 2048
    """Tokens kept free for an answer whose length the request does not limit."""
    memory_bytes: Count | None = None
    """What a model and its context may take; by default the memory of this machine, and no limit
    for a server elsewhere."""
    keep_alive: float | None = None
    """Seconds an unused model stays loaded, negative for ever; by default as Ollama is set up."""
    keep_alive_of: dict[str, float] = {}
    """The same for single models, by tag."""

    def __post_init__(self) -> None:
        if self.host is not None and self.hosts:
            raise ValueError("Give `host` or `hosts`, not both")
        for said in self._said:
            if not is_address(said):
                raise ValueError(
                    f"{said!r} is no address of an Ollama, as box:11434 and https://box/ollama are"
                )
        if len(set(map(to_address, self._said))) < len(self._said):
            raise ValueError("`hosts` names one server twice")

    @property
    def addresses(self) -> tuple[str, ...]:
        """As URLs.

        Raises:
            ValueError: of `$OLLAMA_HOST`, where nothing else names one.
        """
        return tuple(map(to_address, self._said)) or (usual_address(os.environ),)

    @property
    def _said(self) -> tuple[str, ...]:
        return self.hosts or (() if self.host is None else (self.host,))


class EchoConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="echo", forbid_unknown_fields=True
):
    naming: ClassVar[Naming] = Naming()

    models: tuple[str, ...] = ("echo",)
    reply: str | None = None
    """What it answers; by default the last message, word by word."""
    delay: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds between two pieces."""


BackendConfig = MLXConfig | OllamaConfig | EchoConfig

KINDS: dict[str, type[BackendConfig]] = {
    str(config.__struct_config__.tag): config for config in get_args(BackendConfig)
}
"""The configuration of each kind of backend, in the order in which backends are preferred."""
