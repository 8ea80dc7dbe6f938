"""PNG of a `tandem bench MODEL` result: throughput above, time to the first token below."""

# pyright: basic
import textwrap
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from proxy.bench.results import BenchRow, Result, Round, Scenario
from proxy.bench.text_report import describe, describe_weights, first_token, throughput

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Palette of Okabe and Ito, which colour-blind readers can distinguish."""
_GROUP_WIDTH = 0.8
"""Share of the x axis between two ticks that the bars of a group take together."""
_NOTE_WIDTH = 150
"""Characters per line of the note below the panels."""


class NoPlotError(Exception):
    """matplotlib is not installed; the message says how to install it."""


class _Measure(Struct, frozen=True):
    label: str
    value: Callable[[BenchRow], float]
    of_round: Callable[[Round], float]
    decimals: int


_MEASURES = (
    _Measure(
        "tokens a second, together\n(more is better)", lambda row: row.together, throughput, 1
    ),
    _Measure(
        "seconds to the first token, p50\n(less is better)",
        lambda row: row.ttft_p50_s,
        first_token,
        2,
    ),
)


def draw(result: Result, path: Path) -> None:
    """Draw `result` and write it to `path`.

    Raises:
        NoPlotError: matplotlib is not installed.
        OSError: `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise NoPlotError("matplotlib is not installed: install `tandem-proxy[plot]`") from exc
    # A panel has the scenarios that differ only in the number of clients.
    groups: dict[tuple[str, str], list[Scenario]] = {}
    for scenario in result.scenarios():
        groups.setdefault((scenario.state, scenario.prompt), []).append(scenario)
    panels = list(groups.values())
    widths = [len(panel) + 1 for panel in panels]
    figure = Figure(figsize=(1.1 * sum(widths) + 1.5, 7.5), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False, gridspec_kw={"width_ratios": widths})
    for axes, measure in zip(grid, _MEASURES, strict=True):
        for axis, scenarios in zip(axes, panels, strict=True):
            _draw_panel(axis, result, scenarios, measure)
        axes[0].set_ylabel(measure.label)
    for axis, scenarios in zip(grid[0], panels, strict=True):
        axis.set_title(f"{scenarios[0].prompt} prompts, {scenarios[0].state}", fontsize=10)
    _annotate(figure, grid[0][0], result)
    figure.savefig(path, format="png", dpi=120)


def _draw_panel(axis, result: Result, scenarios: list[Scenario], measure: _Measure) -> None:
    backends = [contestant.backend for contestant in result.contestants]
    width = _GROUP_WIDTH / len(backends)
    for at, backend in enumerate(backends):
        rows = [row for key in scenarios for row in result.rows_of(key) if row.backend == backend]
        positions = [tick + (at - (len(backends) - 1) / 2) * width for tick in range(len(rows))]
        values = [measure.value(row) for row in rows]
        rounds = [[measure.of_round(one) for one in row.rounds] for row in rows]
        pairs = list(zip(values, rounds, strict=True))
        below = [max(value - min(figures), 0) for value, figures in pairs]
        bars = axis.bar(
            positions,
            values,
            width,
            label=backend,
            color=_COLOURS[at % len(_COLOURS)],
            yerr=[below, [max(max(figures) - value, 0) for value, figures in pairs]],
            error_kw={"ecolor": "#444444", "elinewidth": 1, "capsize": 2},
        )
        labels = [f"{value:.{measure.decimals}f}" for value in values]
        axis.bar_label(bars, labels, padding=2, fontsize=7)
    axis.set_xticks(range(len(scenarios)), [str(scenario.clients) for scenario in scenarios])
    axis.set_xlabel("clients at once")
    axis.set_xlim(-0.6, len(scenarios) - 0.4)
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def _annotate(figure, first_axis, result: Result) -> None:
    handles, labels = first_axis.get_legend_handles_labels()
    names = {one.backend: describe(one) for one in result.contestants}
    figure.legend(
        handles,
        [names[label] for label in labels],
        loc="outside upper center",
        ncols=1,
        fontsize=9,
        frameon=False,
        title=f"{result.model} on {' and '.join(labels)}",
        title_fontproperties={"size": 13, "weight": "bold"},
    )
    note = (
        f"{describe_weights(result)} Bars are medians over the rounds, whiskers their "
        f"extremes; answers of at most {result.max_tokens} tokens. {result.machine.to_text()}"
    )
    figure.supxlabel(textwrap.fill(note, _NOTE_WIDTH), fontsize=8, color="#444444")
