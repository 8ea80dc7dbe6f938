"""Names for what is made once."""

import random


def new_id(prefix: str) -> str:
    """`prefix` and 24 hexadecimal digits, which have to differ and not to be secret: the kernel's
    random numbers would be a system call each."""
    return f"{prefix}{random.getrandbits(96):024x}"
