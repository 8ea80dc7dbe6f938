"""`tandem` with a journal of everything that its server sends, in the file of a variable."""

import os
import sys
from pathlib import Path

from recorder.journal import FileJournal
from recorder.recorded_app import recorded

import proxy.app
from proxy.cli import main

if __name__ == "__main__":
    # The journal is the test's: a server does not know of it.
    journal = FileJournal(Path(os.environ.pop("TANDEM_TEST_JOURNAL")))
    proxy.app.Dispatch = recorded(journal)  # type: ignore[misc]
    sys.argv[0] = "tandem"
    main()
