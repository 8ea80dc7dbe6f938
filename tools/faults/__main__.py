"""Run one check: `python -m tools.faults NAME [--count N]`."""

import argparse
import asyncio
import importlib

from adapters.descriptors import raise_limit

CHECKS = {
    "bodies": ("bodies", "main", "bodies that would hold the event loop"),
    "malformed": ("requests", "malformed", "malformed requests over every route"),
    "poison": ("requests", "poison", "wrong values in every field, a good request after each"),
    "hold": ("streams", "hold", "1,000 streams at once"),
    "disconnects": ("streams", "disconnects", "20,000 clients that leave"),
    "frames": ("frames", "main", "100,000 short frames of WebSockets"),
    "slow": ("streams", "slow", "500 sockets that send a byte a second"),
    "kills": ("upstream_faults", "kills", "kill -9 of the upstream at every chunk"),
    "breaker": ("upstream_faults", "breaker", "requests while the circuit breaker is open"),
    "canary": ("upstream_faults", "canary", "secrets in requests and errors"),
    "sigterm": ("load", "sigterm", "one SIGTERM, and two, beside 100 streams"),
    "overload": ("load", "overload", "1,000 requests at once"),
    "vanish": ("vanish", "main", "clients behind a network that vanishes; needs root and `ip`"),
    "descriptors": ("load", "descriptors", "300 streams and 256 descriptors"),
}
"""Name -> module, function, description."""


def main() -> None:
    names = "\n".join(f"  {name:12} {text}" for name, (_, _, text) in CHECKS.items())
    parser = argparse.ArgumentParser(
        prog="tools.faults", formatter_class=argparse.RawTextHelpFormatter, description=names
    )
    parser.add_argument("name", choices=CHECKS, metavar="NAME")
    parser.add_argument("--count", type=int, default=0, help="requests; 0: as many as is usual")
    args = parser.parse_args()
    raise_limit()
    module, function, _ = CHECKS[args.name]
    asyncio.run(getattr(importlib.import_module(f"tools.faults.{module}"), function)(args.count))


if __name__ == "__main__":
    main()
