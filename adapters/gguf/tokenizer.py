# pyright: basic
"""Convert a GGUF's vocabulary to `tokenizer.json`, so that both engines have the same token ids.

A GGUF has only the name of its pre-tokenizer (`tokenizer.ggml.pre`). `_PRE_TOKENIZERS` has its
definition; other names are rejected. Each row was compared with llama.cpp's ids (`tests/data/`).
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.sentencepiece import build_sentencepiece, is_spaces, write_spaces

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type
_KINDS = ("gpt2", "llama", "gemma4")  # tokenizer.ggml.model

# llama.cpp ends an answer at any of these, whichever token the file has as its end.
_ENDS = frozenset(
    {
        "<|endoftext|>",
        "<|im_end|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<end_of_turn>",
        "<turn|>",
        "<|tool_response>",
    }
)

ENDS = ("eos", "eot", "eom")
"""Tokens that end an answer, by their key in a GGUF: of the sequence, the turn, the message."""

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class _PreTokenizer:
    """Splits text into parts that merges never cross."""

    steps: tuple[pre_tokenizers.PreTokenizer, ...]
    add_bos: bool = False
    """The default if the file has no such setting."""
    ignore_merges: bool = False
    """A part that is a token is not split, even if no merges lead to it."""
    is_bytes: bool = True
    """Tokens are written in the letters that represent bytes, not in those of the text."""


def _bytes(gpt2_words: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2_words)


def _ranges(points: str) -> str:
    """A character class of hexadecimal code points and ranges: `61-7a b5`."""
    return re.sub(r"([0-9a-f]+)", r"\\x{\1}", points).replace(" ", "")


# https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py, `pat_str`
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# https://huggingface.co/Qwen/Qwen2.5-0.5B/blob/main/tokenizer.json: single digits
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# https://huggingface.co/mistralai/Mistral-Nemo-Instruct-2407/blob/main/tokenizer.json: words also
# end where capitals begin. Like llama.cpp: separate accents are not part of a word, and only A to Z
# are capitals.
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py, `o200k_base`
_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# https://huggingface.co/Qwen/Qwen3.5-4B/blob/main/tokenizer.json: accents are part of a word
_QWEN35 = _QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"\s\p{L}", r"\s\p{L}\p{M}")
# https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Instruct/blob/main/tokenizer.json
_SEED = _QWEN2.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")
# https://huggingface.co/deepseek-ai/DeepSeek-V2-Lite-Chat/blob/main/tokenizer.json: code points of
# the letters that have a case, by a Unicode of its own.
_CASED = (
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376-377 37b-37d 37f "
    "386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd "
    "1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 "
    "1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 "
    "1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 "
    "2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183-2184 "
    "2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2-2cf3 a640-a66d a680-a69b a722-a76f a771-a787 "
    "a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 "
    "104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943 "
)
# The same file. Like llama.cpp: digits are not separated, and a space of any width is only a space.
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_ranges(_CASED)}]+",
    rf"\s?[{_ranges('21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3001-3002')}]+",
    r"\s+$",
    rf"[{_ranges('800-9fa5 ac00-d7ff')}&&[^\s]]+",
    r"\p{N}+",
)
# https://huggingface.co/deepseek-ai/deepseek-coder-6.7b-instruct/blob/main/tokenizer.json
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_LLM[4], r"\p{N}")
# https://huggingface.co/deepseek-ai/DeepSeek-V3/blob/main/tokenizer.json
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    rf"[{_ranges('4e00-9fa5 3040-30ff')}]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def _split(*patterns: str) -> _PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return _PreTokenizer((*splits, _bytes(False)))


_GPT2 = _PreTokenizer((_bytes(True),))
# https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/tokenizer.json
_DIGITS = _PreTokenizer((pre_tokenizers.Digits(individual_digits=True), _bytes(True)))
_WHOLE_TOKENS = replace(_split(_LLAMA3), add_bos=True, ignore_merges=True)
# Names of llama.cpp. Of several for one definition the first is that of an export.
_PRE_TOKENIZERS: dict[str, _PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "olmo"), _GPT2),
    **dict.fromkeys(("smollm", "refact", "command-r", "starcoder"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "lfm2", "falcon3", "pixtral"), _WHOLE_TOKENS),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _split(_LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _split(_QWEN2)),
    "qwen35": _split(_QWEN35),
    "seed-coder": _split(_SEED),
    "deepseek-llm": _split(*_DEEPSEEK_LLM),
    "deepseek-coder": _split(*_DEEPSEEK_CODER),
    "deepseek-v3": _split(*_DEEPSEEK_V3),
    **dict.fromkeys(("gpt-4o", "llama4"), _split(_O200K)),
    "tekken": replace(_split(_TEKKEN), add_bos=True, ignore_merges=True),
}
# Definitions on the hub that give the ids of llama.cpp's by other splits: no token of DeepSeek V2
# has two digits.
_ON_HUB = {"deepseek-llm": _split(*_DEEPSEEK_LLM[:-1], r"\p{N}")}
_SENTENCEPIECE = _PreTokenizer((), add_bos=True)
"""No pre-tokenizer: merges cross words."""
_GEMMA4 = _PreTokenizer(
    (pre_tokenizers.Split(Regex(r"\n+"), "isolated"),), add_bos=True, is_bytes=False
)
"""Merges cross words, but no line; spaces are written as in SentencePiece."""
_WITHOUT_NAME = {"llama": _SENTENCEPIECE, "gemma4": _GEMMA4}
"""Pre-tokenizers by the type of the vocabulary."""


PRE_TOKENIZER_NAMES = tuple(_PRE_TOKENIZERS)
"""The supported values of `tokenizer.ggml.pre`."""


def pre_tokenized(pre: str, text: str) -> tuple[list[str], ...]:
    """The parts of `text` that merges never cross, in the letters that represent bytes: those of
    llama.cpp, then those of the hub if they differ."""
    definitions = (_PRE_TOKENIZERS[pre], *filter(None, [_ON_HUB.get(pre)]))
    sequences = [pre_tokenizers.Sequence(list(each.steps)) for each in definitions]
    return tuple([part for part, _ in steps.pre_tokenize_str(text)] for steps in sequences)


def ignores_merges(pre: str) -> bool:
    """True if a part that is a token is not split, even if no merges lead to it."""
    return _PRE_TOKENIZERS[pre].ignore_merges


def is_of_tokenizer(key: str) -> bool:
    """Return whether `build_tokenizer` reads the metadata `key`."""
    return key.startswith("tokenizer.") or key == "general.name"


def build_tokenizer(metadata: Metadata) -> Tokenizer:
    """Build the tokenizer of a GGUF with this metadata.

    Raises:
        UnsupportedGGUFError: the type of the vocabulary or its pre-tokenizer is not supported.
    """
    pre = _pre_tokenizer(metadata)
    tokens = _token_list(metadata)
    if pre is _SENTENCEPIECE:
        tokenizer = build_sentencepiece(metadata, tokens)
    else:
        tokenizer = Tokenizer(_bpe(tokens, metadata, pre))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(pre.steps))
        tokenizer.decoder = decoders.ByteLevel()
        if not pre.is_bytes:
            write_spaces(tokenizer, has_prefix=False)
    tokenizer.post_processor = _post_processor(metadata, tokens, pre)
    tokenizer.add_tokens(_added_tokens(tokens, metadata))
    return tokenizer


def write_tokenizer(folder: Path, metadata: Metadata, context_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; raises like `build_tokenizer`.

    Raises:
        OSError: a file cannot be written. The tokenizer's own `save` raises a bare `Exception`.
    """
    text = build_tokenizer(metadata).to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text, "utf-8")
    config = tokenizer_config(metadata, context_length)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")


