"""What a process has cost so far."""

import os
import subprocess
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of `pid`.

    Ticks of 10 ms on Linux (proc(5): fields 14 and 15 of `stat`), hundredths elsewhere (`ps`).
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.is_file():
        # The name, in parentheses, may hold spaces.
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
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
