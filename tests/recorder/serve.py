"""`tandem`, with a journal of everything that its server sends if a variable names a file."""

import os
import sys
from pathlib import Path

from recorder.journal import FileJournal
from recorder.recorded_app import recorded

import proxy.app
from proxy.cli import main

JOURNAL_VARIABLE = "TANDEM_TEST_JOURNAL"
"""Path of the file that server processes write to."""


def run() -> int:
    # The journal is the test's: processes of the server do not know of it.
    if path := os.environ.pop(JOURNAL_VARIABLE, None):
        proxy.app.Dispatch = recorded(FileJournal(Path(path)))  # type: ignore[misc]
    return main()


if __name__ == "__main__":
    sys.exit(run())
