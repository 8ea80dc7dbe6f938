"""The server that a command has started for itself: it ends with the command, however that ends.

Run as a program, with the options of `tandem serve`. The command holds the other end of its stdin,
which the system closes for a process that is killed, too.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence

from proxy.cli import main as run

_STDIN = 0


def main(options: Sequence[str]) -> int:
    """Serve until a signal arrives or stdin ends."""
    threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    return run(["serve", *options])


def _end_with_stdin() -> None:
    while os.read(_STDIN, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
