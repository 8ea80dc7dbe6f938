"""`tandem bench engine | relay`: measure, side by side."""

import argparse
import asyncio

from proxy.cli.command import Commands, fail
from proxy.config import Config


def add(commands: Commands) -> None:
    parser = commands.add("bench", bench, "measure, side by side")
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    engine = subjects.add_parser("engine", help="bare BatchGenerator, mlx_lm.server and Tandem")
    engine.set_defaults(measure=_engine)
    engine.add_argument("--model", default="SmolLM2-135M-Instruct", help="an MLX model")
    engine.add_argument("--tiny", action="store_true", help="its tokenizer, tiny random weights")
    engine.add_argument("--rounds", type=int, default=3)
    engine.add_argument("--max-tokens", type=int, default=64)
    engine.add_argument("--newcomers", type=int, default=5, help="0 leaves that part out")
    relay = subjects.add_parser("relay", help="a plain relay, Tandem and LiteLLM before an Ollama")
    relay.set_defaults(measure=_relay)
    relay.add_argument("--rounds", type=int, default=5)
    relay.add_argument("--litellm", metavar="PYTHON", help="one that has litellm[proxy]")


def bench(config: Config, args: argparse.Namespace) -> int:
    """Measure and print tables. 1 if a contestant failed."""
    try:
        asyncio.run(args.measure(args))
    except RuntimeError as exc:
        return fail(1, str(exc))
    return 0


async def _engine(args: argparse.Namespace) -> None:
    from proxy.bench.engine import Plan, bench_engine

    plan = Plan(args.model, args.tiny, args.rounds, args.max_tokens, args.newcomers)
    await bench_engine(plan)


async def _relay(args: argparse.Namespace) -> None:
    from proxy.bench.relay import RelayPlan, bench_relay

    await bench_relay(RelayPlan(args.rounds, args.litellm))
