# pyright: basic
"""SentencePiece vocabularies (`tokenizer.ggml.model` = llama), which Mistral and Gemma have.

They have scores instead of an ordered list of merges: the two neighbours that form the token with
the highest score are merged first. Spaces are written as ▁; characters without a token are
written as bytes, `<0x0A>`.

Source: https://arxiv.org/abs/1808.06226, and llama.cpp's `llm_tokenizer_spm`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from adapters.gguf.conversion import UnsupportedGGUFError

_SPACE = "▁"
_NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6  # tokenizer.ggml.token_type

Metadata = Mapping[str, Any]


def build_sentencepiece(metadata: Metadata, tokens: Sequence[str]) -> Tokenizer:
    """Build a tokenizer, without added tokens and without a first token.

    Raises:
        UnsupportedGGUFError: scores are missing, or a setting is not supported.
    """
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces"):
        raise UnsupportedGGUFError("'tokenizer.ggml.remove_extra_whitespaces' is not supported.")
    kinds = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    scores = metadata.get("tokenizer.ggml.scores", ())
    if not len(kinds) == len(scores) == len(tokens):
        raise UnsupportedGGUFError("'tokenizer.ggml.scores' must have one entry for each token.")
    has_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    tokenizer = Tokenizer(_model(tokens, kinds, scores))
    write_spaces(tokenizer, has_prefix=has_prefix)
    return tokenizer


def write_spaces(tokenizer: Tokenizer, *, has_prefix: bool) -> None:
    """Let `tokenizer` write spaces as ▁, and one before each text if it `has_prefix`."""
    spaces = normalizers.Replace(" ", _SPACE)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if has_prefix:
        # Like llama.cpp, before each stretch of text, after control tokens too.
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = spaces
        tokenizer.decoder = decoders.Sequence(steps)


def is_spaces(token: str) -> bool:
    """True for several spaces, as Gemma has them as added tokens: no text has them by that name,
    and its spaces are merged to them."""
    return not token.strip(_SPACE)


def _model(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> BPE:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise UnsupportedGGUFError("Two tokens of the vocabulary have the same text.")
    unknown = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN]
    return BPE(
        vocabulary,
        list(_merges(tokens, kinds, scores)),
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=_BYTE in kinds,
    )


def _merges(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]
) -> Iterator[tuple[str, str]]:
    """All pairs of tokens that form a token, in the order in which they are merged."""
    scored = {
        token: score
        for token, kind, score in zip(tokens, kinds, scores, strict=True)
        if kind == _NORMAL or (kind == _USER_DEFINED and is_spaces(token))
    }
    # Stable: for equal scores the lower id comes first, as in files with ranks as scores.
    for token in sorted(scored, key=lambda token: -scored[token]):
        for at in range(1, len(token)):
            if token[:at] in scored and token[at:] in scored:
                yield token[:at], token[at:]
