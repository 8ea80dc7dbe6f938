from typing import cast

import mlx.core as mx
import pytest

from adapters.mlx.engine.sampling import Drawing, RowNoise, report
from adapters.request import Sampling

LOGPROBS = mx.log(mx.array([[0.1, 0.5, 0.05, 0.35]]))


class Sampler:
    """One row that draws from `LOGPROBS` again and again."""

    def __init__(self, sampling: Sampling, entropy: int, prompt: list[int] | None = None) -> None:
        self._drawing = Drawing(
            [RowNoise(sampling, entropy, prompt or [], 1000)], LOGPROBS.shape[-1]
        )

    def draw(self) -> int:
        [token] = cast(list[int], self._drawing.draw(LOGPROBS).tolist())
        return token


def drawn(sampling: Sampling, times: int = 200) -> set[int]:
    sampler = Sampler(sampling, entropy=1)
    return {sampler.draw() for _ in range(times)}


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert drawn(Sampling(top_p=0.5), times=20) == {1}


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
        (Sampling(temperature=1.0, top_k=3, min_p=0.5), {1, 3}),
        (Sampling(temperature=1.0, top_k=3, top_p=0.52), {1}),
        (Sampling(temperature=0.01), {1}),
    ],
)
def test_only_the_tokens_that_are_allowed_are_drawn(sampling: Sampling, expected: set[int]) -> None:
    assert drawn(sampling) == expected


@pytest.mark.slow
def test_the_temperature_shapes_the_odds() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=5), entropy=0)
    share = sum(sampler.draw() == 1 for _ in range(2000)) / 2000
    assert 0.46 < share < 0.54


@pytest.mark.parametrize("seed", [0, 42, -1, 2**63 - 1, -(2**63)])
def test_a_seed_repeats_itself_and_entropy_does_not_matter(seed: int) -> None:
    def run(entropy: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), entropy)
        return [sampler.draw() for _ in range(30)]

    assert run(1) == run(2)


def test_without_a_seed_two_answers_differ() -> None:
    def run(entropy: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0), entropy)
        return [sampler.draw() for _ in range(30)]

    assert run(1) != run(2)


def test_the_penalties_count_the_whole_answer_and_nothing_else() -> None:
    # log(.5) - log(.35) = .357 and log(.35) - log(.1) = 1.25: each time it is said, a token loses
    # 1.0, and falls behind the next one.
    sampler = Sampler(Sampling(frequency_penalty=1.0), entropy=1)
    assert [sampler.draw() for _ in range(7)] == [1, 3, 1, 3, 0, 1, 2]


def test_the_presence_penalty_counts_a_token_once() -> None:
    sampler = Sampler(Sampling(presence_penalty=2.0), entropy=1)
    assert [sampler.draw() for _ in range(6)] == [1, 3, 0, 1, 1, 1]


def test_a_negative_penalty_holds_on_to_what_was_said() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=3, frequency_penalty=-2.0), entropy=1)
    said = [sampler.draw() for _ in range(60)]
    assert len(set(said[-40:])) == 1


@pytest.mark.parametrize(
    ("bias", "expected"),
    [({2: 100.0}, {2}), ({1: -100.0, 3: -100.0}, {0, 2}), ({0: -100.0, 2: -100.0}, {1, 3})],
)
def test_the_bias_forces_and_bans_tokens(bias: dict[int, float], expected: set[int]) -> None:
    assert drawn(Sampling(temperature=1.0, logit_bias=bias)) == expected


def test_a_bias_works_without_a_temperature() -> None:
    assert drawn(Sampling(logit_bias={1: -100.0}), times=3) == {3}


def test_a_repetition_penalty_counts_the_prompt_and_the_answer() -> None:
    # Logprobs are negative, so that the penalty multiplies: log(.5) * 4 falls behind log(.35), and
    # that, once said, behind log(.1) * 1: token 0; then all are penalised but token 2.
    sampler = Sampler(Sampling(repetition_penalty=4.0), entropy=1, prompt=[1])
    assert [sampler.draw() for _ in range(3)] == [3, 0, 1]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, [3, 1, 1, 1]),
        (-1, [3, 1, 1, 1]),
        (0, [1, 1, 1, 1]),
        (1, [3, 1, 3, 1]),
        (2, [3, 0, 1, 3]),
        (2000, [3, 1, 1, 1]),
    ],
)
def test_a_repetition_penalty_looks_back_as_far_as_it_may(
    window: int | None, expected: list[int]
) -> None:
    sampling = Sampling(repetition_penalty=4.0, repeat_last_n=window)
    sampler = Sampler(sampling, entropy=1, prompt=[0, 1])
    assert [sampler.draw() for _ in range(4)] == expected


MIXED = [
    Sampling(),
    Sampling(temperature=1.0, seed=42),
    Sampling(temperature=1.0, seed=42, top_p=0.6),
    Sampling(temperature=0.7, seed=1, top_k=2, min_p=0.1),
    Sampling(temperature=1.5, seed=2, min_p=0.3, frequency_penalty=0.4),
    Sampling(logit_bias={2: 5.0}, presence_penalty=1.0),
    Sampling(repetition_penalty=4.0, repeat_last_n=2),
    Sampling(temperature=1.0, seed=3, repetition_penalty=2.0, repeat_last_n=1),
    Sampling(repetition_penalty=4.0),
]


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    def run(samplings: list[Sampling]) -> list[list[int]]:
        drawing = Drawing([RowNoise(each, 7, [0], 1000) for each in samplings], 4)
        logits = mx.concatenate([LOGPROBS] * len(samplings))
        steps = cast(list[list[int]], [drawing.draw(logits).tolist() for _ in range(40)])
        return [list(row) for row in zip(*steps, strict=True)]

    assert run(MIXED) == [run([each])[0] for each in MIXED]


@pytest.mark.parametrize("row", [4, 6, 7])
def test_a_row_goes_on_where_it_was_when_its_company_changes(row: int) -> None:
    alone = Sampler(MIXED[row], entropy=7)
    expected = [alone.draw() for _ in range(20)]
    dice = [RowNoise(each, 7, [], 1000) for each in MIXED]
    found: list[int] = []
    for company in (dice, [dice[row]], dice[row - 1 : row + 1], dice[row:]):
        drawing = Drawing(company, 4)
        place = company.index(dice[row])
        for _ in range(5):
            tokens = cast(
                list[int], drawing.draw(mx.concatenate([LOGPROBS] * len(company))).tolist()
            )
            found.append(tokens[place])
        drawing.store()
    assert found == expected


def test_a_report_is_of_the_models_own_distribution_likeliest_first() -> None:
    logits = mx.concatenate([LOGPROBS + 3.0, LOGPROBS])
    drawn, ids, tops = report(logits[:1], mx.array([2]), 3)
    assert cast(list[float], mx.exp(drawn).tolist()) == pytest.approx([0.05])
    assert ids.tolist() == [[1, 3, 0]]
    assert cast(list[list[float]], mx.exp(tops).tolist())[0] == pytest.approx([0.5, 0.35, 0.1])


def test_a_report_of_no_alternatives_is_the_token_alone() -> None:
    drawn, ids, tops = report(LOGPROBS, mx.array([1]), 0)
    assert cast(list[float], mx.exp(drawn).tolist()) == pytest.approx([0.5])
    assert (ids.shape, tops.shape) == ((1, 0), (1, 0))
