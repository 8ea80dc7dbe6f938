"""File descriptors of this process: their limit, and a reserve that work must not use up.

Each connection takes one, and a streamed answer of a server behind this one takes two. Where none
is left, a connection of a client is closed without an answer. The system gives out the lowest free
number, so the number of a new descriptor tells that at least as many are open.
"""

import errno
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager

_WANTED = 65_536
_MACOS = 10_240
"""`OPEN_MAX`, above which macOS may refuse a limit."""
_RESERVE = 64
"""Descriptors that only answers without work may take, such as `/health`."""
_LAST = 8
"""The last of them, for closing further connections with an answer."""
TOO_MANY_OPEN = "The server has too many open connections. Close some, or raise `ulimit -n`."
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def raise_limit() -> int:
    """Raise the soft limit as far as the hard one allows, to `_WANTED` at most; return it.

    macOS begins with 256, of which each streamed answer of Ollama takes two.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (_WANTED, _MACOS):
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return soft
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # More than the system allows, whatever the hard limit is.
            continue
        return wanted
    return soft


@contextmanager
def kept_limit() -> Generator[None]:
    """Keep the limit while a library is imported that sets one of its own.

    mlx-lm sets 2,048 of 4,096 for the whole process. A process without privileges cannot raise the
    second one again, and under a lower one the import fails.
    """
    change = resource.setrlimit

    def keep(_which: int, _limits: tuple[int, int]) -> None:
        """Change nothing."""

    resource.setrlimit = keep
    try:
        yield
    finally:
        resource.setrlimit = change


def fill_standard() -> None:
    """Open `/dev/null` in place of each of stdin, stdout and stderr that is closed.

    The next sockets would get these numbers, and what a library writes to stderr, or a child
    process to the stdout that it inherits, would go to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest free number: this one.


def most_clients() -> float:
    """Return how many connections of clients there may be, beside as many to servers behind."""
    return (_limit() - _reserve()) // 2


def is_scarce(fileno: int) -> bool:
    """True where a new descriptor `fileno` belongs to the reserve."""
    return fileno >= _limit() - _reserve() // 2


def is_last(fileno: int) -> bool:
    """True where hardly any descriptor is left after `fileno`."""
    return fileno >= _limit() - _LAST


def _reserve() -> float:
    return min(_RESERVE, _limit() // 4)


def _limit() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft
