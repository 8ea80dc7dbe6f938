"""Who asks, as far as a backend may know it: never the key itself."""

import hashlib
from collections.abc import Mapping


def to_client(fields: Mapping[str, str], cache_key: str | None = None) -> str:
    """A digest of the key and of `prompt_cache_key`; empty where there is neither."""
    key = fields.get("x-api-key") or _bearer(fields.get("authorization", ""))
    if not key and not cache_key:
        return ""
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    said = f"{len(key)}:{key}{cache_key or ''}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
