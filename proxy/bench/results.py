"""Result types of `tandem bench MODEL`, shared by reports, the archive and the HTTP API."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from proxy.bench.machine import Machine
from proxy.models.registry import Deployment

Length = Literal["short", "long"]
State = Literal["warm", "cold", "again"]
"""`warm`: model loaded, new prompt; `cold`: model unloaded; `again`: prompt already processed."""
Report = Callable[[str, int, int], None]
"""Receives the step that begins, the number of steps before it, and that of all; 0: unknown."""


class Scenario(Struct, frozen=True):
    """One kind of load that every backend is measured under."""

    state: State
    prompt: Length
    clients: int
    """Number of concurrent requests."""

    def to_text(self) -> str:
        """Render as `short prompts, warm, 4 clients`."""
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"{self.prompt} prompts, {self.state}, {clients}"


class Contestant(Struct, frozen=True, kw_only=True):
    """A model on one backend, as listed at the time of the measurement."""

    backend: str
    name: str
    """Model name on the backend."""
    quantization: str | None = None
    digest: str | None = None
    origin: str | None = None
    """Digest of the GGUF from which the weights were made."""
    context_length: int | None = None
    size_bytes: int | None = None


class Round(Struct, frozen=True, kw_only=True):
    """Figures of one backend in one round, in seconds and tokens per second."""

    ttft_p50_s: float
    ttft_p95_s: float
    tokens_per_second: float | None
    """Median decode speed of single answers; `None` if every answer arrived in one piece."""
    together: float
    """Tokens of all answers divided by the duration of the round."""


class BenchRow(Struct, frozen=True, kw_only=True):
    """Figures of one backend in one scenario over all rounds."""

    backend: str
    scenario: Scenario
    prompt_tokens: int
    answers: int
    loads: int
    """Number of answers that waited for a load. More than 0 outside `cold` scenarios means that
    the memory does not hold the models of all backends at once."""
    ttft_p50_s: float
    ttft_p95_s: float
    tokens_per_second: float | None
    together: float
    memory_bytes: int | None
    rounds: tuple[Round, ...]


class Result(Struct, frozen=True, kw_only=True):
    """One complete run of `tandem bench MODEL`."""

    model: str
    """Public id."""
    measured_at: int
    """Unix time in seconds."""
    max_tokens: int
    machine: Machine
    contestants: tuple[Contestant, ...]
    same_weights: bool | None
    """Same meaning as `proxy.models.registry.RegisteredModel.same_weights`."""
    rows: tuple[BenchRow, ...]

    def scenarios(self) -> list[Scenario]:
        """List the scenarios in the order of measurement."""
        return list(dict.fromkeys(row.scenario for row in self.rows))

    def rows_of(self, scenario: Scenario) -> list[BenchRow]:
        """List the rows of `scenario` in the order of `contestants`."""
        return [row for row in self.rows if row.scenario == scenario]


def to_contestant(deployment: Deployment) -> Contestant:
    model = deployment.model
    return Contestant(
        backend=deployment.backend,
        name=deployment.name,
        quantization=model.quantization if model else None,
        digest=model.digest if model else None,
        origin=model.origin if model else None,
        context_length=model.context_length if model else None,
        size_bytes=model.size_bytes if model else None,
    )


def weights_differ(contestants: Iterable[Contestant]) -> bool:
    """Return True if the weights are certainly different.

    They are if they come from different files or have different numbers of bits.
    """
    contestants = list(contestants)
    origins = {contestant.origin for contestant in contestants}
    if None not in origins:
        return len(origins) > 1
    # Bits per weight, from `4-bit`, `Q4_K_M`, `BF16` or `float16`.
    numbers = [re.search(r"\d+", contestant.quantization or "") for contestant in contestants]
    bits = {number.group() if number else None for number in numbers}
    return None not in bits and len(bits) > 1


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the `percent` percentile of `values` as one of the values, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
