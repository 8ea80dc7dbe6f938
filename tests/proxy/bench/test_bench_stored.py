"""`tandem bench stored`: the store is filled beyond its limit and read."""

from proxy.bench.developers.stored import StoredPlan, bench_stored, lines


async def test_report_has_times_memory_and_size():
    plan, steps = StoredPlan(answers=20), list[str]()
    result = await bench_stored(plan, lambda text, *_: steps.append(text))
    assert [timing.name for timing in result.timings][:3] == ["keep", "get", "list 20"]
    assert all(0 < timing.median <= timing.p99 for timing in result.timings)
    assert len(result.memory_mib) == 6
    assert steps == [*["answers are written"] * 5, "answers are read"]
    text = list(lines(plan, result))
    assert text[0].startswith("20 answers kept of 30 written")
