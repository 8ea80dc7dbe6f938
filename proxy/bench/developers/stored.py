"""`tandem bench stored`: times and memory of the store of answers, filled beyond its limit."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from proxy.bench.results import Report
from proxy.config import StoreConfig
from proxy.record import new_id
from proxy.stored.entry import Entry, Page
from proxy.stored.store import Store

_CALLER = "bench"
_SAMPLES = 200
_PARTS = 5
"""Parts of the filling, after each of which memory is measured."""
_TEXT = "All work and no play makes a dull answer. " * 40


class StoredPlan(Struct, frozen=True):
    answers: int
    """Answers that are kept at a time; half as many again are written."""


class Timing(Struct, frozen=True):
    """Milliseconds of one kind of request to the store."""

    name: str
    median: float
    p99: float


class StoredResult(Struct, frozen=True):
    timings: tuple[Timing, ...]
    memory_mib: tuple[float, ...]
    """The memory of this process before the filling, and after each part of it."""
    file_mib: float


async def bench_stored(plan: StoredPlan, report: Report) -> StoredResult:
    """Fill a store in a temporary folder with half as many answers again as it keeps; read it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "stored", StoreConfig(max_count=plan.answers))
        async with store.opened():
            return await _measure(store, plan.answers, Path(folder), report)


async def _measure(store: Store, answers: int, folder: Path, report: Report) -> StoredResult:
    ids: list[str] = []
    puts: list[float] = []
    memory = [_memory_mib()]
    for part in range(_PARTS):
        report("answers are written", part, _PARTS + 1)
        for _ in range(answers * 3 // 2 // _PARTS):
            entry = _entry()
            ids.append(entry.id)
            puts.append(await _timed(lambda entry=entry: store.keep(entry, {"topic": "bench"})))
        memory.append(_memory_mib())
    report("answers are read", _PARTS, _PARTS + 1)
    kept = ids[-answers:]
    middle = kept[len(kept) // 2]
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.get("response", middle, _CALLER),
        "list 20": lambda: store.list("response", _CALLER, Page()),
        "list 20 from the middle": lambda: store.list("response", _CALLER, Page(after=middle)),
        "list 100 by metadata": lambda: store.list(
            "response", _CALLER, Page(limit=100, order="desc"), metadata={"topic": "bench"}
        ),
    }
    timings = [_to_timing("keep", puts)]
    for name, call in calls.items():
        timings.append(_to_timing(name, [await _timed(call) for _ in range(_SAMPLES)]))
    size = await asyncio.to_thread(_file_mib, folder)
    return StoredResult(tuple(timings), tuple(memory), size)


def _entry() -> Entry:
    key = new_id("resp_")
    content = msgspec.json.encode({"id": key, "object": "response", "output": [_TEXT]})
    question = msgspec.json.encode([{"id": new_id("msg_"), "content": _TEXT}])
    return Entry(id=key, kind="response", caller=_CALLER, object=content, input=question, model="m")


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    """Await `call`; returns milliseconds."""
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


def _to_timing(name: str, samples: list[float]) -> Timing:
    return Timing(name, statistics.median(samples), statistics.quantiles(samples, n=100)[98])


def _memory_mib() -> float:
    """The resident memory of this process, in MiB; 0 where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _file_mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def lines(plan: StoredPlan, result: StoredResult) -> Iterator[str]:
    """The result as text."""
    written = plan.answers * 3 // 2
    yield f"{plan.answers} answers kept of {written} written; file {result.file_mib:.1f} MiB"
    yield "memory (MiB): " + " ".join(f"{each:.1f}" for each in result.memory_mib)
    yield f"{'':26}{'median ms':>10}{'p99 ms':>10}"
    for timing in result.timings:
        yield f"{timing.name:26}{timing.median:10.2f}{timing.p99:10.2f}"
