"""Handwritten result of a benchmark: `small`, twice as fast on Ollama as on MLX."""

from typing import Any

from proxy.bench.machine import Machine
from proxy.bench.results import BenchRow, Contestant, Result, Round, Scenario

MLX = Contestant(backend="mlx", name="m", quantization="4-bit", origin="sha256:aa")
OLLAMA = Contestant(
    backend="ollama", name="m:1", quantization="Q4_1", digest="d1", origin="sha256:aa"
)
WARM = Scenario("warm", "short", 1)
MACHINE = Machine(
    cpu="A CPU", cores=2, memory_bytes=4 * 2**30, system="Linux", versions={"Python": "3.11"}
)


def bench_row(backend: str, together: float = 10.0, **fields: Any) -> BenchRow:
    """Build a row of two rounds, the second a tenth faster than the first."""
    rounds = tuple(
        Round(ttft_p50_s=1 / speed, ttft_p95_s=2 / speed, tokens_per_second=speed, together=speed)
        for speed in (together, together * 1.1)
    )
    defaults: dict[str, Any] = {
        "backend": backend,
        "scenario": WARM,
        "prompt_tokens": 60,
        "answers": 2,
        "loads": 0,
        "ttft_p50_s": 1 / together,
        "ttft_p95_s": 2 / together,
        "tokens_per_second": together,
        "together": together,
        "memory_bytes": 5_000_000,
        "rounds": rounds,
    }
    return BenchRow(**defaults | fields)


def bench_result(**fields: Any) -> Result:
    defaults: dict[str, Any] = {
        "model": "small",
        "measured_at": 1000,
        "max_tokens": 64,
        "machine": MACHINE,
        "contestants": (MLX, OLLAMA),
        "same_weights": None,
        "rows": (bench_row("mlx"), bench_row("ollama", 20.0)),
    }
    return Result(**defaults | fields)
