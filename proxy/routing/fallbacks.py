"""How often one backend stood in for another, and why."""

import logging
from collections import Counter

from adapters.errors import BackendError
from proxy.errors import to_code

log = logging.getLogger("tandem")


class Fallbacks:
    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, failed: str, error: BackendError, asked: str) -> None:
        """The backend of kind `failed` raised `error`, and that of kind `asked` is asked."""
        code = to_code(error)
        self._counts[failed, code] += 1
        # Not the error's own words: they may hold a piece of the prompt.
        log.warning("%s failed (%s): %s is asked", failed, code, asked)

    def counts(self) -> dict[str, dict[str, int]]:
        """The kind that failed -> the error's code -> how often, since the start."""
        kinds = dict.fromkeys(kind for kind, _ in self._counts)
        return {
            kind: {code: many for (k, code), many in self._counts.items() if k == kind}
            for kind in kinds
        }
