import mlx.core as mx
import pytest

from adapters.mlx.sampling import create_sampler, greedy
from adapters.request import Sampling

LOGPROBS = mx.log(mx.array([[0.1, 0.5, 0.05, 0.35]]))


def drawn(sampling: Sampling, times: int = 200) -> set[int]:
    sampler = create_sampler(sampling, entropy=1)
    return {int(sampler(LOGPROBS).item()) for _ in range(times)}


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert create_sampler(Sampling(top_p=0.5), entropy=1) is greedy
    assert greedy(LOGPROBS).item() == 1


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
    shares = mx.array([int(sampler(LOGPROBS).item()) == 1 for _ in range(2000)])
    assert 0.46 < shares.mean().item() < 0.54


@pytest.mark.parametrize("seed", [0, 42, -1, 2**63 - 1, -(2**63)])
def test_a_seed_repeats_itself_and_entropy_does_not_matter(seed: int) -> None:
    def run(entropy: int) -> list[int]:
        sampler = create_sampler(Sampling(temperature=1.0, seed=seed), entropy)
        return [int(sampler(LOGPROBS).item()) for _ in range(30)]

    assert run(1) == run(2)


def test_without_a_seed_two_answers_differ() -> None:
    def run(entropy: int) -> list[int]:
        sampler = create_sampler(Sampling(temperature=1.0), entropy)
        return [int(sampler(LOGPROBS).item()) for _ in range(30)]

    assert run(1) != run(2)
