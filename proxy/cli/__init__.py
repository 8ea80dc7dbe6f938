"""`tandem serve | models | pull | import | export | bench`: one file for each command.

Each command imports its dependencies when it runs, so that it does not load those of the others.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from proxy.cli import bench, export_model, import_model, models, pull, serve
from proxy.cli.command import Commands, fail
from proxy.config import ConfigError, find_config, load_config

_COMMANDS = (serve, models, pull, import_model, export_model, bench)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(bench.with_subject(sys.argv[1:] if argv is None else argv))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    path = find_config(args.config, os.environ)
    try:
        config = load_config(path)
    except ConfigError as exc:
        return fail(2, str(exc))
    try:
        code: int = args.run(config, args)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - a closed descriptor
            sys.stdout.flush()
    except ConfigError as exc:
        return fail(2, f"{path}: {exc}" if path is not None else str(exc))
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it. Discard the rest, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tandem", description="MLX and Ollama behind one API.")
    commands = Commands(parser)
    for command in _COMMANDS:
        command.add(commands)
    return parser
