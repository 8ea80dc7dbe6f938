"""Text output of `tandem bench MODEL`: contestants, a table, and bars."""

import statistics
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from proxy.bench.results import BenchRow, Contestant, Result, Round, weights_differ

_COLUMNS = (
    "prompt",
    "state",
    "clients",
    "backend",
    "TTFT p50 ms",
    "p95",
    "ratio",
    "tokens/s each",
    "together",
    "ratio",
    "MB",
)
_UNKNOWN = "—"
_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Ratio(Struct, frozen=True):
    """Ratio of two backends' figures, computed round by round.

    Figures of one round were measured in immediate succession, so their ratio holds even if the
    machine's speed changes from round to round.
    """

    median: float
    low: float
    high: float


Figure = Callable[[Round], float | None]


def first_token(measured: Round) -> float:
    return measured.ttft_p50_s


def throughput(measured: Round) -> float:
    return measured.together


def ratio(row: BenchRow, baseline: BenchRow, figure: Figure) -> Ratio | None:
    """Divide `figure` of `row` by that of `baseline`; `None` if no round has both figures."""
    pairs = zip(row.rounds, baseline.rounds, strict=True)
    ratios = [one / two for a, b in pairs if (one := figure(a)) and (two := figure(b))]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def lines(result: Result) -> Iterator[str]:
    """Render the report of `result`, line by line."""
    yield f"{result.model}: {result.machine.to_text()}"
    for contestant in result.contestants:
        yield f"  {describe(contestant)}"
    yield f"  {describe_weights(result)}"
    yield ""
    yield from table(result)
    yield from _notes(result)
    yield from _chart(result, "Tokens a second, all answers together", lambda r: r.together, 1)
    yield from _chart(result, "Milliseconds to the first token, p50", lambda r: r.ttft_p50_s, 1e3)


def describe(contestant: Contestant) -> str:
    """Render as `ollama: smollm2:135m, Q4_1, digest 765525e6017a, context 8192`."""
    facts = (
        contestant.name,
        contestant.quantization or "quantisation unknown",
        f"digest {_short(contestant.digest)}" if contestant.digest else None,
        f"from GGUF {_short(contestant.origin)}" if contestant.origin else None,
        f"context {contestant.context_length}" if contestant.context_length else None,
    )
    return f"{contestant.backend}: {', '.join(fact for fact in facts if fact)}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def describe_weights(result: Result) -> str:
    """Render in a sentence if the contestants have the same weights."""
    if len(result.contestants) < 2:
        return "Only one backend has the model: there is nothing to compare it with."
    if weights_differ(result.contestants):
        return "These are NOT the same weights: the answers differ as well as the speed."
    match result.same_weights:
        case True:
            return "All backends use the same weights, bit for bit."
        case False:
            return "The weights come from the same file, but were rounded in conversion."
        case None:
            return "It is unknown if these are the same weights."


def table(result: Result) -> Iterator[str]:
    """Render the rows as Markdown.

    `ratio` is relative to the first backend: the median over the rounds, then the extremes.
    """
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---" * len(_COLUMNS) + "|"
    for scenario in result.scenarios():
        rows = result.rows_of(scenario)
        for row in rows:
            yield f"| {' | '.join(_cells(row, rows[0]))} |"


def _cells(row: BenchRow, baseline: BenchRow) -> Sequence[str]:
    return (
        row.scenario.prompt,
        row.scenario.state,
        str(row.scenario.clients),
        row.backend,
        f"{row.ttft_p50_s * 1e3:.0f}",
        f"{row.ttft_p95_s * 1e3:.0f}",
        _ratio_cell(row, baseline, first_token),
        _UNKNOWN if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}",
        f"{row.together:.1f}",
        _ratio_cell(row, baseline, throughput),
        _UNKNOWN if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
    )


def _ratio_cell(row: BenchRow, baseline: BenchRow, figure: Figure) -> str:
    if row is baseline:
        return "1"
    over_rounds = ratio(row, baseline, figure)
    if over_rounds is None:
        return _UNKNOWN
    return f"{over_rounds.median:.2f} ({over_rounds.low:.2f}..{over_rounds.high:.2f})"


def _notes(result: Result) -> Iterator[str]:
    tokens = sorted({row.prompt_tokens for row in result.rows})
    yield ""
    yield (
        f"Prompts of {tokens[0]} to {tokens[-1]} tokens, answers of at most {result.max_tokens}. "
        "cold: the model was unloaded before; again: the same prompt was processed just before; "
        "in all other rows each prompt is new."
    )
    for row in result.rows:
        if row.scenario.state != "cold" and row.loads:
            yield (
                f"{row.backend} had to load the model for {row.loads} of {row.answers} answers "
                f"({row.scenario.to_text()}): the memory does not hold the models of all backends."
            )


def _chart(
    result: Result, title: str, figure: Callable[[BenchRow], float], unit: float
) -> Iterator[str]:
    yield f"\n{title}:"
    maximum = max(figure(row) for row in result.rows)
    name_width = max(len(row.backend) for row in result.rows)
    for scenario in result.scenarios():
        label = scenario.to_text()
        for row in result.rows_of(scenario):
            value = figure(row)
            yield (
                f"  {label:<32}{row.backend:<{name_width}} {bar(value, maximum)} {value * unit:.1f}"
            )
            label = ""


def bar(value: float, maximum: float, width: int = _BAR_WIDTH) -> str:
    """Draw a bar of block characters in steps of an eighth; `maximum` has `width` characters.

    Values above 0 have at least one eighth, so that they are visible.
    """
    eighths = round(8 * width * value / maximum) if maximum > 0 else 0
    eighths = max(eighths, 1) if value > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
