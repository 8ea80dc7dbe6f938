"""What became of a tensor on its way from one format to the other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorReport:
    tensor: str
    """GGUF's name of it."""
    source: str
    """How it was stored."""
    stored: str
    """How it is now."""
    relative_l2: float
    """Its distance from the source, by the source's length; 0 to the last bit."""
