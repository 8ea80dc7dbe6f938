"""Times and sizes that no configuration sets; tests pass shorter ones, and a clock of their own."""

import time
from collections.abc import Callable

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """Seconds, but for `max_bytes` and `clock`."""

    look_every: float = 2.0
    """Between two looks at a server that is silent or failing: whether it responds at all."""
    look: float = 2.0
    """For one such look: a server under load may take its time."""
    first_probe: float = 5.0
    """From the opening of a circuit breaker to its first probe, a request for a token; each later
    wait is twice as long, …"""
    longest_probe: float = 60.0
    """… up to this."""
    lookup: float = 1.0
    """For facts that are good to know before a request is sent, and no more."""
    health: float = 0.8
    """For a health check: a server that hangs must not delay its caller."""
    unload: float = 10.0
    """For the acknowledgement of an unload: others wait for the memory."""
    list_grace: float = 1.0
    """For the lists of slow servers, once one server has answered."""
    clock: Callable[[], float] = time.monotonic
    """Returns the time by which the age of lists is measured."""
    max_bytes: int = 256_000_000
    """Size of one response: nearly a million tokens. A longer one has no end."""


DEFAULT_LIMITS = Limits()
