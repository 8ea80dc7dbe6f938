"""The official client's module `ollama`, imported without the variables that it reads.

It opens a client of its own when it is imported, which raises where `$ALL_PROXY` is a SOCKS proxy,
a proxy or `$OLLAMA_HOST` is no address, or `$SSL_CERT_FILE` is no file. Nothing here uses that
client.
"""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["ollama"]

_READ = re.compile(r"\w*_(?i:proxy)|OLLAMA_HOST|SSL\w*")


@contextmanager
def _without_variables() -> Generator[None]:
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if _READ.fullmatch(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


with _without_variables():
    import ollama
