"""Raw prompts with a tiny model: 256 tokens for the bytes, and two control tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from fakes.tiny_model import config_for, write_tiny_model

from adapters import sink
from adapters.config import MLXConfig
from adapters.errors import ContextLengthError, InvalidRequestError, UnsupportedParameterError
from adapters.events import Event, Finished, Started, TextDelta
from adapters.mlx.backend import MLXBackend
from adapters.mlx.models.fim import KNOWN, find_infill
from adapters.mlx.prompt.raw import raw_ids, reject_conflicts
from adapters.request import (
    GenerationRequest,
    JSONObject,
    Message,
    TextPart,
    TokenIds,
    Tool,
    ToolCall,
)


class Tokenizer:
    """A letter is a token, and so is each marker; text begins with `bos`."""

    eos_token_id = None

    def __init__(self, *markers: str, bos: int | None = None, end: tuple[int, ...] = ()) -> None:
        self.bos_token_id = bos
        self._end = end
        self._vocabulary = {marker: 1000 + place for place, marker in enumerate(markers)}

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        first = [self.bos_token_id] if add_special_tokens and self.bos_token_id else []
        return [*first, *text.encode(), *(self._end if add_special_tokens else ())]  # type: ignore[list-item]

    def __len__(self) -> int:
        return 2000


def raw(prompt: str | TokenIds = "ab", **fields: Any) -> GenerationRequest:
    return GenerationRequest(model="tiny", prompt=prompt, **fields)


@pytest.mark.parametrize(
    ("markers", "bos", "expected"),
    [
        (
            ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
            None,
            [1000, 97, 98, 1001, 122, 1002],
        ),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), None, [1000, 97, 98, 1001, 122, 1002]),
        (("▁<PRE>", "▁<SUF>", "▁<MID>"), 1, [1, 1000, 97, 98, 1001, 122, 1002]),
        (
            ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
            5,
            [5, 1000, 97, 98, 1001, 122, 1002],
        ),
        (("[PREFIX]", "[SUFFIX]"), 1, [1, 1001, 122, 1000, 97, 98]),
    ],
)
def test_infill_prompt_has_the_markers_of_its_family(
    markers: tuple[str, ...], bos: int | None, expected: list[int]
) -> None:
    assert raw_ids(Tokenizer(*markers, bos=bos), raw(suffix="z")) == expected
    ids = raw(TokenIds((97, 98)), suffix="z")
    assert raw_ids(Tokenizer(*markers, bos=bos), ids) == expected


def test_end_that_a_tokenizer_appends_is_not_in_a_prompt() -> None:
    assert raw_ids(Tokenizer(bos=5, end=(6, 7)), raw("ab")) == [5, 97, 98]


def test_a_vocabulary_may_lack_any_letter() -> None:
    class Lacking(Tokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return super().encode(text.replace("a", ""), add_special_tokens=add_special_tokens)

    assert raw_ids(Lacking(bos=5, end=(6,)), raw("bab")) == [5, 98, 98]
    assert raw_ids(Lacking(bos=5), raw("a")) == [5]


def test_prompt_of_a_tokenizer_that_joins_its_first_token_is_whole() -> None:
    class Joining(Tokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            ids = super().encode(text, add_special_tokens=add_special_tokens)
            return [ids[0] * 1000 + ids[1], *ids[2:]] if add_special_tokens else ids

    assert raw_ids(Joining(bos=5), raw("ab")) == [5097, 98]


def test_infill_format_is_found_by_its_markers() -> None:
    assert [find_infill(set(infill.markers)) for infill in KNOWN] == list(KNOWN)
    assert find_infill({"<fim_prefix>", "<fim_suffix>"}) is None


def test_suffix_is_rejected_when_the_model_has_no_infilling() -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        raw_ids(Tokenizer(), raw(suffix="z"))
    assert caught.value.param == "suffix"


@pytest.mark.parametrize("token", [-1, 2000])
def test_id_outside_the_vocabulary_is_rejected(token: int) -> None:
    with pytest.raises(InvalidRequestError, match="2000") as caught:
        raw_ids(Tokenizer(), raw(TokenIds((1, token))))
    assert caught.value.param == "tokens"


@pytest.mark.parametrize("prompt", ["", TokenIds(())])
def test_empty_prompt_is_the_first_token_of_the_model(prompt: str | TokenIds) -> None:
    assert raw_ids(Tokenizer(bos=7), raw(prompt)) == [7]
    with pytest.raises(InvalidRequestError, match="empty") as caught:
        raw_ids(Tokenizer(), raw(prompt))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("fields", [{"suffix": "z"}, {"echo": True}])
def test_parameters_of_raw_prompts_are_rejected_in_chats(fields: dict[str, Any]) -> None:
    chat = (Message(role="user", content=(TextPart("Hi"),)),)
    with pytest.raises(InvalidRequestError) as caught:
        reject_conflicts(GenerationRequest(model="m", prompt=chat, **fields))
    assert caught.value.param == next(iter(fields))


def test_prompt_logprobs_are_rejected_with_a_suffix() -> None:
    reject_conflicts(raw(echo=True, top_logprobs=0))
    with pytest.raises(UnsupportedParameterError) as caught:
        reject_conflicts(raw(echo=True, top_logprobs=0, suffix="z"))
    assert caught.value.param == "suffix"


@pytest.fixture
def config(tmp_path: Path) -> MLXConfig:
    """One model without a template."""
    folder = write_tiny_model(tmp_path / "tiny")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    del about["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return config_for(tmp_path)


async def answer(backend: MLXBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in sink.events(backend, request)]


def ids_of(folder: Path, text: str) -> TokenIds:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tiny" / "tokenizer.json"))
    return TokenIds(tuple(tokenizer.encode(text, add_special_tokens=False).ids))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


A_AND_B = TokenIds(tuple(ord(letter) - ord("!") for letter in "AB"))
"""The tiny vocabulary begins with the printable ASCII characters."""


async def test_token_ids_have_the_same_answer_as_their_text(backend: MLXBackend) -> None:
    *by_text, end = await answer(backend, raw("AB", max_tokens=8))
    *by_ids, other_end = await answer(backend, raw(A_AND_B, max_tokens=8))
    assert by_ids[1:] == by_text[1:]
    assert isinstance(end, Finished)
    assert isinstance(other_end, Finished)
    assert other_end.usage == end.usage


async def test_end_has_the_times_of_the_tokens(backend: MLXBackend) -> None:
    *_, end = await answer(backend, raw("AB", max_tokens=8))
    assert isinstance(end, Finished)
    assert end.timings is not None
    assert end.timings.prompt > 0
    assert end.timings.answer > 0


@pytest.mark.slow
async def test_echo_puts_the_prompt_before_the_answer(backend: MLXBackend, tmp_path: Path) -> None:
    plain = text_of(await answer(backend, raw("AB", max_tokens=8)))
    assert text_of(await answer(backend, raw("AB", max_tokens=8, echo=True))) == "AB" + plain
    assert text_of(await answer(backend, raw(A_AND_B, max_tokens=8, echo=True))) == "AB" + plain


async def test_echo_puts_the_prompt_before_every_choice(backend: MLXBackend) -> None:
    events = await answer(backend, raw("AB", max_tokens=4, echo=True, n=2))
    for choice in range(2):
        mine = [e for e in events if isinstance(e, TextDelta) and e.choice == choice]
        assert mine[0].text == "AB"
        assert len(mine) > 1


@pytest.mark.slow
async def test_empty_prompt_has_an_answer(backend: MLXBackend) -> None:
    finished = (await answer(backend, raw("", max_tokens=2)))[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.prompt_tokens == 1


@pytest.mark.slow
async def test_answer_ends_at_num_ctx(backend: MLXBackend) -> None:
    events = await answer(backend, raw("A" * 10, num_ctx=16))
    assert events[0] == Started(context=16, cold=True, prompt_tokens=10, cached_tokens=0)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.prompt_tokens + finished.usage.completion_tokens == 16
    assert finished.reason == "length"


async def test_small_context_is_rejected_with_both_numbers(
    backend: MLXBackend,
) -> None:
    with pytest.raises(ContextLengthError, match=r"16 tokens.* has 20\.") as caught:
        await answer(backend, raw("A" * 20, num_ctx=16))
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequestError, match="num_ctx"):
        await answer(backend, raw("A", num_ctx=0))
    assert (await answer(backend, raw("A", num_ctx=9999, max_tokens=1)))[0] == Started(
        512, prompt_tokens=1, cached_tokens=0
    )


async def test_model_without_template_is_not_listed_as_chat(backend: MLXBackend) -> None:
    [model] = await backend.list_models()
    assert model.capabilities == frozenset()
    reasoning = {"reasoning_effort", "reasoning_budget"}
    assert model.lacks == {*reasoning, "suffix", "images", "embeddings"}
    chat = (Message(role="user", content=(TextPart("Hi"),)),)
    with pytest.raises(InvalidRequestError, match="no chat template") as caught:
        await answer(backend, GenerationRequest(model="tiny", prompt=chat))
    assert caught.value.param == "messages"


SAID = Message(role="assistant", content=(TextPart("It is"),))
CALLED = Message(role="assistant", tool_calls=(ToolCall("c", "f", "{}"),))
ASKED = Message(role="user", content=(TextPart("Hi"),))


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("It is", {}),
        ((), {}),
        ((SAID, ASKED), {}),
        ((ASKED, CALLED), {}),
        ((ASKED, SAID), {"response_format": JSONObject()}),
        ((ASKED, SAID), {"tools": (Tool("f"),), "tool_choice": "required"}),
    ],
)
def test_continuing_needs_a_last_message_of_the_assistant_and_no_form(
    prompt: Any, fields: dict[str, Any]
) -> None:
    request = GenerationRequest(model="m", prompt=prompt, continue_final_message=True, **fields)
    with pytest.raises(InvalidRequestError) as caught:
        reject_conflicts(request)
    assert caught.value.param == "continue_final_message"


def test_continuing_a_last_message_of_the_assistant_is_no_conflict() -> None:
    reject_conflicts(
        GenerationRequest(model="m", prompt=(ASKED, SAID), continue_final_message=True)
    )
