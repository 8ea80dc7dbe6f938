"""`tandem serve` that measures its event loop: `python -m tools.faults.ticking serve …`.

A ticker of 5 ms runs in the loop. `$TANDEM_TICKS` names a file for the longest time between two
ticks since the file was last removed: by the clock, and by the CPU time that this process used in
it. On a machine with other work, only the second tells of the loop: it counts every thread that
held the interpreter's lock, and no time in which another process ran.
"""

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path

import proxy.http.server
from proxy.cli import main

_TICK = 0.005
_TICKS_PER_WRITE = 20


async def _tick(path: Path) -> None:
    wall = cpu = 0.0
    at = 0
    while True:
        began, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(_TICK)
        late = time.perf_counter() - began - _TICK
        wall, cpu = max(wall, late), max(cpu, min(late, time.process_time() - used))
        at += 1
        if at % _TICKS_PER_WRITE == 0 and not _write(path, wall, cpu):
            wall = cpu = 0.0


def _write(path: Path, wall: float, cpu: float) -> bool:
    """Write the figures; returns false if the file was removed."""
    was_there = path.exists()
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3}))
    new.rename(path)
    return was_there


class TickingServer(proxy.http.server.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ticker = asyncio.create_task(_tick(Path(os.environ["TANDEM_TICKS"])))


if __name__ == "__main__":
    proxy.http.server.Server = TickingServer  # type: ignore[misc]
    sys.exit(main())
