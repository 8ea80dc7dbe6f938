"""The types of `config.yaml`, with every default, and reading the file."""

import logging
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr, replace

from adapters.config import (
    KINDS,
    BackendConfig,
    EchoConfig,
    KeepAlive,
    MLXConfig,
    OllamaConfig,
    Seconds,
    check_path,
    user_state_folder,
)
from adapters.errors import InvalidRequestError
from adapters.naming import LONGEST, can_be_named
from proxy.access.config import KeyConfig
from proxy.config_problems import Collector, ConfigError, Problem, convert, located, to_problem
from proxy.keep_alive import to_keep_alive
from proxy.unique_keys import check_keys, find_excess_depth

__all__ = ["Config", "ConfigError", "find_config", "load_config", "state_folder"]

log = logging.getLogger("tandem")

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
_C = TypeVar("_C", bound=BackendConfig)

_BY_DEFAULT: Mapping[str, BackendConfig | None] = {
    "mlx": MLXConfig(),
    "ollama": OllamaConfig(),
    "echo": None,
}
"""The backends that exist without being configured; `None`: switched off."""
_ONE_PER_PROCESS = ("mlx",)
"""Kinds that run in this process, on its one device."""
_ALIAS_SETTINGS = ("prefer", "keep_alive", "ttl", "pin")
"""The keys of an alias that are no backend's name."""
_RESERVED = ("auto", *_ALIAS_SETTINGS)
_MAX_BYTES = 8_000_000
"""The largest file that is read: 50,000 aliases have 2 MB."""


APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
"""Applications of this machine, which the user installed: no website can have such an origin.
These are the ones that Ollama allows."""
_HOST = re.compile(r"[^\s\[\]:/?#@*,]*[^\s\[\]:/?#@*,.]|[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}")
"""A name without its port and the root's dot, or an address of IPv6."""
_HOST_AND_PORT = re.compile(r"[^\s/?#@*,]+")
_ORIGIN = re.compile(r"\*|[a-z*][a-z0-9+.*-]*://[^/?#@,\s]*", re.IGNORECASE)


def _check_hosts(setting: str, hosts: Iterable[str], pattern: re.Pattern[str], form: str) -> None:
    """Raise `ValueError` for a host that no request could have: it would be without effect."""
    for host in hosts:
        if not pattern.fullmatch(host):
            raise ValueError(f"`{setting}`: {host!r} is no name of a host; write it {form}")


class ImagesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for the images of a chat, and the hosts they may be fetched from."""

    fetch_from: tuple[str, ...] = ()
    """Hosts that images may be fetched from, as `host:port` if the port is not the default one. If
    empty, images have to be `data:` URLs."""
    plain_http: bool = False
    """Fetch by http as well as by https."""
    timeout: Seconds = 10.0
    """Seconds for all images of a request."""
    max_bytes: Count = 20 * 1024 * 1024
    max_pixels: Count = 33_000_000
    min_side: Count = 2
    """Pixels; some decoders fail on smaller images."""
    max_count: Count = 16
    """Images in one request."""

    def __post_init__(self) -> None:
        _check_hosts("fetch_from", self.fetch_from, _HOST_AND_PORT, "without scheme")


class AudioConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for audio files that are transcribed, and for texts that are spoken."""

    max_bytes: Count = 25 * 1024 * 1024
    """The size of a file; `max_body_bytes` has to be larger."""
    max_seconds: Seconds = 3600.0
    """The length of its audio, checked by its header and while it is decoded."""
    max_input: Count = 4096
    """Characters of a text."""


class StoreConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for stored answers and conversations, of which the least recently used go first."""

    max_count: Count = 10_000
    max_bytes: Count = 1024 * 1024 * 1024
    """The sum for all of them, as JSON."""
    max_age: Seconds = 30 * 86_400.0
    """Seconds since the last use."""


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Port = 8006
    allowed_hosts: tuple[str, ...] = ()
    """Host names besides localhost that clients may use, without a port."""
    allowed_origins: tuple[str, ...] = APP_ORIGINS
    """Origins besides pages of this machine, such as `https://chat.example`; `*` is any text."""
    allowed_admin_origins: tuple[str, ...] = ()
    """Origins of pages that may load, unload, pull and delete models, besides the server's own;
    they are allowed to use models as well."""
    keys: tuple[KeyConfig, ...] = ()
    """Keys of clients. With one or more, a request needs one of them."""
    insecure: bool = False
    """Serve other machines without keys."""
    strict_fields: bool = False
    """Reject unknown request fields instead of listing them in a header."""
    max_body_bytes: Count = 32 * 1024 * 1024
    """Large enough for images in `data:` URLs."""
    max_depth: Count = 64
    """The nesting depth of a JSON body."""
    refresh: Seconds = 5.0
    """Seconds between two listings of each backend's models."""
    keepalive: Seconds = 15.0
    """Seconds that a stream may be silent before a comment is sent, so that clients do not time
    out."""
    memory_bytes: Count | None = None
    """The memory budget for the models of all backends together; by default what a Mac's GPU
    recommends, else three quarters of the memory."""
    auto_pull: bool = False
    """Download a missing model on its first request instead of answering 404."""
    auto_pull_hosts: tuple[str, ...] = ()
    """Hosts that may be named in such a download, as in `hf.co/org/model`; names without a host
    are always allowed."""
    pull_timeout: Seconds = 1800.0
    """Seconds that such a request waits for the download."""
    log_format: Literal["text", "json"] | None = "text"
    """The form of the request log, one line on stderr for each answer; `None`: no request log."""
    shutdown_grace: Annotated[float, Meta(ge=0, le=10)] = 10.0
    """Seconds that answers may take after SIGTERM."""
    state_folder: str | None = None
    """The folder of benchmark results and stored answers; by default the user's folder for
    application state."""
    store: StoreConfig | bool = StoreConfig()
    """Limits for answers that clients ask to keep; `False`: none are kept. `True` is the default.
    """
    fallback_after: Seconds = 30.0
    """Seconds without an answer after which another backend with the same model takes over; loading
    the model does not count."""
    images: ImagesConfig = ImagesConfig()
    audio: AudioConfig = AudioConfig()

    @property
    def store_limits(self) -> StoreConfig | None:
        """The limits of stored answers; `None` where none are kept."""
        if isinstance(self.store, StoreConfig):
            return self.store
        return StoreConfig() if self.store else None

    @property
    def page_origins(self) -> tuple[str, ...]:
        """Patterns of all origins with pages that may use the server."""
        return self.allowed_origins + self.allowed_admin_origins

    def __post_init__(self) -> None:
        check_path("state_folder", self.state_folder)
        _check_hosts("allowed_hosts", self.allowed_hosts, _HOST, "without scheme and port")
        _check_hosts("auto_pull_hosts", self.auto_pull_hosts, _HOST_AND_PORT, "without scheme")
        for setting in ("allowed_origins", "allowed_admin_origins"):
            for origin in getattr(self, setting):
                if not _ORIGIN.fullmatch(origin):
                    raise ValueError(
                        f"`{setting}`: {origin!r} is no origin; write scheme://host or "
                        "scheme://host:port without a path, as in https://chat.example"
                    )
        names = [key.name for key in self.keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"`keys`: two keys have the name {name!r}")


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An alias: the user's own name for a model on one backend or on several."""

    names: dict[str, str]
    """A backend's name -> its name of the model. In the file these are keys of the alias."""
    prefer: str = "auto"
    """The backend that is tried first, or `auto`: the one measured to be fastest."""
    keep_alive: KeepAlive | None = None
    """Seconds that the model stays loaded unused, negative: for ever."""
    ttl: KeepAlive | None = None
    """The same in seconds, by LM Studio's name."""
    pin: bool = False
    """Never unload the model to make room for another, nor when unused unless `keep_alive` is set.
    """

    def __post_init__(self) -> None:
        try:
            self.seconds()
        except InvalidRequestError as exc:
            raise ValueError(exc.message) from exc
        if not self.names:
            raise ValueError("Name the model on at least one backend, as in `ollama: llama3.2:1b`")
        if self.prefer not in ("auto", *self.names):
            raise ValueError(
                f"`prefer: {self.prefer}` needs the model's name on {self.prefer}; "
                f"use {_any_of(['auto', *self.names])}"
            )

    def seconds(self) -> float | None:
        """Seconds that the model stays loaded unused; negative: for ever, `None`: not set."""
        return to_keep_alive(self.keep_alive, self.ttl)


