"""Find the stop strings of a request in the text of an answer."""


class StopMatcher:
    """Finds stop strings in text that arrives in pieces."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._kept = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """Return the text that can be shown, and the stop string that ends the answer, if complete.

        The longest end that may become a stop string is kept back. Among several complete ones the
        one that begins first counts, and among those the longest.
        """
        kept = self._kept + text
        matches = [(at, -len(word), word) for word in self._stop if (at := kept.find(word)) >= 0]
        if matches:
            at, _, word = min(matches)
            self._kept = ""
            return kept[:at], word
        keep = max((overlap(kept, word) for word in self._stop), default=0)
        self._kept = kept[len(kept) - keep :]
        return kept[: len(kept) - keep], None

    def flush(self) -> str:
        """Return the text that was kept back for a stop string that never came."""
        kept, self._kept = self._kept, ""
        return kept


def overlap(text: str, word: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `word`."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)
