"""Answers that are written only after the check, because no grammar enforces their schema."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from adapters.errors import GenerationError
from adapters.events import Event, Restarted, Started
from adapters.ollama.translate.stream import Checks
from adapters.request import GenerationRequest
from adapters.sink import Sink

_MOST_RETRIES = 3


class _HoldingSink:
    """Keeps the events of one attempt."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, /) -> bool:
        if isinstance(event, Restarted):  # Nothing of the attempt was written.
            self.events = [e for e in self.events if isinstance(e, Started)]
        else:
            self.events.append(event)
        return False

    async def drain(self) -> None:
        """Return at once: the answer is kept in memory."""


async def write_checked(
    request: GenerationRequest,
    sink: Sink,
    checks: Checks,
    write: Callable[[GenerationRequest, Sink], Awaitable[None]],
) -> None:
    """Write the first of up to four answers that matches the strict schema of `request`.

    Each attempt has the next seed. With a temperature of 0 there is one: the others would be the
    same.

    Raises:
        GenerationError: no attempt matches; it is `lasting`.
        BackendError: as `write`.
    """
    greedy = request.sampling.temperature == 0
    seed = request.sampling.seed
    attempts = 1 if greedy else 1 + _MOST_RETRIES
    for attempt in range(attempts):
        held = _HoldingSink()
        sampling = replace(request.sampling, seed=None if seed is None else seed + attempt)
        try:
            await write(replace(request, sampling=sampling), held)
        except GenerationError:
            if not checks.has_failed:
                raise
            continue
        for event in held.events:
            if sink.write(event):
                await sink.drain()
        return
    raise _no_match(attempts)


def _no_match(attempts: int) -> GenerationError:
    tries = "The answer" if attempts == 1 else f"None of {attempts} answers"
    negation = "does not match" if attempts == 1 else "matches"
    return GenerationError(
        f"{tries} {negation} the strict schema, or the format of a tool's input: bounds of numbers "
        "or lengths, and formats, are checked, because Ollama cannot enforce them.",
        lasting=True,
    )
