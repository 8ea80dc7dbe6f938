"""Speed verdicts from live measurements and from benchmarks."""

from typing import Any

from fakes.bench_results import bench_result, bench_row

from proxy.bench.results import Scenario
from proxy.bench.speed_verdicts import Lead, benched_verdicts, live_verdicts, to_text
from proxy.routing.measurements import Row


def row(backend: str, **fields: Any) -> Row:
    usual: dict[str, Any] = {
        "backend": backend,
        "name": "m",
        "answers": 3,
        "ttft_s": 1.0,
        "tokens_per_second": 10.0,
        "memory_bytes": None,
        "measured_at": 0,
        "prompt_tokens_to": 128,
        "answers_at_once_to": 1,
        "cold": False,
    }
    return Row(**usual | fields)


def test_only_rows_of_the_same_bucket_are_compared():
    rows = [
        row("mlx"),
        row("ollama", ttft_s=0.5, tokens_per_second=30.0, answers=1),
        row("mlx", cold=True),
        row("ollama", answers_at_once_to=4),
        row("mlx", prompt_tokens_to=512),
    ]
    (verdict,) = live_verdicts(rows)
    assert verdict.first_token == Lead("ollama", 2.0)
    assert verdict.tokens_per_second == Lead("ollama", 3.0)
    assert verdict.answers == 1
    assert verdict.text == "ollama begins 2.0 times as soon, ollama writes 3.0 times as fast"


def test_backends_may_lead_in_different_figures():
    (verdict,) = live_verdicts([row("mlx", ttft_s=0.5), row("ollama", tokens_per_second=20.0)])
    assert verdict.text == "mlx begins 2.0 times as soon, ollama writes 2.0 times as fast"


def test_less_than_five_percent_is_no_lead():
    assert to_text(Lead("mlx", 1.04), Lead("mlx", 1.06)) == (
        "both begin equally soon, mlx writes 1.1 times as fast"
    )


def test_speed_known_of_one_backend_only_is_no_lead():
    (verdict,) = live_verdicts([row("mlx"), row("ollama", tokens_per_second=None)])
    assert verdict.tokens_per_second is None
    assert verdict.text == "both begin equally soon"


def test_benchmarks_use_the_buckets_of_live_measurements():
    cold = Scenario("cold", "short", 4)
    rows = (
        bench_row("mlx", scenario=cold),
        bench_row("ollama", 20.0, scenario=cold, prompt_tokens=200),
        bench_row("mlx", scenario=Scenario("again", "long", 1)),
        bench_row("ollama", scenario=Scenario("again", "long", 1)),
        bench_row("mlx", scenario=Scenario("warm", "long", 1)),
    )
    (verdict,) = benched_verdicts(bench_result(rows=rows))
    assert (verdict.prompt_tokens_to, verdict.answers_at_once_to, verdict.cold) == (512, 4, True)
    assert verdict.together == Lead("ollama", 2.0)
