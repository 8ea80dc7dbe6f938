"""The tables of `tandem bench`."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from msgspec import Struct


class Row(Struct, frozen=True, kw_only=True):
    """One contestant at one number of clients; seconds, and seconds of CPU for each token."""

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
    """What was measured with, on what."""
    parts = " ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "litestar", "uvicorn"))
    return f"{platform.platform()} {platform.machine()}, Python {sys.version.split()[0]}, {parts}"


def print_rows(rows: Sequence[Row]) -> None:
    """`ratio` is the throughput over that of the first contestant at as many clients."""
    print(f"{machine()}\n\n| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
    for row in rows:
        yardstick = next(each for each in rows if each.clients == row.clients)
        ratio = row.tokens_per_second / yardstick.tokens_per_second
        print(
            f"| {row.clients} | {row.contestant} | {row.tokens_per_second:.1f} | {ratio:.2f} "
            f"| {row.first_token_p50 * 1e3:.0f} | {row.first_token_p95 * 1e3:.0f} "
            f"| {row.gap_p99 * 1e3:.1f} | {row.cpu_per_token * 1e3:.2f} |",
            flush=True,
        )


def print_newcomers(found: dict[str, float]) -> None:
    print("\nFirst token of a short request beside two long answers, median:")
    first = next(iter(found.values()))
    for name, seconds in found.items():
        print(f"  {name}: {seconds * 1e3:.0f} ms ({seconds / first:.2f})", flush=True)


class RelayRow(Struct, frozen=True):
    """One relay: seconds of CPU for each word or request, seconds added, and a ratio of times."""

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


def print_relays(rows: Sequence[RelayRow]) -> None:
    """In parentheses: as a share of the first contestant's."""
    print(f"{machine()}\n\n| {' | '.join(_RELAY_COLUMNS)} |\n{'|---' * len(_RELAY_COLUMNS)}|")
    for row in rows:
        costs = (
            f"{own * 1e6:.1f} ({own / plain:.3f})"
            for own, plain in (
                (row.full, rows[0].full),
                (row.paced, rows[0].paced),
                (row.whole, rows[0].whole),
            )
        )
        print(
            f"| {row.contestant} | {' | '.join(costs)} | {row.first * 1e3:.2f} | {row.crowd:.3f} |",
            flush=True,
        )
