"""The report of `tandem doctor`: checks by id, as JSON and as one screen of text."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

Status = Literal["ok", "warning", "fail", "unknown"]
SCHEMA_VERSION = 1
_WORST: tuple[Status, ...] = ("fail", "warning", "ok")
_MARKS: dict[Status, str] = {"ok": "✓", "warning": "!", "fail": "✗", "unknown": "?"}


class Check(Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of one check."""

    category: str
    status: Status
    """`warning`: it works, with a disadvantage; `unknown`: it cannot be found out from here."""
    summary: str
    details: dict[str, Any] = {}
    remediation: str | None = None
    """The next step for the user."""
    duration_ms: int = 0


class Report(Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = SCHEMA_VERSION
    generated_at: str
    overall_status: Status
    checks: dict[str, Check]


Checks = Callable[[], Awaitable[dict[str, Check]]]
"""A few checks that belong together, by id."""


async def to_report(groups: Sequence[Checks]) -> Report:
    """Run the checks one after the other. One that raises is a failed check, not the end.

    Raises:
        CancelledError: also where a check has turned its cancellation into a result.
    """
    checks: dict[str, Check] = {}
    for group in groups:
        began = time.monotonic()
        try:
            found = await group()
        except Exception as exc:  # A doctor has to survive the disease.
            name = getattr(group, "__name__", "check")
            text = f"{name} failed: {type(exc).__name__}: {exc}"
            found = {f"doctor.{name}": Check(category="doctor", status="unknown", summary=text)}
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # Ctrl-C: what failed on the way out is no result.
        spent = round(1000 * (time.monotonic() - began))
        checks |= {
            id_: replace(check, duration_ms=check.duration_ms or spent)
            for id_, check in found.items()
        }
    return Report(
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        overall_status=_overall(checks),
        checks=checks,
    )


def _overall(checks: dict[str, Check]) -> Status:
    statuses = {check.status for check in checks.values()}
    for status in _WORST:
        if status in statuses:
            return status
    return "ok"


def to_json(report: Report, hidden: dict[str, str]) -> dict[str, Any]:
    """The report as JSON; the texts in `hidden`, such as paths, are replaced."""
    return _without(msgspec.to_builtins(report), hidden)


def _without(value: Any, hidden: dict[str, str]) -> Any:
    match value:
        case str():
            for text, shown in hidden.items():
                value = value.replace(text, shown)
            return value
        case dict():
            return {k: _without(v, hidden) for k, v in value.items()}  # pyright: ignore
        case list() | tuple():
            return [_without(each, hidden) for each in value]  # pyright: ignore
        case _:
            return value


def to_lines(report: Report) -> Iterator[str]:
    """One line for each check, by category, and what to do below it."""
    category = ""
    for check in report.checks.values():
        if check.category != category:
            category = check.category
            yield f"{category}"
        yield f"  {_MARKS[check.status]} {check.summary}"
        if check.remediation is not None:
            yield f"      → {check.remediation}"
    counts = dict.fromkeys(_MARKS, 0)
    for check in report.checks.values():
        counts[check.status] += 1
    yield ""
    parts = [f"{n} {status}" for status, n in counts.items() if n]
    yield f"{report.overall_status}: {', '.join(parts)}"
