"""Bars of block characters, an eighth of one as the smallest step."""

_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, most: float, width: int = _WIDTH) -> str:
    """`most` is as long as `width` characters; what is more than nothing can be seen."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    eighths = max(eighths, 1) if value > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
