"""The file of the log on a disk that is full, and has room again."""

import io
import os
from pathlib import Path

import pytest

from proxy.log_file import LogFile

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


def test_full_disk_costs_lines_of_the_file_alone(tmp_path: Path):
    stream, now = io.StringIO(), [0.0]
    path = tmp_path / "server.log"
    path.symlink_to(FULL)
    log = LogFile(stream, path, clock=lambda: now[0])
    for line in ("one\n", "two\n"):
        log.write(line)
        log.flush()
    notice = f"{path} cannot be written: {os.strerror(28)}. `tandem logs` lacks what follows."
    assert sorted(stream.getvalue().splitlines()) == sorted([notice, "one", "two"])
    path.unlink()
    now[0] = 61.0
    log.write("three\n")
    log.flush()
    log.close()
    assert path.read_text() == "three\n"


def test_full_disk_fails_no_close(tmp_path: Path):
    path = tmp_path / "server.log"
    path.symlink_to(FULL)
    log = LogFile(None, path)
    log.write("one\n")
    log.close()
