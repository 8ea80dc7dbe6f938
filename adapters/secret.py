"""Secrets of the configuration: written there, in an environment variable, or in a file."""

import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger("tandem")

_PRINTABLE = re.compile(r"[!-~]+")
"""Characters that a header takes: printable ASCII without spaces."""
_OTHERS = 0o077
"""Permissions of a file for others than its owner."""
_MOST_BYTES = 65_536
"""The longest file with a key, as long as all headers of a request may be."""


class Secret(str):
    """A secret that the representations of its owner, as in a traceback, do not contain."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(...)"


def is_reference(text: str) -> bool:
    """Return true if `text` names a place of the secret and is not the secret itself."""
    return text.startswith(("env:", "file:"))


def read_secret(text: str, environ: Mapping[str, str]) -> Secret:
    """Return the secret of `env:NAME`, of `file:PATH`, or `text` itself.

    Raises:
        ValueError: there is none, or it is not printable ASCII in one word. The message names the
            place and does not contain the secret.
    """
    kind, _, place = text.partition(":")
    if kind == "env":
        secret, source = environ.get(place, ""), f"the environment variable {place}"
    elif kind == "file":
        secret, source = _from_file(Path(os.path.expanduser(place))), f"the file {place}"
    else:
        secret, source = text, "the value"
    secret = secret.strip()
    if not secret:
        raise ValueError(f"{source} is not set or empty; a key is expected there")
    if not _PRINTABLE.fullmatch(secret):
        raise ValueError(f"{source} is no key: only printable ASCII without spaces can be sent")
    return Secret(secret)


def _from_file(path: Path) -> str:
    """Read a regular file: a pipe could block the server, and a device has no end."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is not a regular file")
        if mode & _OTHERS:
            log.warning("%s holds a key, and others can read it. Run: chmod 600 %s", path, path)
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ValueError(f"the file {path} cannot be read: {exc.strerror}") from exc
    if len(data) > _MOST_BYTES:
        raise ValueError(f"the file {path} is no key: it has more than {_MOST_BYTES} bytes")
    return data.decode("ascii", errors="replace")
