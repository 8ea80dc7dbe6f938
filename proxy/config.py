"""`config.yaml` as types: what may be set, what it means, what holds without it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from adapters.config import BackendConfig, EchoConfig, MLXConfig, OllamaConfig
from adapters.errors import InvalidRequestError
from proxy.keep_alive import to_keep_alive

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class ConfigError(Exception):
    """The file cannot be used; the text names the file and the key."""


class ImagesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What images a chat may hold, and from where they are fetched."""

    fetch_from: tuple[str, ...] = ()
    """Hosts whose images are fetched, `host:port` where the port is not the usual one. By default
    none: an image is then a `data:` URL."""
    plain_http: bool = False
    """Fetch by http as well."""
    timeout: Seconds = 10.0
    """For all images of a request."""
    max_bytes: Count = 20 * 1024 * 1024
    max_pixels: Count = 33_000_000
    min_side: Count = 2
    """Pixels; there are decoders that fail at less."""
    max_count: Count = 16
    """In one request."""


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Port = 8006
    allowed_hosts: tuple[str, ...] = ()
    """Names besides localhost that clients may call the server by, without a port."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages besides those of this machine that may call, such as `https://chat.example`."""
    strict_fields: bool = False
    """Refuse request fields that nobody knows, instead of naming them in a header."""
    max_body_bytes: Count = 32 * 1024 * 1024
    """Room for images in data URLs."""
    max_depth: Count = 64
    """How deep the brackets of a JSON body may nest."""
    refresh: Seconds = 5.0
    """How often each backend is asked for its models."""
    keepalive: Seconds = 15.0
    """How long a stream may be silent before a comment is sent, so that nobody hangs up."""
    memory_bytes: Count | None = None
    """What the models of all backends may take of this machine's memory together; by default what
    a Mac's GPU recommends, else three quarters of the memory."""
    auto_pull: bool = False
    """Fetch a model that nobody has when a request asks for it; else it is not found."""
    pull_timeout: Seconds = 1800.0
    """How long such a request waits."""
    log_format: Literal["text", "json"] | None = "text"
    """One line on stderr for each answer, in this form; `None`: no request log."""
    shutdown_grace: Annotated[float, Meta(ge=0, le=10)] = 10.0
    """How long answers may go on after SIGTERM."""
    state_folder: str | None = None
    """Where benchmarks are kept; by default the user's own folder for such things."""
    fallback_after: Seconds = 30.0
    """How long a backend may say nothing, where another has the model too, before that one is
    asked; loading the model does not count."""
    images: ImagesConfig = ImagesConfig()


class BackendsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`null` or `false` switches a backend off, `true` takes its defaults."""

    mlx: MLXConfig | bool | None = MLXConfig()
    ollama: OllamaConfig | bool | None = OllamaConfig()
    echo: EchoConfig | bool | None = None

    def enabled(self) -> dict[str, BackendConfig]:
        """By kind, in the order that holds where nothing else says who comes first."""
        defaults = {"mlx": MLXConfig(), "ollama": OllamaConfig(), "echo": EchoConfig()}
        asked = {"mlx": self.mlx, "ollama": self.ollama, "echo": self.echo}
        return {
            kind: defaults[kind] if config is True else config
            for kind, config in asked.items()
            if config
        }


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name of the user's own for a model on one backend or on both."""

    mlx: str | None = None
    """A folder, or a repository of the Hugging Face cache."""
    ollama: str | None = None
    """A tag."""
    prefer: Literal["auto", "mlx", "ollama"] = "auto"
    keep_alive: float | str | None = None
    """How long it stays loaded unused, as in a request: seconds, `5m`, -1 for ever."""
    ttl: float | None = None
    """The same in seconds, as LM Studio calls it."""
    pin: bool = False
    """Once loaded it makes way for no other model, and stays unless `keep_alive` says how long."""

    def __post_init__(self) -> None:
        try:
            self.seconds()
        except InvalidRequestError as exc:
            raise ValueError(exc.message) from exc
        if not self.names():
            raise ValueError("Name the model on mlx, on ollama, or on both")
        if self.prefer != "auto" and self.prefer not in self.names():
            raise ValueError(f"`prefer: {self.prefer}` needs the model's name on {self.prefer}")

    def seconds(self) -> float | None:
        """That it stays loaded unused; negative: for ever, `None`: it does not say."""
        return to_keep_alive(self.keep_alive, self.ttl)

    def names(self) -> dict[str, str]:
        """Backend kind -> the backend's own name."""
        return {k: name for k, name in (("mlx", self.mlx), ("ollama", self.ollama)) if name}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: ServerConfig = ServerConfig()
    backends: BackendsConfig = BackendsConfig()
    models: dict[str, ModelConfig] = {}

    def __post_init__(self) -> None:
        for kind in ("mlx", "ollama"):
            self._keep_alive_of(kind)

    def backend_configs(self) -> dict[str, BackendConfig]:
        """The backends to open, by kind, with what the models' entries say of them."""
        configs = self.backends.enabled()
        return {kind: self._with_models(kind, config) for kind, config in configs.items()}

    def pinned(self) -> frozenset[tuple[str, str]]:
        """(kind, the backend's own name) of each."""
        pinned = (model for model in self.models.values() if model.pin)
        return frozenset(place for model in pinned for place in model.names().items())

    def _with_models(self, kind: str, config: BackendConfig) -> BackendConfig:
        if isinstance(config, EchoConfig):
            return config
        return replace(config, keep_alive_of=config.keep_alive_of | self._keep_alive_of(kind))

    def _keep_alive_of(self, kind: str) -> dict[str, float]:
        """What the user's own names say of those of `kind`.

        Raises:
            ValueError: two of them are one model there, and say different things.
        """
        said: dict[str, tuple[str, float]] = {}
        for own, model in self.models.items():
            name, seconds = _bare(model.names().get(kind, "")), model.seconds()
            if not name or seconds is None:
                continue
            other, known = said.setdefault(name, (own, seconds))
            if known != seconds:
                raise ValueError(
                    f"`models`: '{other}' and '{own}' are both '{name}' on {kind}, and each says "
                    "another `keep_alive`"
                )
        pinned = {_bare(name): -1.0 for of, name in self.pinned() if of == kind}
        return pinned | {name: seconds for name, (_, seconds) in said.items()}


