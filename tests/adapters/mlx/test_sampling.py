from typing import cast

import mlx.core as mx
import pytest

from adapters.mlx.sampling import Sampler, create_sampler, greedy
from adapters.request import Sampling

LOGPROBS = mx.log(mx.array([[0.1, 0.5, 0.05, 0.35]]))


def draw(sampler: Sampler) -> int:
    [token] = cast(list[int], sampler(LOGPROBS).tolist())
    return token


def drawn(sampling: Sampling, times: int = 200) -> set[int]:
    sampler = create_sampler(sampling, entropy=1)
    return {draw(sampler) for _ in range(times)}


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert create_sampler(Sampling(top_p=0.5), entropy=1) is greedy
    assert draw(greedy) == 1


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_p=0.5), {1}),
        (Sampling(temperature=1.0, top_p=0.51), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.0), {1}),
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_k=99), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, min_p=0.19), {0, 1, 3}),
        (Sampling(temperature=0.01), {1}),
    ],
)
def test_only_the_tokens_that_are_allowed_are_drawn(sampling: Sampling, expected: set[int]) -> None:
    assert drawn(sampling) == expected


def test_the_temperature_shapes_the_odds() -> None:
    sampler = create_sampler(Sampling(temperature=1.0, seed=5), entropy=0)
    share = sum(draw(sampler) == 1 for _ in range(2000)) / 2000
    assert 0.46 < share < 0.54


@pytest.mark.parametrize("seed", [0, 42, -1, 2**63 - 1, -(2**63)])
def test_a_seed_repeats_itself_and_entropy_does_not_matter(seed: int) -> None:
    def run(entropy: int) -> list[int]:
        sampler = create_sampler(Sampling(temperature=1.0, seed=seed), entropy)
        return [draw(sampler) for _ in range(30)]

    assert run(1) == run(2)


def test_without_a_seed_two_answers_differ() -> None:
    def run(entropy: int) -> list[int]:
        sampler = create_sampler(Sampling(temperature=1.0), entropy)
        return [draw(sampler) for _ in range(30)]

    assert run(1) != run(2)


def test_the_penalties_count_the_whole_answer_and_nothing_else() -> None:
    # log(.5) - log(.35) = .357 and log(.35) - log(.1) = 1.25: each time it is said, a token loses
    # 1.0, and falls behind the next one.
    sampler = create_sampler(Sampling(frequency_penalty=1.0), entropy=1)
    assert [draw(sampler) for _ in range(7)] == [1, 3, 1, 3, 0, 1, 2]


def test_the_presence_penalty_counts_a_token_once() -> None:
    sampler = create_sampler(Sampling(presence_penalty=2.0), entropy=1)
    assert [draw(sampler) for _ in range(6)] == [1, 3, 0, 1, 1, 1]


def test_a_negative_penalty_holds_on_to_what_was_said() -> None:
    sampler = create_sampler(Sampling(temperature=1.0, seed=3, frequency_penalty=-2.0), entropy=1)
    said = [draw(sampler) for _ in range(60)]
    assert len(set(said[-40:])) == 1


@pytest.mark.parametrize(
    ("bias", "expected"),
    [({2: 100.0}, {2}), ({1: -100.0, 3: -100.0}, {0, 2}), ({0: -100.0, 2: -100.0}, {1, 3})],
)
def test_the_bias_forces_and_bans_tokens(bias: dict[int, float], expected: set[int]) -> None:
    assert drawn(Sampling(temperature=1.0, logit_bias=bias)) == expected


def test_a_bias_works_without_a_temperature() -> None:
    assert drawn(Sampling(logit_bias={1: -100.0}), times=3) == {3}