class Config(Struct, frozen=True, kw_only=True):
    server: ServerConfig = ServerConfig()
    backends: Mapping[str, BackendConfig | None] = {}
    """Settings by name; `None`: switched off. `mlx` and `ollama` are on unless switched off."""
    models: Mapping[str, ModelConfig] = {}
    """The aliases."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where parts contradict each other; the text begins with the key."""
        force_setattr(self, "backends", {**_BY_DEFAULT, **self.backends})
        for name in self.backends:
            _check_name(name)
        for kind in _ONE_PER_PROCESS:
            enabled = self.enabled().items()
            names = [name for name, config in enabled if isinstance(config, KINDS[kind])]
            if len(names) > 1:
                raise ValueError(
                    f"$.backends.{names[1]}.kind: a process has one backend of kind {kind}, and "
                    f"`{names[0]}` is one; switch one off, as in `{names[0]}: null`"
                )
        for alias, model in self.models.items():
            backend, slash, rest = alias.partition("/")
            if slash and backend in self.enabled():
                raise ValueError(
                    f"$.models.{alias}: a request with this name asks for {rest!r} on {backend}; "
                    f"use an alias that does not begin with '{backend}/'"
                )
            for name in model.names.keys() - self.backends.keys():
                known = _any_of(self.backends)
                raise ValueError(f"$.models.{alias}.{name}: no backend of this name; use {known}")
        self.backend_configs()

    def enabled(self) -> dict[str, BackendConfig]:
        """The backends that are switched on, by name, in the order in which they are preferred:
        by kind as in `KINDS`, then as in the file."""
        kinds = list(KINDS.values())
        enabled = [(name, config) for name, config in self.backends.items() if config is not None]
        return dict(sorted(enabled, key=lambda item: kinds.index(type(item[1]))))

    def of_kind(self, kind: type[_C]) -> _C | None:
        """The first enabled backend of a kind, by the type of its settings."""
        return next((value for value in self.enabled().values() if isinstance(value, kind)), None)

    def backend_configs(self) -> dict[str, BackendConfig]:
        """The backends to open, as `enabled`, with the aliases' `keep_alive` merged in.

        Raises:
            ValueError: two aliases of one model set different times.
        """
        return {
            name: self._with_keep_alive(name, config) for name, config in self.enabled().items()
        }

    def pinned(self) -> frozenset[tuple[str, str]]:
        """(backend name, the backend's name of the model) of each pinned model on an enabled
        backend, with and without the default tag."""
        enabled = self.enabled()
        keys = [key for model in self.models.values() if model.pin for key in model.names.items()]
        return frozenset(
            (backend, spelling)
            for backend, name in keys
            if backend in enabled
            for spelling in enabled[backend].naming.spellings(name)
        )

    def _with_keep_alive(self, backend: str, config: BackendConfig) -> BackendConfig:
        if isinstance(config, EchoConfig):
            return config
        bare = config.naming.bare
        times = {bare(name): -1.0 for owner, name in self.pinned() if owner == backend}
        first: dict[str, tuple[str, float]] = {}
        for alias, model in self.models.items():
            name, seconds = bare(model.names.get(backend, "")), model.seconds()
            if not name or seconds is None:
                continue
            other, known = first.setdefault(name, (alias, seconds))
            if known != seconds:
                raise ValueError(
                    f"$.models.{alias}: '{other}' and '{alias}' are both '{name}' on {backend}, "
                    "and set different `keep_alive` times"
                )
            times[name] = seconds
        return replace(config, keep_alive_of=config.keep_alive_of | times)


def _check_name(name: str) -> None:
    """Names appear in `NAME/MODEL`, in headers, and beside the settings of an alias."""
    if name in _RESERVED:
        raise ValueError(f"$.backends.{name}: this name is reserved; choose another")
    if (
        not name
        or not (name.isascii() and name.isprintable())
        or not _NOT_IN_NAMES.isdisjoint(name)
    ):
        raise ValueError(
            f"$.backends.{name!r}: the name of a backend is one word of ASCII characters "
            "without any of / , ;"
        )


