"""Two backends' figures as ratios, which hold on a noisy machine."""

import statistics
from collections.abc import Callable

from msgspec import Struct

from proxy.bench.results import BenchRow, Round


class Ratio(Struct, frozen=True):
    """Of two backends' figures, round by round: those of a round were taken one after the other."""

    median: float
    low: float
    high: float


Figure = Callable[[Round], float | None]


def first_token(measured: Round) -> float:
    return measured.ttft_p50_s


def throughput(measured: Round) -> float:
    return measured.together


def ratio(row: BenchRow, yardstick: BenchRow, figure: Figure) -> Ratio | None:
    """`figure` of `row` over that of `yardstick`; `None` where it was not to be had."""
    pairs = zip(row.rounds, yardstick.rounds, strict=True)
    found = [one / two for a, b in pairs if (one := figure(a)) and (two := figure(b))]
    return Ratio(statistics.median(found), min(found), max(found)) if found else None
