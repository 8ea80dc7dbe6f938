"""Choose how long models of one Ollama stay loaded: by requests, configuration and pins.

Ollama takes the time of the latest request, and its own default for one without a time.
"""

from msgspec import UNSET, UnsetType

from adapters.config import OllamaConfig
from adapters.ollama.catalog import full_name
from adapters.ollama.options import to_keep_alive

_FOR_EVER = -1


class KeepAlive:
    def __init__(self, config: OllamaConfig) -> None:
        self._default = config.keep_alive
        self._configured = {full_name(n): s for n, s in config.keep_alive_of.items()}
        self._latest: dict[str, float | UnsetType] = {}
        """The time of the last request for each model."""
        self._pinned: set[str] = set()

    def of(self, model: str, wanted: float | UnsetType) -> float | UnsetType:
        """Return the `keep_alive` to send with a request for `model` that has `wanted`."""
        name = full_name(model)
        self._latest[name] = wanted
        if wanted == 0:
            return wanted
        return _FOR_EVER if name in self._pinned else self._unpinned(name)

    def _unpinned(self, name: str) -> float | UnsetType:
        """Return the `keep_alive` by the last request, else by the configuration."""
        if (latest := self._latest.get(name, UNSET)) is not UNSET:
            return latest
        seconds = self._configured.get(name, self._default)
        return UNSET if seconds is None else to_keep_alive(seconds)

    def set_pinned(self, model: str, pinned: bool) -> float | UnsetType:
        """Return the `keep_alive` of `model` from now on."""
        name = full_name(model)
        (self._pinned.add if pinned else self._pinned.discard)(name)
        return _FOR_EVER if pinned else self._unpinned(name)