def tokenizer_config(metadata: Metadata, context_length: int) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = _token_list(metadata)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_bos(metadata, _pre_tokenizer(metadata)),
        "model_max_length": context_length,
    }
    for short, long in names.items():
        index = metadata.get(f"tokenizer.ggml.{long}_token_id")
        if index is not None:
            config[f"{short}_token"] = _token(tokens, index)
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def end_tokens(metadata: Metadata, stops: Collection[str] = ()) -> list[int]:
    """Ids that end an answer, the end of sequence of the file first.

    Models may end a turn with a control token other than `eos`. `stops`: texts that end answers,
    of which only those count that are one control token.
    """
    own = [
        metadata[key]
        for key in (f"tokenizer.ggml.{end}_token_id" for end in ENDS)
        if key in metadata
    ]
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    pairs = zip(_token_list(metadata), kinds, strict=False)
    ends = {_CONTROL: _ENDS.union(stops), _USER_DEFINED: _ENDS}
    others = [i for i, (token, kind) in enumerate(pairs) if token in ends.get(kind, ())]
    return [int(index) for index in dict.fromkeys(own + others)]


def _pre_tokenizer(metadata: Metadata) -> _PreTokenizer:
    model = metadata.get("tokenizer.ggml.model")
    if model not in _KINDS:
        known = ", ".join(_KINDS)
        raise UnsupportedGGUFError(f"The tokenizer '{model}' is not supported, only {known}.")
    if metadata.get("tokenizer.ggml.add_eos_token"):
        raise UnsupportedGGUFError("'tokenizer.ggml.add_eos_token' is not supported.")
    if model in _WITHOUT_NAME:
        return _WITHOUT_NAME[model]
    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in _PRE_TOKENIZERS:
        known = ", ".join(sorted(_PRE_TOKENIZERS))
        raise UnsupportedGGUFError(f"The pre-tokenizer '{pre}' is not supported, only {known}.")
    return _PRE_TOKENIZERS[pre]