_NOT_IN_NAMES = frozenset(" /,;")


def _any_of(names: Iterable[str]) -> str:
    """`a, b or c`"""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def load_config(
    path: Path | None, environ: Mapping[str, str] = os.environ, *, is_reload: bool = False
) -> Config:
    """The settings of the file at `path`, without a file the defaults, with `VARIABLES` on top.

    With `is_reload`, only a regular file is read: a pipe that has no writer any more, as that of
    `--config <(command)`, would block the server.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has keys or values that are not
            allowed; or `$OLLAMA_HOST`, where no setting overrides it, is not an address; or the
            key of a backend cannot be read.
    """
    written = Config() if path is None else _read(path, is_reload=is_reload)
    config = _with_variables(written, environ)
    try:
        _warn_of_duplicates(config)
        for name, backend in config.enabled().items():
            if isinstance(backend, OllamaConfig):
                _read_key(name, backend)
    except ValueError as exc:
        raise ConfigError(to_problem(exc)) from exc
    return config


def _read_key(name: str, backend: OllamaConfig) -> None:
    """
    Raises:
        ValueError: the backend's key cannot be read.
    """
    try:
        _ = backend.secret
    except ValueError as exc:
        raise ValueError(f"$.backends.{name}.api_key: {exc}") from exc


VARIABLES: Mapping[str, str] = {
    "TANDEM_HOST": "host",
    "TANDEM_PORT": "port",
    "TANDEM_ALLOWED_HOSTS": "allowed_hosts",
    "TANDEM_ALLOWED_ORIGINS": "allowed_origins",
    "TANDEM_MEMORY_BYTES": "memory_bytes",
    "TANDEM_LOG_FORMAT": "log_format",
    "TANDEM_STATE_FOLDER": "state_folder",
}
"""Environment variables of containers and services -> the keys of `server` that they override."""
_LISTS = ("allowed_hosts", "allowed_origins")
"""Keys that are lists, which a variable separates by commas."""


def _with_variables(config: Config, environ: Mapping[str, str]) -> Config:
    """Override settings by variables that are not empty.

    Raises:
        ConfigError: a value is not allowed; the text names the variable.
    """
    fields: dict[str, object] = {}
    problems: list[Problem] = []
    for variable, field in VARIABLES.items():
        text = environ.get(variable, "")
        value = [part.strip() for part in text.split(",")] if field in _LISTS else text
        try:
            if text:
                server = convert({field: value}, ServerConfig, "", strict=False)
                fields[field] = getattr(server, field)
        except ValueError as exc:
            message = str(exc).removeprefix(f".{field}").removeprefix(": ")
            problems.append(Problem(key=f"${variable}", message=message))
    if problems:
        raise ConfigError(*problems)
    return replace(config, server=replace(config.server, **fields)) if fields else config


def _warn_of_duplicates(config: Config) -> None:
    """Log servers that two backends use: their models and memory would be counted twice.

    Raises:
        ValueError: `$OLLAMA_HOST` is used and is not an address.
    """
    for name, other, address in duplicates(config):
        log.warning(
            "backends: `%s` and `%s` are both the server %s; switch one off, as in `%s: null`.",
            *(name, other, address, name),
        )


def duplicates(config: Config) -> Iterator[tuple[str, str, str]]:
    """The backends that are one server: the first name, another name, and the address."""
    names: dict[str, str] = {}
    for name, backend in config.enabled().items():
        for address in backend.addresses if isinstance(backend, OllamaConfig) else ():
            first = names.setdefault(address, name)
            if first != name:
                yield first, name, address


def _read(path: Path, *, is_reload: bool) -> Config:
    text = _read_text(path, is_reload=is_reload)
    deep = Problem(message="the settings are nested too deeply", file=str(path))
    if (line := find_excess_depth(text)) is not None:
        raise ConfigError(replace(deep, line=line))
    try:
        return _decode(text)
    except ConfigError as exc:
        raise located(exc.problems, path, text) from exc
    except (ValueError, msgspec.DecodeError) as exc:
        raise located([to_problem(exc)], path, text) from exc
    except RecursionError as exc:  # A mapping that contains itself, by an alias of YAML.
        raise ConfigError(deep) from exc


