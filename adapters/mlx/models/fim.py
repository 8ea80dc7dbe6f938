"""How models fill a gap between a prefix and a suffix: the control tokens each was taught.

Imports neither mlx nor transformers: the catalogue looks for these tokens in files.
"""

from collections.abc import Container

from msgspec import Struct


class Infill(Struct, frozen=True):
    """The answer goes on after `prefix` PREFIX `suffix` SUFFIX `middle`."""

    prefix: str
    suffix: str
    middle: str | None
    """None where the answer follows the prefix, which then stands behind the suffix."""

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(each for each in (self.prefix, self.suffix, self.middle) if each is not None)

    def join(self, prefix: list[int], suffix: list[int], token: dict[str, int]) -> list[int]:
        """`token` has the ids of the markers."""
        front = [token[self.prefix], *prefix]
        back = [token[self.suffix], *suffix]
        return [*back, *front] if self.middle is None else [*front, *back, token[self.middle]]


KNOWN = (
    # Qwen2.5-Coder and later Qwen; CodeGemma
    Infill("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    # StarCoder and those trained on its vocabulary: Granite, Stable Code, Refact
    Infill("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    # SantaCoder
    Infill("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    # Code Llama, whose markers are words of its SentencePiece vocabulary
    Infill("▁<PRE>", "▁<SUF>", "▁<MID>"),
    # DeepSeek-Coder
    Infill("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Codestral
    Infill("[PREFIX]", "[SUFFIX]", None),
)


def find_infill(vocabulary: Container[str]) -> Infill | None:
    """The way whose markers are all in `vocabulary`; None where the model fills no gaps."""
    return next((way for way in KNOWN if all(each in vocabulary for each in way.markers)), None)