def _token_list(metadata: Metadata) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise UnsupportedGGUFError("'tokenizer.ggml.tokens' is missing.")
    return tokens


def _token(tokens: list[str], index: int) -> str:
    if not 0 <= index < len(tokens):
        raise UnsupportedGGUFError(
            f"A setting refers to token {index}; the vocabulary has {len(tokens)}."
        )
    return tokens[index]


def _bpe(tokens: list[str], metadata: Metadata, pre: _PreTokenizer) -> BPE:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise UnsupportedGGUFError("Two tokens of the vocabulary have the same text.")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges", ())]
    for merge in merges:
        if len(merge) != 2 or "".join(merge) not in vocabulary or not vocabulary.keys() >= {*merge}:
            raise UnsupportedGGUFError(f"The merge {merge} does not form a token of two tokens.")
    if pre.is_bytes:
        return BPE(vocabulary, merges, ignore_merges=pre.ignore_merges)  # type: ignore[arg-type]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    return BPE(
        vocabulary,
        merges,  # type: ignore[arg-type]
        unk_token=None if unknown is None else _token(tokens, unknown),
        fuse_unk=True,
        byte_fallback=True,
    )


def _added_tokens(tokens: list[str], metadata: Metadata) -> list[AddedToken]:
    """Tokens that are recognised in the text before it is split."""
    kinds = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if len(kinds) != len(tokens):
        raise UnsupportedGGUFError(
            "'tokenizer.ggml.token_type' must have one entry for each token."
        )
    strips = _strips_after_tokens(metadata)
    return [
        AddedToken(
            token,
            special=kind != _USER_DEFINED,
            normalized=False,
            rstrip=strips and token not in NEVER_STRIPPED,
        )
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_UNKNOWN, _CONTROL) or (kind == _USER_DEFINED and not is_spaces(token))
    ]


STRIPPING_NAME = "phi-3"
"""A model of this name loses white space after its control tokens in llama.cpp, which has no
setting for it. Source: `llama_vocab::impl::load`, "set attributes by model/tokenizer name"."""
NEVER_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")
"""The tokens of such a model that have no effect on what follows; llama.cpp requires them."""


def _strips_after_tokens(metadata: Metadata) -> bool:
    """Return whether llama.cpp leaves out white space after a control token."""
    name = str(metadata.get("general.name", "")).lower()
    return STRIPPING_NAME in name or STRIPPING_NAME.replace("-", "") in name


def _adds_bos(metadata: Metadata, pre: _PreTokenizer) -> bool:
    return bool(metadata.get("tokenizer.ggml.add_bos_token", pre.add_bos))


def _post_processor(
    metadata: Metadata, tokens: list[str], pre: _PreTokenizer
) -> processors.PostProcessor:
    if not _adds_bos(metadata, pre):
        return processors.ByteLevel(trim_offsets=False)
    index = metadata.get("tokenizer.ggml.bos_token_id")
    if index is None:
        raise UnsupportedGGUFError("'add_bos_token' requires 'bos_token_id', which is missing.")
    bos = _token(tokens, index)
    return processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, int(index))])
