"""An echoed prompt with the logprobs of its tokens."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from fakes.engine_client import EngineClient
from fakes.scripted_model import ScriptedEngine, answer, told, usage_of
from fakes.tiny_model import END, config_for, write_sentencepiece, write_tiny_model
from mlx_lm.tokenizer_utils import load as load_tokenizer

from adapters.config import MLXConfig
from adapters.events import Event, Finished, TextDelta, TokenLogprob
from adapters.mlx.backend import MLXBackend
from adapters.mlx.engine.engine import Engine
from adapters.mlx.output.assemble import Answer, Reading
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.logprobs import Places
from adapters.mlx.sequence import Sampled, Sequence
from adapters.request import GenerationRequest, Sampling, TokenIds

KINDS = ("llama", "sliding", "llama4", "mamba")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_tiny_model(root / kind, kind)
    return root


@pytest.fixture
def config(folder: Path) -> MLXConfig:
    return config_for(folder, prefill_chunk=16)


@pytest.fixture
def engine(config: MLXConfig) -> ScriptedEngine:
    return ScriptedEngine(config)


def ids_of(text: str) -> tuple[int, ...]:
    """The tiny vocabulary begins with the printable ASCII characters."""
    return tuple(ord(char) - ord("!") for char in text)


def letters(length: int = 40) -> str:
    return "".join(chr(ord("a") + (5 + 11 * i) % 26) for i in range(length))


def ids(length: int = 40) -> tuple[int, ...]:
    return ids_of(letters(length))


def asked(model: str = "llama", **fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {
        "prompt": TokenIds(ids()),
        "echo": True,
        "max_tokens": 3,
        "top_logprobs": 2,
        "sampling": Sampling(temperature=0),
    }
    return GenerationRequest(model=model, **given | fields)


def reported(events: list[Event], choice: int = 0) -> list[TokenLogprob]:
    mine = [e for e in events if isinstance(e, TextDelta) and e.choice == choice]
    return [entry for event in mine for entry in event.logprobs or ()]


async def expected(engine: Engine, path: Path, tokens: list[int]) -> list[list[float]]:
    """Return, for each of `tokens`, the logprobs of every token that may come next."""
    loaded = await EngineClient(engine).load(path)
    return await asyncio.wrap_future(engine.run(partial(logprobs, loaded.model, tokens)))


def logprobs(model: Any, tokens: list[int]) -> list[list[float]]:
    logits = model(mx.array([tokens]))[0]
    found: Any = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)).tolist()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_prompt_is_reported_as_the_model_thinks_of_it(
    backend: MLXBackend, engine: Engine, folder: Path, kind: str
) -> None:
    """In chunks of 16, of a prompt that was read before: nothing is taken from a cache."""
    await answer(backend, asked(kind, echo=False, top_logprobs=None))
    events = await answer(backend, asked(kind))
    entries = reported(events)
    assert [entry.is_first for entry in entries] == [True] + [False] * 42
    assert "".join(entry.token for entry in entries[:40]) == letters()
    own = await expected(engine, folder / kind, list(ids()))
    said = [*ids(), own[-1].index(max(own[-1]))]
    for place, entry in enumerate(entries[1:41]):
        assert entry.logprob == pytest.approx(own[place][said[place + 1]], abs=1e-3)
        best = sorted(own[place], reverse=True)[:2]
        assert [top.logprob for top in entry.top] == pytest.approx(best, abs=1e-3)
    assert told(events[1:])["text"].startswith(letters())
    assert usage_of(events).cached_tokens == 0


async def test_a_prompt_is_only_read_when_no_answer_is_asked_for(backend: MLXBackend) -> None:
    whole = reported(await answer(backend, asked()))
    events = await answer(backend, asked(max_tokens=0))
    assert reported(events) == whole[:40]
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, usage_of(events).completion_tokens) == ("length", 0)
    assert (await backend.health()).counters["rows"] == 0


async def test_a_prompt_is_shown_without_a_report_when_none_is_asked_for(
    backend: MLXBackend,
) -> None:
    events = await answer(backend, asked(max_tokens=0, top_logprobs=None))
    assert events[1] == TextDelta(letters())


@pytest.mark.parametrize("prompt", ["a", TokenIds(ids_of("a"))])
async def test_a_prompt_of_one_token_has_nothing_to_report(
    backend: MLXBackend, prompt: str | TokenIds
) -> None:
    entries = reported(await answer(backend, asked(prompt=prompt, max_tokens=1)))
    assert [(entry.token, entry.is_first) for entry in entries][:1] == [("a", True)]
    assert len(entries) == 2


async def test_each_choice_begins_with_the_prompt(backend: MLXBackend) -> None:
    events = await answer(backend, asked(n=3, sampling=Sampling(temperature=2.0, seed=1)))
    choices = [reported(events, choice) for choice in range(3)]
    assert choices[0][:40] == choices[1][:40] == choices[2][:40]
    assert len({tuple(e.token for e in each[40:]) for each in choices}) == 3


async def test_the_last_token_is_reported_when_it_writes_nothing(
    backend: MLXBackend, engine: ScriptedEngine
) -> None:
    """lm-evaluation-harness drops the last one, whatever it is."""
    engine.say("")
    entries = reported(await answer(backend, asked(max_tokens=1)))
    assert [(entry.token, entry.bytes) for entry in entries[39:]] == [
        (letters()[-1], tuple(letters()[-1].encode())),
        ("<|im_end|>", ()),
    ]


@pytest.mark.slow
async def test_a_prompt_that_fills_the_context_can_be_read(backend: MLXBackend) -> None:
    events = await answer(backend, asked(prompt=TokenIds(ids(512)), max_tokens=0))
    assert len(reported(events)) == 512


async def test_control_tokens_are_in_the_text_where_they_were_sent(backend: MLXBackend) -> None:
    sent = TokenIds((*ids_of("a"), END, *ids_of("b")))
    text, tokens = [
        await answer(backend, asked(prompt=prompt, max_tokens=0))
        for prompt in ("a<|im_end|>b", sent)
    ]
    assert reported(text) == reported(tokens)
    assert told(text[1:])["text"] == told(tokens[1:])["text"] == "a<|im_end|>b"
    assert [bytes(entry.bytes or ()) for entry in reported(text)] == [b"a", b"<|im_end|>", b"b"]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("Hi", [(b"", "<s>"), (b" Hi", " Hi")], [b"", b"Hi"]),
        (" Hi", [(b"", "<s>"), (b" Hi", " Hi")], [b"", b" Hi"]),
        ("<s>Hi", [(b"", "<s>"), (b"Hi", "Hi")], [b"<s>", b"Hi"]),
        ("é<s>", [(b"\xc3", "?"), (b"\xa9", "?"), (b"", "<s>")], [b"\xc3", b"\xa9", b"<s>"]),
    ],
    ids=["added", "space", "sent", "parts"],
)
def test_a_token_has_what_the_text_has_of_it(
    text: str, tokens: list[tuple[bytes, str]], expected: list[bytes]
) -> None:
    entries = [TokenLogprob(token=name, logprob=0.0, bytes=tuple(own)) for own, name in tokens]
    shown = list(map(Places(text).shown, entries))
    assert [bytes(entry.bytes or ()) for entry in shown] == expected
    assert shown[1].token == expected[1].decode("utf-8", "ignore") or shown[1].token == "?"


async def test_a_control_token_without_text_has_its_logprob(
    backend: MLXBackend,
) -> None:
    start = END - 1
    bias = {start: 100.0}
    request = GenerationRequest(
        model="llama",
        prompt=TokenIds(ids()),
        max_tokens=3,
        top_logprobs=1,
        sampling=Sampling(logit_bias=bias),
    )
    events = await answer(backend, request)
    reported = [e.logprobs for e in events if isinstance(e, TextDelta) and e.logprobs]
    tokens = [entry.token for entries in reported for entry in entries]
    assert tokens == ["<|im_start|>"] * 3
    assert usage_of(events).completion_tokens == 3


async def test_a_first_token_that_is_no_character_has_its_byte(backend: MLXBackend) -> None:
    request = GenerationRequest(
        model="llama",
        prompt=TokenIds(ids()),
        max_tokens=2,
        top_logprobs=1,
        sampling=Sampling(logit_bias={187: 100.0}),
    )
    events = await answer(backend, request)
    assert told(events)["text"] == "\ufffd\ufffd"
    assert [bytes(entry.bytes or ()) for entry in reported(events)] == [b"\xff", b"\xff"]


@pytest.mark.parametrize(
    ("drawn", "before", "first", "other"),
    [
        ("\u2581", (), ("", b""), ("<", b"<")),
        ("<0x3C>", (), ("<", b"<"), ("", b"")),
        ("\u2581", (0,), (" ", b" "), ("<", b"<")),
    ],
    ids=["drawn", "likely", "continued"],
)
async def test_the_space_before_the_first_word_is_in_no_token(
    tmp_path: Path, drawn: str, before: tuple[int, ...], first: Any, other: Any
) -> None:
    write_sentencepiece(write_tiny_model(tmp_path / "m"))
    tokenizer = load_tokenizer(tmp_path / "m")
    space, word = map(tokenizer.convert_tokens_to_ids, ("\u2581", "<0x3C>"))
    chosen, likely = (space, word) if drawn == "\u2581" else (word, space)
    events: list[Any] = []
    sequence = Sequence("m", [*before, 1], 9, Sampling(), top_logprobs=2)
    reading = Reading(Vocabulary(tokenizer), keeps_space=bool(before))
    said = Answer(reading, sequence, events.append)
    said.add(Sampled(chosen, None, -0.1, ((chosen, -0.1), (likely, -2.0))))
    said.add(Sampled(word, None, -0.1, ((word, -0.1), (space, -2.0))))
    said.add(Sampled(tokenizer.eos_token_id, "stop", 0.0))
    [begin, rest] = reported(events)
    assert [(own.token, bytes(own.bytes or ())) for own in (begin, *begin.top)] == [
        *(first, first),
        other,
    ]
    assert begin.token + rest.token == told(events)["text"]
    assert [own.token for own in rest.top] == ["<", " "]
