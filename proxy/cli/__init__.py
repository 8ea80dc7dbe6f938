"""`tandem COMMAND`: one file for each command, or for a few that belong together.

Each command imports its dependencies when it runs, so that it does not load those of the others.
`tandem serve` with plain options skips the parser as well.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a disk that takes no more, or has failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status; `SystemExit` where typer ends with an error."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # While modules are imported.
        return 128 + signal.SIGINT


def _main(words: Sequence[str]) -> int:
    from adapters.descriptors import fill_standard
    from proxy.cli.serve import plain_options, serve
    from proxy.config import ConfigError

    fill_standard()
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        # `?` where a terminal has no such character, or a file's name is no text.
        reconfigure(errors="replace")
    try:
        if words[:1] == ["serve"] and (options := plain_options(words[1:])) is not None:
            port = options.pop("port", None)
            return serve(port=None if port is None else int(port), **options)
        return _run(words)
    except ConfigError as exc:
        return _fail(2, str(exc))
    except BrokenPipeError:  # The reader of a pipe, such as `head`, has closed it.
        _discard_output()
        return 1
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        _discard_output()
        return _fail(1, f"{exc.filename or 'the output'} cannot be written: {exc.strerror}")


def _discard_output() -> None:
    """Discard what is left of the output, also at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(status: int, reason: str) -> int:
    for line in reason.splitlines():
        print(f"tandem: {line}", file=sys.stderr)
    return status


def _run(words: Sequence[str]) -> int:
    from proxy.cli.app import to_command
    from proxy.cli.bench import with_subject
    from proxy.cli.command import CommandError
    from proxy.cli.names import join_at_colons

    join_at_colons(os.environ)
    try:
        to_command()(with_subject(words), prog_name="tandem")
    except SystemExit as end:
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - a closed descriptor
            sys.stdout.flush()
        if end.code not in (0, None):
            raise
    except CommandError as exc:
        return _fail(exc.status, str(exc))
    return 0
