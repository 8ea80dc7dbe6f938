"""Counters of fallbacks, by the backend that failed and the code of its error."""

import logging
from collections import Counter

from adapters.errors import BackendError
from proxy.errors import to_code

log = logging.getLogger("tandem")


class Fallbacks:
    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, failed: str, error: BackendError, next_backend: str) -> None:
        """Count a request that moves from `failed`, which raised `error`, to `next_backend`."""
        code = to_code(error)
        self._counts[failed, code] += 1
        # Without the error's message, which may quote the prompt.
        log.warning("%s failed (%s): falling back to %s", failed, code, next_backend)

    def counts(self) -> dict[str, dict[str, int]]:
        """Name of the failed backend -> error code -> fallbacks since the start."""
        counts: dict[str, dict[str, int]] = {}
        for (backend, code), count in self._counts.items():
            counts.setdefault(backend, {})[code] = count
        return counts
