"""`tandem bench MODEL | engine | relay | routing | stored`: side-by-side measurements."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from proxy.cli.command import Commands, fail
from proxy.config import Config, state_folder

if TYPE_CHECKING:
    from proxy.bench.results import Result


class _Subject(NamedTuple):
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[Config, argparse.Namespace], Awaitable[None]]


def with_subject(argv: Sequence[str]) -> Sequence[str]:
    """Expand `bench NAME …` to `bench model NAME …` unless NAME is a subject."""
    match list(argv):
        case ["bench", first, *rest] if first not in ("-h", "--help"):
            subjects = _SUBJECTS.keys() & {first, *rest}
            return argv if subjects else ["bench", "model", first, *rest]
        case _:
            return argv


def add(commands: Commands) -> None:
    parser = commands.add("bench", bench, "measure backends side by side")
    parser.epilog = "`tandem bench NAME` means `tandem bench model NAME` unless NAME is a subject."
    subjects = parser.add_subparsers(required=True, metavar="MODEL | SUBJECT")
    for name, subject in _SUBJECTS.items():
        options = subjects.add_parser(name, help=subject.summary)
        options.set_defaults(measure=subject.measure)
        subject.add_options(options)


def bench(config: Config, args: argparse.Namespace) -> int:
    """Measure and print tables.

    Returns 0, 1 if a contestant failed, 130 if the user interrupted.
    """
    try:
        asyncio.run(args.measure(config, args))
    except RuntimeError as exc:
        return fail(1, str(exc))
    except KeyboardInterrupt:
        return fail(130, "interrupted; no result was saved")
    return 0


def _add_model(model: argparse.ArgumentParser) -> None:
    model.description = (
        "Send the same prompts to each backend that has the model, in turns: short and long "
        "prompts, with the model loaded and with the model unloaded first. The result is printed, "
        "drawn as a PNG, and saved for GET /api/performance/comparison."
    )
    # `--config` may precede or follow the subject; without it here, an earlier one stays.
    model.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="settings (config.yaml)"
    )
    model.add_argument("model", metavar="MODEL", help="a model listed by `tandem models`")
    model.add_argument(
        "--rounds", type=_count, default=3, metavar="N", help="number of rounds (default: 3)"
    )
    model.add_argument(
        "--clients",
        type=_counts,
        default=(1, 4, 8),
        metavar="N,N,…",
        help="numbers of concurrent requests (default: 1,4,8)",
    )
    model.add_argument(
        "--max-tokens", type=_count, default=64, metavar="N", help="per answer (default: 64)"
    )
    model.add_argument(
        "--png",
        type=Path,
        metavar="FILE",
        help="path of the plot (default: next to the saved result)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(number.strip()) for number in text.split(",")))


async def _model(config: Config, args: argparse.Namespace) -> None:
    from proxy.bench.measure_model import ModelPlan, bench_model
    from proxy.bench.text_report import lines

    plan = ModelPlan(
        model=args.model, clients=args.clients, rounds=args.rounds, max_tokens=args.max_tokens
    )
    result = await bench_model(config, plan, lambda line: print(line, file=sys.stderr))
    for line in lines(result):
        print(line)
    saved = _save(config, result)
    if (png := args.png or (saved and saved.with_suffix(".png"))) is not None:
        from proxy.bench.plot import NoPlotError, draw

        try:
            draw(result, png)
        except (OSError, NoPlotError) as exc:
            fail(0, f"the plot was not drawn: {exc}")
        else:
            print(f"Plot saved to {png}")


def _save(config: Config, result: "Result") -> Path | None:
    """Save the result and return its path; print a warning and return `None` on failure."""
    from proxy.bench.archive import Archive

    try:
        path = Archive(state_folder(config, os.environ)).save(result)
    except OSError as exc:
        fail(0, f"the result was not saved: {exc}")
        return None
    print(f"\nSaved to {path}")
    return path


def _add_engine(engine: argparse.ArgumentParser) -> None:
    engine.add_argument(
        "--model",
        default="SmolLM2-135M-Instruct",
        help="an MLX model (default: SmolLM2-135M-Instruct)",
    )
    engine.add_argument(
        "--tiny", action="store_true", help="use random weights of a tiny model with its tokenizer"
    )
    engine.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    engine.add_argument("--max-tokens", type=int, default=64, help="per answer (default: 64)")
    engine.add_argument(
        "--newcomers",
        type=int,
        default=5,
        help="short requests sent while long answers run; 0 skips this part (default: 5)",
    )


async def _engine(_config: Config, args: argparse.Namespace) -> None:
    from proxy.bench.developers.engine import Plan, bench_engine

    plan = Plan(args.model, args.tiny, args.rounds, args.max_tokens, args.newcomers)
    await bench_engine(plan)


def _add_relay(relay: argparse.ArgumentParser) -> None:
    relay.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    relay.add_argument(
        "--litellm", metavar="PYTHON", help="interpreter with litellm[proxy] installed"
    )


async def _relay(_config: Config, args: argparse.Namespace) -> None:
    from proxy.bench.developers.relay import RelayPlan, bench_relay

    await bench_relay(RelayPlan(args.rounds, args.litellm))


def _add_routing(routing: argparse.ArgumentParser) -> None:
    routing.add_argument(
        "--requests", type=_count, default=40, help="per part of a scene (default: 40)"
    )


async def _routing(_config: Config, args: argparse.Namespace) -> None:
    from proxy.bench.developers.routing import SETTLING, RoutingPlan, bench_routing, lines

    plan = RoutingPlan(requests=max(args.requests, SETTLING + 1))
    for line in lines(await bench_routing(plan)):
        print(line)


def _add_stored(stored: argparse.ArgumentParser) -> None:
    stored.add_argument(
        "--answers", type=_count, default=10_000, help="answers that are kept (default: 10000)"
    )


async def _stored(_config: Config, args: argparse.Namespace) -> None:
    from proxy.bench.developers.stored import StoredPlan, bench_stored, lines

    plan = StoredPlan(args.answers)
    for line in lines(plan, await bench_stored(plan)):
        print(line)


_SUBJECTS = {
    "model": _Subject("the backends that have a model", _add_model, _model),
    "engine": _Subject("bare BatchGenerator, mlx_lm.server and Tandem", _add_engine, _engine),
    "relay": _Subject(
        "a plain relay, Tandem and LiteLLM in front of an Ollama", _add_relay, _relay
    ),
    "routing": _Subject("the router's choices and each of two backends", _add_routing, _routing),
    "stored": _Subject("times and memory of the store of answers", _add_stored, _stored),
}
