"""Compare backends by speed: which one is faster, and by which factor."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Literal

from msgspec import Struct

from proxy.bench.results import BenchRow, Result, Scenario
from proxy.routing.measurements import Row, limits, to_bucket

_EQUAL_BELOW = 1.05
"""A backend less than 5 % faster than the next counts as equally fast."""


class Lead(Struct, frozen=True):
    backend: str
    times: float
    """Speed relative to the second fastest backend; 1 is equally fast."""


class Verdict(Struct, frozen=True, kw_only=True):
    """Comparison of the backends for one prompt length and one number of concurrent answers."""

    source: Literal["live", "benched"]
    prompt_tokens_to: int | None
    answers_at_once_to: int | None
    cold: bool
    answers: int
    """Sample size: the answers of the backend with the fewest."""
    first_token: Lead | None
    tokens_per_second: Lead | None
    """Decode speed of a single answer."""
    together: Lead | None = None
    """Throughput of all concurrent answers; `benched` only."""
    text: str


def live_verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Compare the backends in each bucket of live measurements.

    `rows` are the rows of one model, sorted by bucket. Buckets with one backend are left out.
    """
    buckets = [list(bucket) for _, bucket in groupby(rows, key=_bucket)]
    return [_live_verdict(bucket) for bucket in buckets if len(bucket) > 1]


def _bucket(row: Row) -> tuple[int | None, int | None, bool]:
    return row.prompt_tokens_to, row.answers_at_once_to, row.cold


def _live_verdict(rows: list[Row]) -> Verdict:
    first_token = _shortest({row.backend: row.ttft_s for row in rows})
    tokens_per_second = _fastest({row.backend: row.tokens_per_second for row in rows})
    prompt_tokens_to, answers_at_once_to, cold = _bucket(rows[0])
    return Verdict(
        source="live",
        prompt_tokens_to=prompt_tokens_to,
        answers_at_once_to=answers_at_once_to,
        cold=cold,
        answers=min(row.answers for row in rows),
        first_token=first_token,
        tokens_per_second=tokens_per_second,
        text=to_text(first_token, tokens_per_second),
    )


def benched_verdicts(result: Result) -> list[Verdict]:
    """Compare the backends in each scenario of a benchmark.

    Scenarios with repeated prompts are left out: live measurements have no equivalent.
    """
    scenarios = [scenario for scenario in result.scenarios() if scenario.state != "again"]
    groups = {scenario: result.rows_of(scenario) for scenario in scenarios}
    return [_benched_verdict(key, rows) for key, rows in groups.items() if len(rows) > 1]


def _benched_verdict(scenario: Scenario, rows: list[BenchRow]) -> Verdict:
    first_token = _shortest({row.backend: row.ttft_p50_s for row in rows})
    together = _fastest({row.backend: row.together for row in rows})
    prompt_tokens = max(row.prompt_tokens for row in rows)
    bucket = to_bucket(prompt_tokens, scenario.clients, scenario.state == "cold")
    prompt_tokens_to, answers_at_once_to = limits(bucket)
    return Verdict(
        source="benched",
        prompt_tokens_to=prompt_tokens_to,
        answers_at_once_to=answers_at_once_to,
        cold=bucket.cold,
        answers=min(row.answers for row in rows),
        first_token=first_token,
        tokens_per_second=_fastest({row.backend: row.tokens_per_second for row in rows}),
        together=together,
        text=to_text(first_token, together),
    )


def to_text(first_token: Lead | None, tokens: Lead | None) -> str:
    """Render as `mlx begins 1.5 times as soon, ollama writes 3.0 times as fast`."""
    clauses = (
        (first_token, "begins {:.1f} times as soon", "both begin equally soon"),
        (tokens, "writes {:.1f} times as fast", "both write equally fast"),
    )
    return ", ".join(
        equal if lead.times < _EQUAL_BELOW else f"{lead.backend} {faster.format(lead.times)}"
        for lead, faster, equal in clauses
        if lead is not None
    )


def _shortest(seconds: Mapping[str, float]) -> Lead | None:
    return _fastest({backend: 1 / time for backend, time in seconds.items() if time > 0})


def _fastest(speeds: Mapping[str, float | None]) -> Lead | None:
    """Return the lead of the fastest backend; `None` if fewer than two speeds are known."""
    known = sorted(((speed, backend) for backend, speed in speeds.items() if speed), reverse=True)
    if len(known) < 2:
        return None
    (best, backend), (second, _), *_ = known
    return Lead(backend, best / second)
