"""The official client's module `ollama`, imported without the variables that it reads.

It opens a client of its own when it is imported, which raises where `$ALL_PROXY` is a SOCKS proxy,
or a proxy or `$OLLAMA_HOST` is no address. Nothing here uses that client.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["ollama"]


@contextmanager
def _without_variables() -> Generator[None]:
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    hidden = {name: os.environ.pop(name) for name in (*names, "OLLAMA_HOST") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


with _without_variables():
    import ollama