def _read_text(path: Path, *, is_reload: bool) -> bytes:
    """
    Raises:
        ConfigError: the file cannot be read, or is another one: a model, a device without an end.
    """
    try:
        if is_reload and not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(Problem(message="not a regular file", file=str(path)))
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as exc:
        reason = exc.strerror or "cannot be read"
        if isinstance(exc, FileNotFoundError):
            reason += "; `tandem config path` names the file in use without --config"
        problem = Problem(message=reason, file=str(path))
        raise ConfigError(problem) from exc
    if len(text) > _MAX_BYTES:
        problem = Problem(message=f"the file has more than {_MAX_BYTES} bytes", file=str(path))
        raise ConfigError(problem)
    return text


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file, as far as its form does not depend on names that the user chose."""

    server: dict[str, Any] = {}
    backends: dict[str, Any] = {}
    models: dict[str, Any] = {}


def _decode(text: bytes) -> Config:
    """Decode the file.

    Raises:
        ConfigError: with every problem that is found.
        ValueError: the file as a whole has no meaning.
    """
    raw = msgspec.yaml.decode(text)
    if raw is None:  # An empty file, or only comments.
        return Config()
    check_keys(text)
    file = convert(raw, _File, "$")
    wrong = Collector()
    server = wrong.fields(file.server, ServerConfig, "$.server")
    backends = {
        name: wrong.attempt(_to_backend, name, value, wrong)
        for name, value in file.backends.items()
    }
    models = {name: wrong.attempt(_to_model, name, value) for name, value in file.models.items()}
    if wrong.problems:
        raise ConfigError(*wrong.problems)
    return Config(
        server=server or ServerConfig(),
        backends=backends,
        models={alias: model for alias, model in models.items() if model is not None},
    )


def _to_backend(name: str, settings: object, wrong: Collector) -> BackendConfig | None:
    """`true` takes the defaults of the kind, `null` and `false` switch the backend off."""
    key = f"$.backends.{name}"
    if settings is None or settings is False:
        return None
    fields = {} if settings is True else convert(settings, dict[str, Any], key)
    kind = convert(fields.pop("kind", name), str, f"{key}.kind")
    if kind not in KINDS:
        given = f"no kind of backend is {kind!r}; " if kind != name else "missing; "
        raise ValueError(f"{key}.kind: {given}use {_any_of(KINDS)}")
    return wrong.fields(fields, KINDS[kind], key)


def _to_model(alias: str, settings: object) -> ModelConfig:
    key = f"$.models.{alias}"
    if not can_be_named(alias):
        raise ValueError(f"$.models.{alias!r}: an alias has 1 to {LONGEST} printable characters")
    fields = convert(settings, dict[str, Any], key)
    names = {name: value for name, value in fields.items() if name not in _ALIAS_SETTINGS}
    texts = {
        n: convert(value, str, f"{key}.{n}") for n, value in names.items() if value is not None
    }
    options = {name: value for name, value in fields.items() if name in _ALIAS_SETTINGS}
    return convert({**options, "names": texts}, ModelConfig, key)


def find_config(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file of `--config`, else of `$TANDEM_CONFIG`, else the user's own if there is one."""
    named = option or environ.get("TANDEM_CONFIG")
    if named:
        return Path(named)
    home = Path(os.path.expanduser("~"))
    by_system = "Library/Application Support" if sys.platform == "darwin" else ".config"
    folder = Path(environ.get("XDG_CONFIG_HOME") or home / by_system)
    default = folder / "tandem" / "config.yaml"
    return default if _is_there(default) else None


def _is_there(path: Path) -> bool:
    """False where there is nothing; true for what cannot be read, which the user should know of:
    the defaults have no keys."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def state_folder(config: Config, environ: Mapping[str, str]) -> Path:
    """The folder that keeps stored answers and the results of `tandem bench MODEL`."""
    if config.server.state_folder is not None:
        return Path(config.server.state_folder).expanduser()
    return user_state_folder(environ)
