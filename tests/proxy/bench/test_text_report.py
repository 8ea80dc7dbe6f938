"""What `tandem bench MODEL` prints and draws."""

import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.bench_results import MLX, OLLAMA, WARM, bench_result, bench_row
from msgspec.structs import replace

from proxy.bench.machine import cpu_of
from proxy.bench.plot import NoPlotError, draw
from proxy.bench.results import Scenario
from proxy.bench.text_report import (
    Ratio,
    bar,
    described,
    first_token,
    lines,
    ratio,
    table,
    throughput,
    weights_in_words,
)

COLD = Scenario("cold", "short", 4)


@pytest.mark.parametrize(
    ("value", "drawn"), [(0, ""), (0.001, "▏"), (4, "████"), (2.5, "██▌"), (10, "█" * 10)]
)
def test_bars_are_as_long_as_what_they_stand_for(value: float, drawn: str):
    assert bar(value, 10, 10) == drawn


def test_ratios_are_taken_round_by_round():
    fast, slow = bench_row("ollama", 20.0), bench_row("mlx", 10.0)
    twice = tuple(replace(each, together=speed) for each, speed in zip(fast.rounds, (40, 33)))  # noqa: B905
    assert ratio(replace(fast, rounds=twice), slow, throughput) == Ratio(3.5, 3.0, 4.0)
    assert ratio(fast, slow, first_token) == Ratio(0.5, 0.5, 0.5)


def test_table_has_figures_and_ratios_side_by_side():
    (_, _, mlx, ollama) = table(bench_result())
    assert mlx == "| short | warm | 1 | mlx | 100 | 200 | 1 | 10.0 | 10.0 | 1 | 5 |"
    assert ollama == (
        "| short | warm | 1 | ollama | 50 | 100 | 0.50 (0.50..0.50) | 20.0 | 20.0 "
        "| 2.00 (2.00..2.00) | 5 |"
    )


def test_what_was_not_measured_is_a_dash():
    rows = (bench_row("mlx", tokens_per_second=None, memory_bytes=None),)
    (*_, row) = table(bench_result(rows=rows))
    assert row.endswith("| — | 10.0 | 1 | — |")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"same_weights": True}, "same weights, to the last bit"),
        ({"same_weights": False}, "from one file, and rounded"),
        ({"contestants": (MLX, replace(OLLAMA, origin="sha256:bb"))}, "NOT the same weights"),
        ({"contestants": (MLX, replace(OLLAMA, origin=None))}, "is not known"),
        (
            {"contestants": (MLX, replace(OLLAMA, origin=None, quantization="Q8_0"))},
            "NOT the same weights",
        ),
        ({"contestants": (MLX,)}, "Only one backend"),
    ],
)
def test_it_is_said_whether_the_weights_are_the_same(fields: dict[str, Any], said: str):
    assert said in weights_in_words(bench_result(**fields))


def test_a_contestant_is_described_with_its_weights():
    assert described(OLLAMA) == "ollama: m:1, Q4_1, digest d1, of the GGUF aa"
    assert described(replace(MLX, quantization=None, origin=None)) == (
        "mlx: m, quantisation not told"
    )


def test_a_warm_answer_that_had_to_load_is_named():
    rows = (bench_row("mlx", loads=1), bench_row("ollama", scenario=COLD, loads=2))
    text = "\n".join(lines(bench_result(rows=rows)))
    assert "mlx had to load for 1 of 2 answers (short prompts, warm, 1 client)" in text
    assert "ollama had to load" not in text
    assert "A CPU, 2 cores, 4 GiB, Linux; Python 3.11" in text


def test_the_fastest_has_the_longest_bar():
    text = list(lines(bench_result()))
    assert "  short prompts, warm, 1 client   mlx    " + "█" * 20 + " 10.0" in text
    assert "                                  ollama " + "█" * 40 + " 20.0" in text


def test_the_picture_is_a_png(tmp_path: Path):
    rows = [bench_row(who, scenario=each) for each in (WARM, COLD) for who in ("mlx", "ollama")]
    path = tmp_path / "drawn.png"
    draw(bench_result(rows=tuple(rows)), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_there_is_no_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NoPlotError, match=r"tandem-proxy\[plot\]"):
        draw(bench_result(), tmp_path / "drawn.png")


def test_the_cpu_is_named_where_the_system_tells_it():
    assert cpu_of("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n") == "Fast CPU @ 3 GHz"
    assert cpu_of("processor : 0\n")
