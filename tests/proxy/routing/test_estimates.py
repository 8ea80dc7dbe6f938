"""Estimates of prompt and answer tokens, from requests and earlier answers."""

import pytest
from msgspec.structs import replace

from adapters.events import Usage
from adapters.request import (
    GenerationRequest,
    ImagePart,
    Message,
    TextPart,
    TokenIds,
    Tool,
    ToolCall,
)
from proxy.routing.estimates import Estimates
from proxy.routing.requirements import Requirements, to_requirements

KEY = ("mlx", "m")
HI = GenerationRequest(model="m", prompt=(Message(role="user", content=(TextPart("Hié"),)),))


def usage(prompt: int = 10, completion: int = 10) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def test_all_text_is_counted_in_bytes():
    assert to_requirements(HI).prompt_bytes == 4
    raw = replace(HI, prompt="ab", suffix="cd")
    assert (to_requirements(raw).prompt_bytes, to_requirements(raw).messages) == (4, 0)
    called = Message(role="assistant", reasoning="abc", tool_calls=(ToolCall("1", "f", "{}"),))
    assert to_requirements(replace(HI, prompt=(called,))).prompt_bytes == 6
    offered = replace(HI, tools=(Tool("f", "what it does"),))
    assert to_requirements(offered).prompt_bytes > 20
    assert to_requirements(replace(offered, tool_choice="none")).prompt_bytes == 4


def test_lone_surrogate_is_counted():
    assert to_requirements(replace(HI, prompt="\ud800")).prompt_bytes == 1


def test_images_and_token_ids_are_counted_in_tokens():
    assert to_requirements(replace(HI, prompt=TokenIds((1, 2, 3)))).prompt_tokens == 3
    seen = Message(role="user", content=(ImagePart("data:" + "A" * 5000),))
    assert to_requirements(replace(HI, prompt=(seen, seen))) == Requirements(
        prompt_tokens=2048, messages=2, features=frozenset({"images"})
    )


@pytest.mark.parametrize("per_token", [1.5, 3.0, 5.0])
def test_bytes_per_token_are_learned(per_token: float):
    estimates, requirements = Estimates(), Requirements(prompt_bytes=6000, messages=3)
    tokens = int(6000 / per_token) + 40
    for _ in range(30):
        estimates.learn(KEY, requirements, usage(prompt=tokens))
    assert estimates.prompt_tokens(KEY, requirements) == pytest.approx(tokens, rel=0.05)
    assert estimates.prompt_tokens(("ollama", "m"), requirements) == 1500 + 48


def test_template_overhead_is_learned_from_short_prompts():
    estimates, requirements = Estimates(), Requirements(prompt_bytes=8, messages=1)
    for _ in range(20):
        estimates.learn(KEY, requirements, usage(prompt=102))
    assert estimates.prompt_tokens(KEY, requirements) == pytest.approx(102, abs=3)


def test_implausible_counts_are_bounded():
    estimates, requirements = Estimates(), Requirements(prompt_bytes=100_000)
    for _ in range(50):
        estimates.learn(KEY, requirements, usage(prompt=0))
    assert estimates.prompt_tokens(KEY, requirements) > 6000


def test_context_limit_is_dropped_after_a_longer_prompt():
    estimates = Estimates()
    estimates.refused(KEY, 500)
    estimates.learn(KEY, Requirements(), usage(prompt=499))
    assert estimates.limit(KEY) == 500
    estimates.learn(KEY, Requirements(), usage(prompt=600))
    assert estimates.limit(KEY) is None


def test_answer_is_estimated_by_earlier_ones_up_to_its_limit():
    estimates = Estimates()
    assert estimates.answer_tokens([KEY], Requirements()) == 256
    for _ in range(40):
        estimates.learn(KEY, Requirements(), usage(completion=50))
    assert estimates.answer_tokens([KEY], Requirements()) == pytest.approx(50, rel=0.05)
    assert estimates.answer_tokens([KEY], Requirements(max_tokens=5)) == 5
    assert estimates.answer_tokens([KEY], Requirements(max_tokens=5, n=3)) == 15
