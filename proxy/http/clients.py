"""Who asks, as far as a backend may know it: never the key itself."""

import hashlib

from litestar.datastructures import Headers


def to_client(headers: Headers, cache_key: str | None = None) -> str:
    """A digest of the key and of `prompt_cache_key`; empty where there is neither."""
    key = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
    if not key and not cache_key:
        return ""
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    said = f"{len(key)}:{key}{cache_key or ''}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
