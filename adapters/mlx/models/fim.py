"""Fill-in-the-middle: the control tokens of each model family.

Imports neither mlx nor transformers: the catalogue looks for these tokens in files.
"""

from collections.abc import Container

from msgspec import Struct


class Infill(Struct, frozen=True):
    """Markers of a prompt `prefix` PREFIX `suffix` SUFFIX `middle`, which the answer continues."""

    prefix: str
    suffix: str
    middle: str | None
    """None if the answer follows the prefix, which then comes after the suffix."""

    @property
    def markers(self) -> tuple[str, ...]:
        markers = (self.prefix, self.suffix, self.middle)
        return tuple(marker for marker in markers if marker is not None)

    def join(self, prefix: list[int], suffix: list[int], token: dict[str, int]) -> list[int]:
        """Build the prompt; `token` has the ids of the markers."""
        front = [token[self.prefix], *prefix]
        back = [token[self.suffix], *suffix]
        return [*back, *front] if self.middle is None else [*front, *back, token[self.middle]]


KNOWN = (
    # Qwen2.5-Coder and later Qwen; CodeGemma
    Infill("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    # StarCoder and models with its vocabulary: Granite, Stable Code, Refact
    Infill("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    # SantaCoder
    Infill("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    # Code Llama: markers are tokens of its SentencePiece vocabulary
    Infill("▁<PRE>", "▁<SUF>", "▁<MID>"),
    # DeepSeek-Coder
    Infill("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Codestral
    Infill("[PREFIX]", "[SUFFIX]", None),
)


def find_infill(vocabulary: Container[str]) -> Infill | None:
    """The format with all of its markers in `vocabulary`; None if the model has no infilling."""
    return next(
        (infill for infill in KNOWN if all(marker in vocabulary for marker in infill.markers)), None
    )
