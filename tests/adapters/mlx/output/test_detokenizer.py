"""Detokenizing: characters are never split, and no text is lost."""

from pathlib import Path
from typing import Any

import pytest
from fakes.tiny_model import write_tiny_model
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from adapters.mlx.output.detokenize import Vocabulary

TEXTS = [
    "plain",
    "  two  spaces\n\n\ttab ",
    "naïve café",
    "日本語テキスト",
    "🙂👩‍👩‍👧 flags 🇫🇷",
    "a\u0000b",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_tiny_model(tmp_path_factory.mktemp("tokenizer") / "tiny"))


def pieces(tokenizer: Any, tokens: list[int], before: tuple[int, ...] = ()) -> list[str]:
    detokenizer = Vocabulary(tokenizer).detokenizer(before=before)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_whole_from_single_bytes(tiny: Any, text: str) -> None:
    shown = pieces(tiny, tiny.encode(text, add_special_tokens=False))
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)


def test_a_character_that_is_cut_off_is_left_out(tiny: Any) -> None:
    tokens = tiny.encode("ok 🙂", add_special_tokens=False)
    assert "".join(pieces(tiny, tokens[:-1])) == "ok "


def test_control_tokens_are_nobodys_text(tiny: Any) -> None:
    tokens = [*tiny.encode("a"), tiny.eos_token_id, *tiny.encode("b")]
    assert "".join(pieces(tiny, tokens)) == "ab"


def test_a_row_beyond_the_vocabulary_is_silent(tiny: Any) -> None:
    assert pieces(tiny, [99_999]) == ["", ""]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A vocabulary as Llama 2 and Mistral have it: `▁` for a space, `<0x…>` for bytes."""
    folder: Path = tmp_path_factory.mktemp("spm")
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁Hi",
        "▁you",
        "!",
    ]
    tokenizer = Tokenizer(
        models.BPE({word: at for at, word in enumerate(words)}, [], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_tokens([AddedToken("▁▁▁▁", normalized=False)])  # As Gemma has its indents.
    return saved(tokenizer, folder)


def saved(tokenizer: Tokenizer, folder: Path) -> Any:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")
    fast.save_pretrained(folder)
    return load_tokenizer(folder)


def test_sentencepiece_loses_only_the_space_before_the_first_word(sentencepiece: Any) -> None:
    ids = sentencepiece.convert_tokens_to_ids
    emoji = [ids(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    tokens = [ids("▁Hi"), ids("▁you"), *emoji, ids("!"), ids("▁you"), ids("</s>")]
    assert pieces(sentencepiece, tokens) == ["Hi", " you", "", "", "", "🙂", "!", " you", "", ""]


def test_sentencepiece_keeps_the_space_where_an_answer_continues_a_text(sentencepiece: Any) -> None:
    hi, you = map(sentencepiece.convert_tokens_to_ids, ("▁Hi", "▁you"))
    assert pieces(sentencepiece, [you], before=(hi,)) == [" you", ""]


def test_an_added_token_of_sentencepiece_is_decoded_as_the_others(sentencepiece: Any) -> None:
    hi, indent = map(sentencepiece.convert_tokens_to_ids, ("▁Hi", "▁▁▁▁"))
    assert pieces(sentencepiece, [hi, indent, hi]) == ["Hi", "    ", " Hi", ""]
    assert Vocabulary(sentencepiece).text_of(indent) == "    "


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A vocabulary with a decoder that mlx-lm does not know: it decodes each line by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator([PROGRAM], trainer)
    return saved(tokenizer, tmp_path_factory.mktemp("metaspace"))


PROGRAM = "def f(x):\n    if x:\n        return 1\n"


def test_lines_keep_their_indent_with_any_decoder(metaspace: Any) -> None:
    tokens = metaspace.encode(PROGRAM, add_special_tokens=False)
    assert "".join(pieces(metaspace, tokens)) == PROGRAM
    rest = pieces(metaspace, tokens[5:], before=tuple(tokens[:5]))
    assert metaspace.decode(tokens[:5]) + "".join(rest) == PROGRAM
