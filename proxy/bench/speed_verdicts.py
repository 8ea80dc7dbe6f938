"""Which backend is the faster one, where several were measured at the same."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Literal

from msgspec import Struct

from proxy.bench.results import BenchRow, Result, Scenario
from proxy.routing.measurements import Row, limits, to_bucket

_EQUAL = 1.05
"""Who is not faster than that is as fast."""


class Lead(Struct, frozen=True):
    backend: str
    times: float
    """How many times as fast as the next; 1 is as fast."""


class Verdict(Struct, frozen=True, kw_only=True):
    """Of answers to prompts of one length, so many at once."""

    source: Literal["live", "benched"]
    prompt_tokens_to: int | None
    answers_at_once_to: int | None
    cold: bool
    answers: int
    """Of the backend that has the fewest: what this rests on."""
    first_token: Lead | None
    tokens_per_second: Lead | None
    """Of one answer, once it has begun."""
    together: Lead | None = None
    """Of all answers at once, from the first question to the last word; benched only."""
    text: str


def live_verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """`rows` are those of one model, bucket by bucket."""
    found: list[Verdict] = []
    for _, group in groupby(rows, key=_bucket):
        same = list(group)
        if len(same) > 1:
            found.append(_of_live(same))
    return found


def _bucket(row: Row) -> tuple[int | None, int | None, bool]:
    return row.prompt_tokens_to, row.answers_at_once_to, row.cold


def _of_live(rows: list[Row]) -> Verdict:
    first_token = _least({row.backend: row.ttft_s for row in rows})
    tokens = _most({row.backend: row.tokens_per_second for row in rows})
    one = rows[0]
    return Verdict(
        source="live",
        prompt_tokens_to=one.prompt_tokens_to,
        answers_at_once_to=one.answers_at_once_to,
        cold=one.cold,
        answers=min(row.answers for row in rows),
        first_token=first_token,
        tokens_per_second=tokens,
        text=in_words(first_token, tokens),
    )


def benched_verdicts(result: Result) -> list[Verdict]:
    """Those for prompts that were new, which live answers can be compared with."""
    scenarios = [each for each in result.scenarios() if each.state != "again"]
    groups = {scenario: result.of(scenario) for scenario in scenarios}
    return [_of_benched(each, rows) for each, rows in groups.items() if len(rows) > 1]


def _of_benched(scenario: Scenario, rows: list[BenchRow]) -> Verdict:
    first_token = _least({row.backend: row.ttft_p50_s for row in rows})
    together = _most({row.backend: row.together for row in rows})
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
        tokens_per_second=_most({row.backend: row.tokens_per_second for row in rows}),
        together=together,
        text=in_words(first_token, together),
    )


def in_words(first_token: Lead | None, tokens: Lead | None) -> str:
    """`mlx begins 1.5 times as soon, ollama writes 3.0 times as fast`."""
    said = [
        _say(lead, act, alike)
        for lead, act, alike in (
            (first_token, "begins {:.1f} times as soon", "both begin equally soon"),
            (tokens, "writes {:.1f} times as fast", "both write equally fast"),
        )
        if lead is not None
    ]
    return ", ".join(said)


def _say(lead: Lead, act: str, alike: str) -> str:
    return alike if lead.times < _EQUAL else f"{lead.backend} {act.format(lead.times)}"


def _least(seconds: Mapping[str, float]) -> Lead | None:
    return _most({backend: 1 / each for backend, each in seconds.items() if each > 0})


def _most(speeds: Mapping[str, float | None]) -> Lead | None:
    """`None` where fewer than two are known."""
    known = sorted(((speed, backend) for backend, speed in speeds.items() if speed), reverse=True)
    if len(known) < 2:
        return None
    (best, backend), (second, _), *_ = known
    return Lead(backend, best / second)
