"""Reload of the configuration: what can change without a restart does, if the file is valid."""

import logging
from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from proxy.assembly import Parts
from proxy.config import Config, ServerConfig
from proxy.config_problems import ConfigError

log = logging.getLogger("tandem")

_AT_START = (
    "host",
    "port",
    "refresh",
    "memory_bytes",
    "auto_pull",
    "auto_pull_hosts",
    "pull_timeout",
    "log_format",
    "shutdown_grace",
    "state_folder",
    "store",
)
"""Keys of `server` that are read once; a change of them needs a restart."""


class Changed(Struct, frozen=True, kw_only=True):
    """The result of a reload."""

    status: Literal["changed", "unchanged"]
    changed: list[str]
    """Keys with new values, which are in use now."""
    needs_restart: list[str]
    """Keys with new values that are read only at the start; the old ones stay in use."""


class LiveConfig:
    """The configuration in use, and its replacement while the server runs."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        read: Callable[[], Config] | None,
        apply: Callable[[ServerConfig], None],
    ) -> None:
        """`read` reads the configuration as at the start; `apply` takes the settings of the server
        for the gates, and reads the keys again, or raises `ConfigError`."""
        self.current = config
        self._parts = parts
        self._read = read
        self._apply = apply

    @property
    def can_reload(self) -> bool:
        return self._read is not None

    def reload(self) -> Changed:
        """Read the configuration again.

        Raises:
            ConfigError: it is not valid; the old one stays in use as it is.
        """
        wanted = self._read() if self._read is not None else self.current
        waiting = list(_waiting(self.current, wanted))
        usable = _without(wanted, self.current)
        changed = list(_changed(self.current, usable))
        self._apply(usable.server)
        if changed:
            self.current = usable
            self._parts.registry.rename(usable.models)
            self._parts.memory.pin(usable.pinned())
            self._parts.router.patience = usable.server.fallback_after
        status = "changed" if changed else "unchanged"
        return Changed(status=status, changed=changed, needs_restart=waiting)

    def on_signal(self) -> None:
        """Reload for SIGHUP, and log the result."""
        try:
            result = self.reload()
        except ConfigError as exc:
            log.error("The configuration is not reloaded, and the old one stays: %s", exc)
            return
        changed, waiting = ", ".join(result.changed), ", ".join(result.needs_restart)
        log.warning("The configuration is reloaded. Changed: %s.", changed or "nothing")
        if waiting:
            log.warning("A restart is needed for: %s.", waiting)


def _without(wanted: Config, current: Config) -> Config:
    """`wanted` with the current value of each key that is read at the start."""
    kept = {name: getattr(current.server, name) for name in _AT_START}
    models = {
        alias: model
        for alias, model in wanted.models.items()
        if model.names.keys() <= current.backends.keys()
    }
    server = replace(wanted.server, **kept)
    return Config(server=server, backends=current.backends, models=models)


def _changed(old: Config, new: Config) -> Iterator[str]:
    before, after = asdict(old.server), asdict(new.server)
    yield from (f"server.{name}" for name in after if before[name] != after[name])
    for alias in (*new.models, *(old.models.keys() - new.models.keys())):
        if old.models.get(alias) != new.models.get(alias):
            yield f"models.{alias}"


def _waiting(old: Config, new: Config) -> Iterator[str]:
    for name in _AT_START:
        if getattr(old.server, name) != getattr(new.server, name):
            yield f"server.{name}"
    for alias, model in new.models.items():
        if not model.names.keys() <= old.backends.keys():
            yield f"models.{alias}"
    # The times of aliases are settings of the backends, which read them at the start.
    before, after = old.backend_configs(), new.backend_configs()
    for name in (*after, *(before.keys() - after.keys())):
        if before.get(name) != after.get(name):
            yield f"backends.{name}"
