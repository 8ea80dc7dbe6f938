"""Names of control tokens that an answer spells are text; the tokens themselves are markers."""

from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_model import WEATHER, told
from fakes.tiny_model import write_tiny_model
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import Tokenizer

from adapters.chat_template.thought_markers import HARMONY_START
from adapters.events import Event, TextDelta
from adapters.mlx.output.assemble import Answer, Reading
from adapters.mlx.output.detokenize import Vocabulary
from adapters.mlx.output.reasoning import Reasoning
from adapters.mlx.output.tool_calls.syntax import HARMONY, HERMES
from adapters.mlx.sequence import Sampled, Sequence
from adapters.request import Sampling

NAMES = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|constrain|>")
CHANNELS = Reasoning(HARMONY_START, "<|end|>")
Part = str | tuple[str, ...]
"""Text in ordinary tokens, or control tokens."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One that has the control tokens of gpt-oss, as special tokens without a role."""
    folder: Path = write_tiny_model(tmp_path_factory.mktemp("m") / "harmony")
    rust: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens([*NAMES])
    rust.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def tokens_of(tokenizer: Any, parts: tuple[Part, ...]) -> list[int]:
    plain: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += plain.encode(part, add_special_tokens=False).ids
        else:
            tokens += map(tokenizer.convert_tokens_to_ids, part)
    return tokens


def read(tokenizer: Any, *parts: Part, top: int | None = None, **reading: Any) -> list[Event]:
    events: list[Event] = []
    facts = {"reasoning": CHANNELS, "syntax": HARMONY, "tools": (WEATHER,), **reading}
    sequence = Sequence("m", [1], 500, Sampling(), top_logprobs=top)
    answer = Answer(Reading(Vocabulary(tokenizer), **facts), sequence, events.append)
    for token in tokens_of(tokenizer, parts):
        answer.add(Sampled(token, None, 0.0))
    answer.add(Sampled(tokenizer.eos_token_id, "stop", 0.0))
    return events


THOUGHT: tuple[Part, ...] = (("<|channel|>",), "analysis", ("<|message|>",))
FINAL: tuple[Part, ...] = (("<|start|>",), "assistant", ("<|channel|>",), "final", ("<|message|>",))
CALL: tuple[Part, ...] = (
    *(("<|start|>",), "assistant", ("<|channel|>",), "commentary to=functions.weather "),
    *(("<|constrain|>",), "json", ("<|message|>",)),
)


@pytest.mark.parametrize("name", NAMES)
async def test_spelled_names_are_text_in_every_section(tokenizer: Any, name: str) -> None:
    said = told(
        read(
            *(tokenizer, *THOUGHT, f"Say {name}?", ("<|end|>",)),
            *(*FINAL, f"A {name} ends it.", ("<|end|>",)),
            *(*CALL, f'{{"city": "{name} x"}}', ("<|call|>",)),
        )
    )
    assert said == {
        "reasoning": f"Say {name}?",
        "text": f"A {name} ends it.",
        "calls": [["weather", f'{{"city": "{name} x"}}']],
        "reason": "tool_calls",
    }


async def test_logprobs_of_spelled_names_are_those_of_the_text(tokenizer: Any) -> None:
    events = read(tokenizer, *FINAL, "A <|end|> ends.", ("<|end|>",), top=0)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    entries = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert "".join(entry.token for entry in entries).removesuffix("<|end|>") == "A <|end|> ends."


async def test_a_noncharacter_of_the_model_is_the_replacement_character(tokenizer: Any) -> None:
    assert told(read(tokenizer, *FINAL, "a\ufdd0b"))["text"] == "a\ufffdb"


async def test_markers_without_a_control_token_are_read_in_ordinary_text(tokenizer: Any) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    said = told(read(tokenizer, call, reasoning=None, syntax=HERMES))
    assert said["calls"] == [["weather", '{"city": "Rome"}']]
