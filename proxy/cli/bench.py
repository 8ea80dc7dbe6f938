"""`tandem bench MODEL | engine | relay | routing | stored`: side-by-side measurements."""

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from proxy.cli.command import AsJson, CommandError, ConfigFile, fail, print_json, read_settings
from proxy.cli.names import complete_model
from proxy.cli.progress import steps_bar
from proxy.config import Config, state_folder

if TYPE_CHECKING:
    from proxy.bench.results import Result

_INTERRUPTED = "interrupted; no result was saved"


class _Subjects(TyperGroup):
    """The subjects, and the names of models, which stand for `model NAME`."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        model = self.commands["model"].params[0]
        return [
            *super().shell_complete(ctx, incomplete),
            *model.shell_complete(ctx, incomplete),
        ]


app = typer.Typer(
    cls=_Subjects,
    help="Measure backends side by side. `tandem bench NAME` means `tandem bench model NAME` "
    "unless NAME is one of the commands below.",
    no_args_is_help=True,
)
_SUBJECTS = ("model", "engine", "relay", "routing", "stored")
Rounds = Annotated[int, typer.Option(min=1, help="Number of rounds.")]


def with_subject(argv: Sequence[str]) -> Sequence[str]:
    """Expand `bench NAME …` to `bench model NAME …` unless NAME is a subject."""
    match list(argv):
        case ["bench", first, *rest] if first not in ("-h", "--help"):
            subjects = {*_SUBJECTS} & {first, *rest}
            return argv if subjects else ["bench", "model", first, *rest]
        case _:
            return argv


@app.callback()
def bench(context: typer.Context, config: ConfigFile = None) -> None:
    # `--config` may precede or follow the subject.
    context.obj = config


def _measure(work: Coroutine[Any, Any, None]) -> None:
    """Run a measurement.

    Raises:
        CommandError: 1: a contestant failed; 130: the user interrupted.
    """
    try:
        asyncio.run(work)
    except RuntimeError as exc:
        raise CommandError(str(exc)) from exc
    except KeyboardInterrupt as exc:
        raise CommandError(_INTERRUPTED, 130) from exc


def _print_result(result: object, lines: Iterable[str], as_json: bool) -> None:
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(result))
    else:
        print("\n".join(lines))


def _counts(text: str) -> tuple[int, ...]:
    """`1,4,8` as numbers."""
    counts: dict[int, None] = {}
    for number in text.split(","):
        if not number.strip().isdecimal() or int(number) < 1:
            raise typer.BadParameter(f"{number!r} is not a whole number of at least 1")
        counts[int(number)] = None
    return tuple(counts)


@app.command("model")
def bench_model(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model listed by `tandem models`.",
            autocompletion=complete_model,
        ),
    ],
    rounds: Rounds = 3,
    clients: Annotated[
        str, typer.Option(metavar="N,N,…", help="Numbers of concurrent requests.")
    ] = "1,4,8",
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 64,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Path of the plot.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send the same prompts to each backend that has the model, in turns: short and long prompts,
    with the model loaded and with the model unloaded first. The result is printed, drawn as a PNG,
    and saved for GET /api/performance/comparison.
    """
    numbers = _counts(clients)
    settings = read_settings(config or context.obj)
    _measure(_model(settings, model, numbers, rounds, max_tokens, png, as_json))


async def _model(
    config: Config,
    model: str,
    clients: tuple[int, ...],
    rounds: int,
    max_tokens: int,
    png: Path | None,
    as_json: bool,
) -> None:
    from proxy.bench.measure_model import ModelPlan, bench_model
    from proxy.bench.text_report import lines

    plan = ModelPlan(model=model, clients=clients, rounds=rounds, max_tokens=max_tokens)
    with steps_bar() as report:
        result = await bench_model(config, plan, report)
    _print_result(result, lines(result), as_json)
    saved = _save(config, result)
    if (png := png or (saved and saved.with_suffix(".png"))) is not None:
        from proxy.bench.plot import NoPlotError, draw

        try:
            draw(result, png)
        except (OSError, NoPlotError) as exc:
            fail(0, f"the plot was not drawn: {exc}")
        else:
            print(f"Plot saved to {png}", file=sys.stderr if as_json else sys.stdout)


def _save(config: Config, result: "Result") -> Path | None:
    """Save the result and return its path; print a warning and return `None` on failure."""
    from proxy.bench.archive import Archive

    try:
        path = Archive(state_folder(config, os.environ)).save(result)
    except OSError as exc:
        fail(0, f"the result was not saved: {exc}")
        return None
    print(f"\nSaved to {path}", file=sys.stderr)
    return path


@app.command("engine")
def bench_engine(
    model: Annotated[str, typer.Option(help="An MLX model.")] = "SmolLM2-135M-Instruct",
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Use random weights of a tiny model.")
    ] = False,
    rounds: Rounds = 3,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 64,
    newcomers: Annotated[
        int,
        typer.Option(min=0, help="Short requests while long answers run; 0 skips this part."),
    ] = 5,
    seconds: Annotated[
        float, typer.Option(min=1, help="After this time, no second round of anything begins.")
    ] = 180,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare the bare BatchGenerator, mlx_lm.server and Tandem."""
    read_settings(config)

    async def measure() -> None:
        from proxy.bench.developers.engine import Plan, bench_engine
        from proxy.bench.developers.tables import engine_lines

        plan = Plan(model, tiny, rounds, max_tokens, newcomers, seconds=seconds)
        with steps_bar() as report:
            result = await bench_engine(plan, report)
        _print_result(result, engine_lines(result), as_json)

    _measure(measure())


@app.command("relay")
def bench_relay(
    rounds: Rounds = 5,
    litellm: Annotated[
        str | None,
        typer.Option(metavar="PYTHON", help="Interpreter with litellm[proxy] installed."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare a plain relay, Tandem and LiteLLM in front of an Ollama."""
    read_settings(config)

    async def measure() -> None:
        from proxy.bench.developers.relay import RelayPlan, bench_relay
        from proxy.bench.developers.tables import relay_lines

        with steps_bar() as report:
            rows = await bench_relay(RelayPlan(rounds, litellm), report)
        _print_result(rows, relay_lines(rows), as_json)

    _measure(measure())


@app.command("routing")
def bench_routing(
    requests: Annotated[int, typer.Option(min=1, help="Per part of a scene.")] = 40,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare the router's choices with each of two backends."""
    read_settings(config)

    async def measure() -> None:
        from proxy.bench.developers.routing import SETTLING, RoutingPlan, bench_routing, lines

        plan = RoutingPlan(requests=max(requests, SETTLING + 1))
        with steps_bar() as report:
            rows = await bench_routing(plan, report)
        _print_result(rows, lines(rows), as_json)

    _measure(measure())


@app.command("stored")
def bench_stored(
    answers: Annotated[int, typer.Option(min=1, help="Answers that are kept.")] = 10_000,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure times and memory of the store of answers."""
    read_settings(config)

    async def measure() -> None:
        from proxy.bench.developers.stored import StoredPlan, bench_stored, lines

        plan = StoredPlan(answers)
        with steps_bar() as report:
            result = await bench_stored(plan, report)
        _print_result(result, lines(plan, result), as_json)

    _measure(measure())
