"""Signatures of thinking blocks.

Anthropic's are proofs; here there is nothing to prove, and every signature is accepted. Where a
client does not want to see the thinking, the signature carries it, so that the model gets it back
with the next turn.
"""

import base64
import binascii

_PREFIX = b"tandem:"


def to_signature(hidden: str = "") -> str:
    """Make a signature that carries the thinking in `hidden`; never empty, as clients leave out
    blocks without one."""
    return base64.b64encode(_PREFIX + hidden.encode()).decode()


def hidden_thinking(signature: str) -> str:
    """Read the thinking in a signature; empty if it has none, or is another server's."""
    try:
        carried = base64.b64decode(signature, validate=True)
        return carried.removeprefix(_PREFIX).decode() if carried.startswith(_PREFIX) else ""
    except (binascii.Error, ValueError):
        return ""
