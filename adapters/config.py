"""The settings of each kind of backend: the values of `backends` in `config.yaml`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from adapters import naming
from adapters.naming import Naming
from adapters.secret import Secret, is_reference, read_secret
from adapters.upstream.address import is_address, to_address, usual_address

LONGEST_SECONDS = 1e9
"""31 years: infinity is no time that a timer waits."""
Seconds = Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)]
KeepAlive = Annotated[float, Meta(le=LONGEST_SECONDS)]
"""Seconds; negative: for ever."""
Count = Annotated[int, Meta(ge=1)]


class MLXModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model composed of others, each given by its listed name or the path of its folder."""

    base: str
    lora: str | None = None
    """The output folder of `mlx_lm.lora`: `adapter_config.json` and `adapters.safetensors`."""
    draft: str | None = None
    """A smaller model with the same tokens, for speculative decoding; one answer at a time."""


EMBEDDED = "SmolLM2-135M-Instruct"
"""The bundled model: as MLX lists it, see `MLXConfig.embedded`."""


class MLXVoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A clip of a voice that speech models imitate."""

    audio: str
    """A file of some seconds: wav, mp3 or flac."""
    text: str | None = None
    """The words of the clip, for Dia with their tags `[S1]`, `[S2]`."""


class MLXConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="mlx", forbid_unknown_fields=True
):
    naming: ClassVar[Naming] = naming.MLX

    engine: Literal["thread", "process"] = "thread"
    """`process`: run MLX in a process of its own, so that an abort inside it, as Metal's where
    memory runs out, ends that process and not the server."""
    folders: tuple[str, ...] = ()
    """Folders of models: each subfolder has `config.json`, `*.safetensors` and a tokenizer."""
    huggingface_cache: bool = True
    """List the MLX-ready models of the Hugging Face cache."""
    embedded: Literal["auto", "always", "never"] = "auto"
    """Offer the small bundled model; `auto`: if there is no other MLX model."""
    cache_folder: str | None = None
    """The folder of converted models; by default in the user's cache folder."""
    max_concurrent: Count = 8
    """Answers generated in one batch, per model."""
    max_queue: Annotated[int, Meta(ge=0)] = 64
    """Requests that may wait beyond those, per model; one more is rejected with 429."""
    max_wait: Seconds = 600.0
    """Seconds that a request may wait in the queue before it is rejected with 429."""
    kv_budget_bytes: Count | None = None
    """For the keys and values of all answers of one model, with prompt and answer at full length;
    by default a quarter of what the device recommends, or of the memory."""
    kv_bits: Literal[4, 8] | None = None
    """Quantise keys and values to this many bits: less memory, but one answer at a time."""
    stall_seconds: Seconds = 120.0
    """If a step, or reading an array of a load, takes longer, /health reports the engine as
    stalled, and its requests get an error. An engine in a process of its own is ended then, or
    where the process does not respond for as long, and started anew."""
    prefill_chunk: Count | None = None
    """Prompt tokens per step. By default 2048 on a GPU (512 while others decode), 128 on a CPU."""
    dequantize: Literal["auto", "always", "never"] = "auto"
    """Unpack quantised weights to float32 at load; `auto`: on a CPU, where packed weights are far
    slower."""

    prefix_cache_bytes: Annotated[int, Meta(ge=0)] | None = None
    """Memory per model for the prefixes of earlier prompts; by default 5 % of the memory, 0: none.
    """
    prefix_cache_folder: str | None = None
    """A folder that keeps the prefixes of plain attention models across restarts."""
    prefix_cache_disk_bytes: Annotated[int, Meta(ge=0)] = 8 * 1024**3
    """For all models together."""

    embedding_token_ids: bool = False
    """Take token ids as inputs of embeddings: true where all clients use the model's tokenizer. Ids
    of another tokenizer give vectors without meaning."""

    keep_alive: KeepAlive | None = None
    """Seconds that an unused model stays loaded, negative: for ever, the default."""
    keep_alive_of: dict[str, KeepAlive] = {}
    """The same for single models, by name."""

    models: dict[str, MLXModel] = {}
    """Composed models, by the names they are listed under."""
    voices: dict[str, MLXVoice] = {}
    """Voices for the speech models that imitate one, by the names that requests use."""

    def withheld(self) -> dict[str, str]:
        """Return the models that another setting would offer, and a clause that names it."""
        if self.embedded == "always":
            return {}
        offered = "only where MLX has no other model" if self.embedded == "auto" else "never"
        return {
            EMBEDDED: f"by `embedded: {self.embedded}` of this backend it is offered {offered}; "
            "with `embedded: always` it is there beside others"
        }

    def __post_init__(self) -> None:
        for folder in self.folders:
            check_path("folders", folder)
        check_path("cache_folder", self.cache_folder)
        check_path("prefix_cache_folder", self.prefix_cache_folder)
        for name, model in self.models.items():
            check_path(f"models.{name}.lora", model.lora)
        for name, voice in self.voices.items():
            check_path(f"voices.{name}.audio", voice.audio)


class OllamaConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="ollama", forbid_unknown_fields=True
):
    naming: ClassVar[Naming] = naming.OLLAMA

    host: str | None = None
    """The server's address. Without this and `hosts` it is `$OLLAMA_HOST`, read as Ollama reads it,
    else `http://127.0.0.1:11434`."""
    hosts: tuple[str, ...] = ()
    """Several servers instead of one: the least busy one with the model answers."""
    api_key: str | None = None
    """A key for a proxy in front of the server, sent as `Authorization: Bearer`: `env:NAME`,
    `file:PATH`, or the key itself."""
    connect_timeout: Seconds = 2.0
    first_token_timeout: Seconds = 300.0
    """Seconds, including loading the model and reading the prompt."""
    token_timeout: Seconds = 30.0
    """Seconds between two pieces of an answer."""
    refresh: Seconds = 1.0
    """Seconds for which a listing of models and loaded models stays valid for requests."""
    min_context: Count = 4096
    """The shortest context that a model is loaded with, so that short requests never cause a
    reload."""
    max_context: Count | None = None
    """The longest context; by default the model's own."""
    answer_room: Count = 2048
    """Tokens reserved for an answer that the request does not limit."""
    memory_bytes: Count | None = None
    """For a model with its context; by default the memory of this machine, and unlimited on other
    machines."""
    keep_alive: KeepAlive | None = None
    """Seconds an unused model stays loaded, negative: for ever; by default Ollama's setting."""
    keep_alive_of: dict[str, KeepAlive] = {}
    """The same for single models, by tag."""

    def __post_init__(self) -> None:
        if self.api_key is not None and not is_reference(self.api_key):
            # A representation of the settings, as in a traceback, does not contain it.
            force_setattr(self, "api_key", read_secret(self.api_key, {}))
        if self.host is not None and self.hosts:
            raise ValueError("Set `host` or `hosts`, not both")
        for address in self._configured:
            if not is_address(address):
                raise ValueError(
                    f"{address!r} is not an address, such as box:11434 or https://box/ollama"
                )
        if len(set(map(to_address, self._configured))) < len(self._configured):
            raise ValueError("`hosts` has the same server twice")

    @property
    def secret(self) -> Secret | None:
        """The key that is sent.

        Raises:
            ValueError: `api_key` names a variable or a file without a key.
        """
        return None if self.api_key is None else read_secret(self.api_key, os.environ)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The URLs of the servers.

        Raises:
            ValueError: `$OLLAMA_HOST` is used and is not an address.
        """
        return tuple(map(to_address, self._configured)) or (usual_address(os.environ),)

    @property
    def _configured(self) -> tuple[str, ...]:
        return self.hosts or (() if self.host is None else (self.host,))


class EchoConfig(
    Struct, frozen=True, kw_only=True, tag_field="kind", tag="echo", forbid_unknown_fields=True
):
    naming: ClassVar[Naming] = Naming()

    models: tuple[str, ...] = ("echo",)
    reply: str | None = None
    """The answer; by default the last message, word by word."""
    delay: Annotated[float, Meta(ge=0, le=LONGEST_SECONDS)] = 0.0
    """Seconds between two pieces."""


BackendConfig = MLXConfig | OllamaConfig | EchoConfig

KINDS: dict[str, type[BackendConfig]] = {
    str(config.__struct_config__.tag): config for config in get_args(BackendConfig)
}
"""The configuration of each kind of backend, in the order in which backends are preferred."""


def user_state_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder for results that this user's programs keep, by the system's convention."""
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "tandem"
    home = Path(os.path.expanduser("~"))
    folder = "Library/Application Support" if sys.platform == "darwin" else ".local/state"
    return home / folder / "tandem"


def check_path(setting: str, text: str | None) -> None:
    """Check that `text`, the value of `setting`, can be a path; `None` is not checked.

    Raises:
        ValueError: it has a NUL, or begins with the home of a user that this machine does not have.
    """
    if text is not None and ("\0" in text or os.path.expanduser(text).startswith("~")):
        raise ValueError(f"`{setting}`: {text!r} is no path on this machine")


def make_private_folder(folder: Path) -> None:
    """Create `folder` and the missing folders above it, with access for this user only.

    `Path.mkdir` gives its mode to the last folder alone; the ones above it could be opened to all.

    Raises:
        OSError: one cannot be created.
    """
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
