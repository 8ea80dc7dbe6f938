"""Random ids of requests and answers."""

import random


def new_id(prefix: str) -> str:
    """Return `prefix` and 24 random hexadecimal digits.

    Ids must be unique but not secret: `random` saves the system call of `secrets`.
    """
    return f"{prefix}{random.getrandbits(96):024x}"
