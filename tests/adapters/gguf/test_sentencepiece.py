"""SentencePiece vocabularies against llama.cpp's ids, and against SentencePiece itself."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.tokenizer import build_tokenizer, tokenizer_config, write_tokenizer

DATA = Path(__file__).parents[2] / "data"
Metadata = dict[str, Any]


def recorded(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}-token-ids.json").read_text("utf-8"))


def metadata(**changed: Any) -> Metadata:
    record = recorded("sentencepiece")
    about: Metadata = {
        "model": "llama",
        "tokens": record["tokens"],
        "scores": record["scores"],
        "token_type": record["token_type"],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (about | changed).items()}


@pytest.mark.parametrize("name", ["sentencepiece", "sentencepiece-no-prefix"])
def test_tokenizer_gives_llama_cpps_ids(name: str) -> None:
    record = recorded(name)
    tokenizer = build_tokenizer(metadata(add_space_prefix=record["add_space_prefix"]))
    ids = [tokenizer.encode(row["text"], add_special_tokens=False).ids for row in record["texts"]]
    assert len(ids) == 80
    assert ids == [row["ids"] for row in record["texts"]]


@pytest.mark.parametrize(("name", "strips"), [("Phi3", True), ("phi-3 mini", True), ("Phi", False)])
def test_white_space_after_control_tokens_of_phi_3_is_left_out(name: str, strips: bool) -> None:
    tokenizer = build_tokenizer(metadata() | {"general.name": name})

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    assert (ids("</s> \nHello") == ids("</s>Hello")) == strips
    assert ids("<s> \nHello") != ids("<s>Hello")


def test_tokenizer_of_gemma_4_gives_llama_cpps_ids() -> None:
    record = recorded("gemma4")
    tokenizer = build_tokenizer(metadata(model="gemma4", merges=record["merges"]))
    ids = [tokenizer.encode(row["text"], add_special_tokens=False).ids for row in record["texts"]]
    assert len(ids) == 83
    assert ids == [row["ids"] for row in record["texts"]]


def test_tokenizer_of_gemma_4_restores_the_text() -> None:
    tokenizer = build_tokenizer(metadata(model="gemma4", merges=recorded("gemma4")["merges"]))
    for text in ("Hello, World!", " a b ", "Zürich 東京 👍🏽", "x\ty\n\n", "123,456"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_recordings_distinguish_the_prefix() -> None:
    assert recorded("sentencepiece")["texts"] != recorded("sentencepiece-no-prefix")["texts"]


@pytest.mark.parametrize("prefix", [True, False])
def test_tokenizer_restores_the_text(prefix: bool) -> None:
    tokenizer = build_tokenizer(metadata(add_space_prefix=prefix))
    for text in ("Hello, World!", " a b ", "Zürich 東京 👍🏽", "x\ty\n\n", "123,456"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_adds_bos_unless_the_file_disables_it() -> None:
    assert build_tokenizer(metadata()).encode("a").ids[0] == 1
    assert build_tokenizer(metadata(add_bos_token=False)).encode("a").ids[0] != 1
    assert tokenizer_config(metadata(), 512)["add_bos_token"] is True


def test_tokenizer_finds_control_and_user_defined_tokens() -> None:
    tokenizer = build_tokenizer(metadata(add_bos_token=False))
    ids = tokenizer.encode("<start>a<user>  b<end>").ids
    tokens = recorded("sentencepiece")["tokens"]
    parts = [tokens[i] for i in ids]
    assert (parts[0], parts[-1]) == ("<start>", "<end>")
    assert "<user>" in parts
    assert "  " in parts
    assert "<user>" in tokenizer.decode(ids)
    assert "<end>" not in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scores": [0.0]}, "scores"),
        ({"token_type": [1]}, "scores"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"tokens": ["a"] * 900}, "same text"),
        ({"bos_token_id": 99999}, "99999"),
    ],
)
def test_unsupported_vocabulary_is_rejected(change: Metadata, named: str) -> None:
    with pytest.raises(UnsupportedGGUFError, match=named):
        build_tokenizer(metadata(**change))


CORPUS = [row["text"] for row in recorded("smollm2")["texts"] if row["text"].strip("\0 \t\n\r")]


def trained(*, prefix: bool) -> Any:
    """A vocabulary trained by SentencePiece itself."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([text for text in CORPUS if "\0" not in text] * 3),
        model_writer=made,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def random_texts(count: int) -> list[str]:
    generator = random.Random(5)  # noqa: S311 - no secret
    alphabet = "".join(CORPUS) + "abc   aeiou\n\t"
    return ["".join(generator.choices(alphabet, k=generator.randint(1, 60))) for _ in range(count)]


@pytest.mark.parametrize("prefix", [True, False])
def test_tokenizer_gives_sentencepieces_ids_for_random_texts(prefix: bool) -> None:
    reference = trained(prefix=prefix)
    count = reference.get_piece_size()
    kinds = {reference.is_unknown: 2, reference.is_control: 3, reference.is_byte: 6}
    types = [next((kind for is_, kind in kinds.items() if is_(i)), 1) for i in range(count)]
    built = build_tokenizer(
        metadata(
            tokens=[reference.id_to_piece(i) for i in range(count)],
            scores=[reference.get_score(i) for i in range(count)],
            token_type=types,
            add_space_prefix=prefix,
            add_bos_token=False,
        )
    )
    texts = [text.replace("\0", "") for text in random_texts(500)]
    texts = [text for text in texts if not any(c in text for c in ("<unk>", "<s>", "</s>"))]
    assert len(texts) > 400
    different = [text for text in texts if built.encode(text).ids != reference.encode(text)]
    assert different == []


@pytest.mark.parametrize("prefix", [True, False])
def test_mlx_streams_text_of_a_sentencepiece_vocabulary(tmp_path: Path, prefix: bool) -> None:
    from mlx_lm.utils import load_tokenizer

    from adapters.mlx.output.detokenize import Vocabulary

    (tmp_path / "config.json").write_text("{}")
    write_tokenizer(tmp_path, metadata(add_space_prefix=prefix), 512)
    tokenizer = load_tokenizer(tmp_path)
    for text in ("Hello, World!", " a b ", "Zürich 東京 👍🏽 x\n\n1"):
        ids = tokenizer.encode(text)
        assert ids[0] == 1
        stream = Vocabulary(tokenizer).detokenizer()
        pieces = [stream.add(token) for token in ids]
        assert "".join(pieces) + stream.finish() == text
        assert len([piece for piece in pieces if piece]) > 2


def test_spaces_that_a_file_has_as_user_defined_are_merged() -> None:
    """Gemma's files from Ollama's own converter have them by their name in the vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁▁", "▁▁▁▁"]
    kinds, scores = [2, 3, 3, 1, 1, 4, 4], [0.0, 0.0, 0.0, -2.0, -1.0, 0.0, 0.0]
    about = {"tokens": tokens, "token_type": kinds, "scores": scores, "add_space_prefix": False}
    tokenizer = build_tokenizer(metadata(**about))
    ids = tokenizer.encode("a    a  a", add_special_tokens=False).ids
    assert ids == [4, 6, 4, 5, 4]
    assert tokenizer.decode(ids) == "a    a  a"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_disk_that_is_full_is_an_error_of_the_system(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_tokenizer(tmp_path, metadata(), 8192)
