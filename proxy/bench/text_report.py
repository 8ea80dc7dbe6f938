"""What `tandem bench MODEL` prints: who was compared, a table, and bars."""

import statistics
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from proxy.bench.results import BenchRow, Contestant, Result, Round, differ

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
_NOT_KNOWN = "—"


class Ratio(Struct, frozen=True):
    """Of two backends' figures, round by round: those of a round were taken one after the other."""

    median: float
    low: float
    high: float


Figure = Callable[[Round], float | None]


def first_token(measured: Round) -> float:
    return measured.ttft_p50_s


def throughput(measured: Round) -> float:
    return measured.together


def ratio(row: BenchRow, yardstick: BenchRow, figure: Figure) -> Ratio | None:
    """`figure` of `row` over that of `yardstick`; `None` where it was not to be had."""
    pairs = zip(row.rounds, yardstick.rounds, strict=True)
    found = [one / two for a, b in pairs if (one := figure(a)) and (two := figure(b))]
    return Ratio(statistics.median(found), min(found), max(found)) if found else None


def lines(result: Result) -> Iterator[str]:
    yield f"{result.model}: {result.machine.in_words()}"
    for each in result.contestants:
        yield f"  {described(each)}"
    yield f"  {weights_in_words(result)}"
    yield ""
    yield from table(result)
    yield from _notes(result)
    yield from _plot(result, "Tokens a second, all answers together", lambda r: r.together, 1)
    yield from _plot(result, "Milliseconds to the first token, p50", lambda r: r.ttft_p50_s, 1e3)


def described(contestant: Contestant) -> str:
    """`ollama: smollm2:135m, Q4_1, digest 765525e6017a, context 8192`."""
    told = (
        contestant.name,
        contestant.quantization or "quantisation not told",
        f"digest {_short(contestant.digest)}" if contestant.digest else None,
        f"of the GGUF {_short(contestant.origin)}" if contestant.origin else None,
        f"context {contestant.context_length}" if contestant.context_length else None,
    )
    return f"{contestant.backend}: {', '.join(each for each in told if each)}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def weights_in_words(result: Result) -> str:
    if len(result.contestants) < 2:
        return "Only one backend has the model: there is nothing to compare it with."
    if differ(result.contestants):
        return "These are NOT the same weights: answers differ, not their speed alone."
    match result.same_weights:
        case True:
            return "All compute with the same weights, to the last bit."
        case False:
            return "The weights are from one file, and rounded on their way from it."
        case None:
            return "Whether these are the same weights is not known."


def table(result: Result) -> Iterator[str]:
    """`ratio` is to the first backend, as the median and the extremes of the rounds."""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---" * len(_COLUMNS) + "|"
    for scenario in result.scenarios():
        rows = result.of(scenario)
        for row in rows:
            yield f"| {' | '.join(_cells(row, rows[0]))} |"


def _cells(row: BenchRow, yardstick: BenchRow) -> Sequence[str]:
    return (
        row.scenario.prompt,
        row.scenario.state,
        str(row.scenario.clients),
        row.backend,
        f"{row.ttft_p50_s * 1e3:.0f}",
        f"{row.ttft_p95_s * 1e3:.0f}",
        _ratio(row, yardstick, first_token),
        _NOT_KNOWN if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}",
        f"{row.together:.1f}",
        _ratio(row, yardstick, throughput),
        _NOT_KNOWN if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
    )


def _ratio(row: BenchRow, yardstick: BenchRow, figure: Figure) -> str:
    if row is yardstick:
        return "1"
    found = ratio(row, yardstick, figure)
    if found is None:
        return _NOT_KNOWN
    return f"{found.median:.2f} ({found.low:.2f}..{found.high:.2f})"


def _notes(result: Result) -> Iterator[str]:
    tokens = sorted({row.prompt_tokens for row in result.rows})
    yield ""
    yield (
        f"Prompts of {tokens[0]} to {tokens[-1]} tokens, answers of {result.max_tokens} at most. "
        "Cold: unloaded before; again: the same prompt was just read; else each prompt is new."
    )
    for row in result.rows:
        if row.scenario.state != "cold" and row.loads:
            yield (
                f"{row.backend} had to load for {row.loads} of {row.answers} answers "
                f"({row.scenario.in_words()}): the memory does not hold all of them at once."
            )


def _plot(
    result: Result, title: str, figure: Callable[[BenchRow], float], unit: float
) -> Iterator[str]:
    yield f"\n{title}:"
    most = max(figure(row) for row in result.rows)
    name = max(len(row.backend) for row in result.rows)
    for scenario in result.scenarios():
        label = scenario.in_words()
        for row in result.of(scenario):
            value = figure(row)
            shown = f"{bar(value, most)} {value * unit:.1f}"
            yield f"  {label:<32}{row.backend:<{name}} {shown}"
            label = ""


_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, most: float, width: int = _WIDTH) -> str:
    """`most` is as long as `width` characters; what is more than nothing can be seen."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    eighths = max(eighths, 1) if value > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
