"""What a benchmark of one model found: as it is printed, drawn, kept and served."""

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from proxy.bench.machine import Machine
from proxy.bench.prompts import Length
from proxy.models.registry import Deployment

State = Literal["warm", "cold", "again"]
"""The model is loaded and the prompt new; the model has to be loaded; the prompt was just read."""


class Scenario(Struct, frozen=True):
    state: State
    prompt: Length
    clients: int
    """How many ask at once."""

    def in_words(self) -> str:
        many = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"{self.prompt} prompts, {self.state}, {many}"


class Contestant(Struct, frozen=True, kw_only=True):
    """A model on one backend, as it was when it was measured."""

    backend: str
    name: str
    """The backend's own, of the model."""
    quantization: str | None = None
    digest: str | None = None
    origin: str | None = None
    """The digest of the GGUF that its weights are from."""
    context_length: int | None = None
    size_bytes: int | None = None


class Round(Struct, frozen=True, kw_only=True):
    """One turn of a backend: seconds, and tokens a second."""

    ttft_p50_s: float
    ttft_p95_s: float
    tokens_per_second: float | None
    """Of one answer, from its first piece to its end; the median. `None`: all came in one piece."""
    together: float
    """Of all answers, from the first question to the last word."""


class BenchRow(Struct, frozen=True, kw_only=True):
    """A backend in one scenario, all rounds together."""

    backend: str
    scenario: Scenario
    prompt_tokens: int
    answers: int
    loads: int
    """Answers that waited for a load. In a warm scenario: the memory does not hold all backends."""
    ttft_p50_s: float
    ttft_p95_s: float
    tokens_per_second: float | None
    together: float
    memory_bytes: int | None
    rounds: tuple[Round, ...]


class Result(Struct, frozen=True, kw_only=True):
    model: str
    """The public id."""
    measured_at: int
    """Seconds since 1970."""
    max_tokens: int
    machine: Machine
    contestants: tuple[Contestant, ...]
    same_weights: bool | None
    """As `proxy.models.registry.Entry.same_weights`."""
    rows: tuple[BenchRow, ...]

    def scenarios(self) -> list[Scenario]:
        return list(dict.fromkeys(row.scenario for row in self.rows))

    def of(self, scenario: Scenario) -> list[BenchRow]:
        """In the order of the contestants."""
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


def differ(contestants: Iterable[Contestant]) -> bool:
    """Whether they surely have other weights: of other files, or of other numbers of bits."""
    told = list(contestants)
    origins = {each.origin for each in told}
    if None not in origins:
        return len(origins) > 1
    bits = {_bits(each.quantization) for each in told}
    return None not in bits and len(bits) > 1


def _bits(quantization: str | None) -> str | None:
    """The number in `4-bit`, `Q4_K_M`, `BF16` or `float16`: how many bits a weight has."""
    found = re.search(r"\d+", quantization or "")
    return found.group() if found else None
