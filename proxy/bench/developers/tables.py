"""Tables of `tandem bench engine` and `tandem bench relay`."""

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from msgspec import Struct


class Row(Struct, frozen=True, kw_only=True):
    """Figures of one contestant at one number of clients, in seconds and CPU seconds per token."""

    contestant: str
    clients: int
    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    gap_p99: float
    cpu_per_token: float


_COLUMNS = (
    "clients",
    "contestant",
    "tokens/s",
    "ratio",
    "TTFT p50 ms",
    "TTFT p95 ms",
    "gap p99 ms",
    "CPU ms/token",
)


def machine() -> str:
    """Describe the platform and the versions of the libraries."""
    parts = " ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "litestar", "uvicorn"))
    return f"{platform.platform()} {platform.machine()}, Python {sys.version.split()[0]}, {parts}"


class EngineResult(Struct, frozen=True):
    """Figures of `tandem bench engine`."""

    machine: str
    rows: tuple[Row, ...]
    newcomers: dict[str, float]
    """Contestant -> seconds to the first token of a short request beside two long answers."""


def engine_lines(result: EngineResult) -> Iterator[str]:
    """Render tables; ratios are to the first contestant, at the same number of clients."""
    yield f"{result.machine}\n\n| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|"
    rows = result.rows
    for row in rows:
        baseline = next(other for other in rows if other.clients == row.clients)
        ratio = row.tokens_per_second / baseline.tokens_per_second
        yield (
            f"| {row.clients} | {row.contestant} | {row.tokens_per_second:.1f} | {ratio:.2f} "
            f"| {row.first_token_p50 * 1e3:.0f} | {row.first_token_p95 * 1e3:.0f} "
            f"| {row.gap_p99 * 1e3:.1f} | {row.cpu_per_token * 1e3:.2f} |"
        )
    if result.newcomers:
        yield "\nFirst token of a short request beside two long answers, median:"
    for name, seconds in result.newcomers.items():
        ratio = seconds / next(iter(result.newcomers.values()))
        yield f"  {name}: {seconds * 1e3:.0f} ms ({ratio:.2f})"


class RelayRow(Struct, frozen=True):
    """Figures of one relay: CPU seconds per word or request, added seconds, and a time ratio."""

    contestant: str
    full: float
    paced: float
    whole: float
    first: float
    crowd: float


_RELAY_COLUMNS = (
    "contestant",
    "CPU µs/chunk, full speed",
    "CPU µs/chunk, paced",
    "CPU µs/request, not streamed",
    "added TTFT p50 ms",
    "64 paced streams, total p50 / upstream's",
)


def relay_lines(rows: Sequence[RelayRow]) -> Iterator[str]:
    """Render a table, with ratios to the first contestant in parentheses."""
    yield f"{machine()}\n\n| {' | '.join(_RELAY_COLUMNS)} |\n{'|---' * len(_RELAY_COLUMNS)}|"
    for row in rows:
        costs = (
            f"{own * 1e6:.1f} ({own / plain:.3f})"
            for own, plain in (
                (row.full, rows[0].full),
                (row.paced, rows[0].paced),
                (row.whole, rows[0].whole),
            )
        )
        costs_text = " | ".join(costs)
        yield f"| {row.contestant} | {costs_text} | {row.first * 1e3:.2f} | {row.crowd:.3f} |"
