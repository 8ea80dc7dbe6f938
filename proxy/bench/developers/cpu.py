"""What a process has cost so far."""

import subprocess
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of the threads that `pid` has.

    To the nanosecond on Linux (the first field of each `schedstat`: `stat` tells hundredths of a
    second, of which a measurement here has only a few), hundredths elsewhere (`ps`).
    """
    threads = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if threads:
        return sum(int(each.read_text().split()[0]) for each in threads) / 1e9
    said = subprocess.run(  # noqa: S603 - a number of our own
        ("/bin/ps", "-o", "cputime=", "-p", str(pid)), capture_output=True, text=True, check=True
    )
    return to_seconds(said.stdout.strip())


def to_seconds(cputime: str) -> float:
    """`1-02:03:04.56`, `2:03.45` or `3:04` -> seconds."""
    days, _, rest = cputime.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)
