"""`tandem bench engine`: measure, side by side."""

import argparse
import asyncio

from proxy.cli.command import Commands, fail
from proxy.config import Config


def add(commands: Commands) -> None:
    parser = commands.add("bench", bench, "measure, side by side")
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    engine = subjects.add_parser("engine", help="bare BatchGenerator, mlx_lm.server and Tandem")
    engine.add_argument("--model", default="SmolLM2-135M-Instruct", help="an MLX model")
    engine.add_argument("--tiny", action="store_true", help="its tokenizer, tiny random weights")
    engine.add_argument("--rounds", type=int, default=3)
    engine.add_argument("--max-tokens", type=int, default=64)
    engine.add_argument("--newcomers", type=int, default=5, help="0 leaves that part out")


def bench(config: Config, args: argparse.Namespace) -> int:
    """Measure the engine and print tables. 1 if a contestant failed."""
    from proxy.bench.engine import Plan, bench_engine

    plan = Plan(args.model, args.tiny, args.rounds, args.max_tokens, args.newcomers)
    try:
        asyncio.run(bench_engine(plan))
    except RuntimeError as exc:
        return fail(1, str(exc))
    return 0
