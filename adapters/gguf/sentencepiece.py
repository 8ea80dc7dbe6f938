# pyright: basic
"""The vocabularies of SentencePiece (`tokenizer.ggml.model` = llama), those of Mistral and Gemma.

Where GPT-2's kind lists its merges in order, this one gives each piece a score: of two neighbours
that could be one piece, those that make the piece of the highest score are joined first. Spaces
are written ▁, and what no piece has is written in bytes, `<0x0A>`.

Source: https://arxiv.org/abs/1808.06226, and llama.cpp's `llm_tokenizer_spm`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from adapters.gguf.conversion import UnsupportedGGUFError

_SPACE = "▁"
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6  # tokenizer.ggml.token_type

Metadata = Mapping[str, Any]


def build_sentencepiece(metadata: Metadata, tokens: Sequence[str]) -> Tokenizer:
    """Without the tokens that are found before the text is cut, and without a first token.

    Raises:
        UnsupportedGGUFError: no scores, or a setting that is not known here.
    """
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces"):
        raise UnsupportedGGUFError("'tokenizer.ggml.remove_extra_whitespaces' is not supported.")
    kinds = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    scores = metadata.get("tokenizer.ggml.scores", ())
    if not len(kinds) == len(scores) == len(tokens):
        raise UnsupportedGGUFError("'tokenizer.ggml.scores' has not one entry a token.")
    has_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    tokenizer = Tokenizer(_model(tokens, kinds, scores))
    tokenizer.normalizer = _normalizer(has_prefix)
    tokenizer.decoder = _decoder(has_prefix)
    return tokenizer


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
    """Every pair of pieces that is a piece, in the order in which they are joined."""
    pieces = {
        token: score
        for token, kind, score in zip(tokens, kinds, scores, strict=True)
        if kind == _NORMAL
    }
    # Stable: of equal scores the lower id comes first, as in files whose scores are but ranks.
    for piece in sorted(pieces, key=lambda piece: -pieces[piece]):
        for cut in range(1, len(piece)):
            if piece[:cut] in pieces and piece[cut:] in pieces:
                yield piece[:cut], piece[cut:]


def _normalizer(has_prefix: bool) -> normalizers.Normalizer:
    spaces = normalizers.Replace(" ", _SPACE)
    # Before each stretch of text, after control tokens too: so does llama.cpp.
    return normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if has_prefix else spaces


def _decoder(has_prefix: bool) -> decoders.Decoder:
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
