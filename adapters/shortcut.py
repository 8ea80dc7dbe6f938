"""A way for texts past the generators between a backend and whoever reads its answer."""

from collections.abc import Callable


def _closed(_text: str) -> bool:
    return False


class Shortcut:
    """Whoever reads opens it, by setting `take`; until then it takes nothing.

    A generator costs a turn of its task and a resumption of every generator around it: more than
    what most answers consist of, a token at a time. A backend may hand the text of an only choice
    over here as soon as it has it, as long as its generator is awaited, so that all stays in order.
    The events before and with the first text, and the last, are always yielded. Whoever stands
    between the two and wants to see all, or to hold it back, hands on no shortcut.
    """

    def __init__(self) -> None:
        self.take: Callable[[str], bool] = _closed
        """False where a text is not taken: then it has to be yielded."""
