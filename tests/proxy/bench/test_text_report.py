"""Text and PNG reports of `tandem bench MODEL`."""

import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.bench_results import MLX, OLLAMA, WARM, bench_result, bench_row
from msgspec.structs import replace

from proxy.bench.machine import parse_cpuinfo
from proxy.bench.plot import NoPlotError, draw
from proxy.bench.results import Scenario
from proxy.bench.text_report import (
    Ratio,
    bar,
    describe,
    describe_weights,
    first_token,
    lines,
    ratio,
    table,
    throughput,
)

COLD = Scenario("cold", "short", 4)


@pytest.mark.parametrize(
    ("value", "drawn"), [(0, ""), (0.001, "▏"), (4, "████"), (2.5, "██▌"), (10, "█" * 10)]
)
def test_bar_length_is_proportional_to_the_value(value: float, drawn: str):
    assert bar(value, 10, 10) == drawn


def test_ratios_are_computed_round_by_round():
    fast, slow = bench_row("ollama", 20.0), bench_row("mlx", 10.0)
    rounds = tuple(
        replace(one, together=speed) for one, speed in zip(fast.rounds, (40, 33), strict=True)
    )
    assert ratio(replace(fast, rounds=rounds), slow, throughput) == Ratio(3.5, 3.0, 4.0)
    assert ratio(fast, slow, first_token) == Ratio(0.5, 0.5, 0.5)


def test_table_has_figures_and_ratios_side_by_side():
    (_, _, mlx, ollama) = table(bench_result())
    assert mlx == "| short | warm | 1 | mlx | 100 | 200 | 1 | 10.0 | 10.0 | 1 | 5 |"
    assert ollama == (
        "| short | warm | 1 | ollama | 50 | 100 | 0.50 (0.50..0.50) | 20.0 | 20.0 "
        "| 2.00 (2.00..2.00) | 5 |"
    )


def test_unknown_figures_are_a_dash():
    rows = (bench_row("mlx", tokens_per_second=None, memory_bytes=None),)
    (*_, row) = table(bench_result(rows=rows))
    assert row.endswith("| — | 10.0 | 1 | — |")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"same_weights": True}, "same weights, bit for bit"),
        ({"same_weights": False}, "from the same file, but were rounded"),
        ({"contestants": (MLX, replace(OLLAMA, origin="sha256:bb"))}, "NOT the same weights"),
        ({"contestants": (MLX, replace(OLLAMA, origin=None))}, "It is unknown"),
        (
            {"contestants": (MLX, replace(OLLAMA, origin=None, quantization="Q8_0"))},
            "NOT the same weights",
        ),
        ({"contestants": (MLX,)}, "Only one backend"),
    ],
)
def test_report_states_if_the_weights_are_the_same(fields: dict[str, Any], text: str):
    assert text in describe_weights(bench_result(**fields))


def test_contestant_is_described_with_its_weights():
    assert describe(OLLAMA) == "ollama: m:1, Q4_1, digest d1, from GGUF aa"
    assert describe(replace(MLX, quantization=None, origin=None)) == (
        "mlx: m, quantisation unknown"
    )


def test_loads_in_a_warm_scenario_are_noted():
    rows = (bench_row("mlx", loads=1), bench_row("ollama", scenario=COLD, loads=2))
    text = "\n".join(lines(bench_result(rows=rows)))
    assert "mlx had to load the model for 1 of 2 answers (short prompts, warm, 1 client)" in text
    assert "ollama had to load" not in text
    assert "A CPU, 2 cores, 4 GiB, Linux; Python 3.11" in text


def test_fastest_backend_has_the_longest_bar():
    text = list(lines(bench_result()))
    assert "  short prompts, warm, 1 client   mlx    " + "█" * 20 + " 10.0" in text
    assert "                                  ollama " + "█" * 40 + " 20.0" in text


@pytest.mark.slow
def test_plot_is_a_png(tmp_path: Path):
    rows = [bench_row(kind, scenario=key) for key in (WARM, COLD) for kind in ("mlx", "ollama")]
    path = tmp_path / "drawn.png"
    draw(bench_result(rows=tuple(rows)), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plot_without_matplotlib_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NoPlotError, match=r"tandem-proxy\[plot\]"):
        draw(bench_result(), tmp_path / "drawn.png")


def test_cpu_name_is_read_from_cpuinfo():
    assert parse_cpuinfo("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n") == "Fast CPU @ 3 GHz"
    assert parse_cpuinfo("processor : 0\n")