def _bare(name: str) -> str:
    """As Ollama's names may be written, and others end otherwise."""
    return name.removesuffix(":latest")


def load_config(path: Path | None) -> Config:
    """The file's settings; with no file, the defaults.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or says what no key allows; or
            `$OLLAMA_HOST` does, where it is heeded.
    """
    config = Config() if path is None else _read(path)
    try:
        for backend in config.backends.enabled().values():
            if isinstance(backend, OllamaConfig):
                _ = backend.addresses
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    return config


def _read(path: Path) -> Config:
    try:
        return _decode(path.read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise ConfigError(f"{path}: {_say(exc)}") from exc


def _decode(text: bytes) -> Config:
    said = msgspec.yaml.decode(text)
    if said is None:  # nothing, or nothing but comments
        return Config()
    try:
        return msgspec.convert(said, Config)
    except msgspec.ValidationError as exc:
        if _ANY_MODEL not in str(exc):
            raise
        named = f"$.models.{_faulty(said['models'])}"
        raise msgspec.ValidationError(str(exc).replace(_ANY_MODEL, named)) from exc


_ANY_MODEL = "$.models[...]"
"""msgspec does not tell which."""


def _faulty(models: Mapping[str, object]) -> str:
    """The first of which something is wrong."""
    return next(name for name, model in models.items() if not _is_model(model))


def _is_model(said: object) -> bool:
    try:
        msgspec.convert(said, ModelConfig)
    except msgspec.ValidationError:
        return False
    return True


def _say(exc: Exception) -> str:
    """Key first: ``$.server.port: Expected `int`, got `str` ``."""
    if isinstance(exc, OSError):
        return exc.strerror or "cannot be read"
    text = " ".join(str(exc).split()).replace('in "<byte string>", ', "at ")
    what, _, where = text.partition(" - at ")
    return f"{where.strip('`')}: {what}" if where else what


def find_config(asked: str | None, environ: Mapping[str, str]) -> Path | None:
    """`--config`, else `$TANDEM_CONFIG`, else the user's own file if there is one."""
    named = asked or environ.get("TANDEM_CONFIG")
    if named:
        return Path(named)
    usual = _config_folder(environ) / "tandem" / "config.yaml"
    return usual if usual.is_file() else None


def state_folder(config: Config, environ: Mapping[str, str]) -> Path:
    """Where what `tandem bench MODEL` found is kept."""
    if config.server.state_folder is not None:
        return Path(config.server.state_folder).expanduser()
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "tandem"
    home = Path(os.path.expanduser("~"))
    usual = "Library/Application Support" if sys.platform == "darwin" else ".local/state"
    return home / usual / "tandem"


def _config_folder(environ: Mapping[str, str]) -> Path:
    if environ.get("XDG_CONFIG_HOME"):
        return Path(environ["XDG_CONFIG_HOME"])
    home = Path(os.path.expanduser("~"))
    return home / ("Library/Application Support" if sys.platform == "darwin" else ".config")
