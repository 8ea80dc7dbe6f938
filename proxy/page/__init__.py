"""The page: its files, read once, with the headers that they are served with.

Plain modules of JavaScript that browsers load as they are. Their folder's address has a digest of
all files, so that a browser may keep them for ever and never mixes two versions.
"""

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from msgspec import Struct

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of all files: no script or style but the page's own, and no other host."""


class PageFile(Struct, frozen=True):
    content: bytes
    etag: str
    headers: dict[str, str]


class Page(Struct, frozen=True):
    digest: str
    """Digest of all files; a part of their addresses."""
    files: dict[str, PageFile]
    """Files by their path below the folder, as `views/now.js`."""
    index: PageFile
    """The document at `/`."""


@cache
def load_page() -> Page:
    """Read the files of the page from the package."""
    found = dict(_read(files(__package__ or "proxy.page").joinpath("static"), ""))
    whole = hashlib.sha256(b"".join(found[name] for name in sorted(found)))
    digest = whole.hexdigest()[:16]
    index = found.pop("index.html").replace(b"{base}", f"/page/{digest}".encode())
    return Page(
        digest=digest,
        files={name: _to_file(name, content) for name, content in found.items()},
        index=_to_file("index.html", index),
    )


def _read(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{prefix}{entry.name}/")
        elif _suffix(entry.name) in _TYPES:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _to_file(name: str, content: bytes) -> PageFile:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return PageFile(content, etag, {"content-type": _TYPES[_suffix(name)], "etag": etag, **_SAFE})
