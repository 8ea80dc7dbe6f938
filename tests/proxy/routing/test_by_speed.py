"""The fastest backend by measurements is used, without frequent changes."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.events import Usage
from adapters.request import GenerationRequest
from proxy.models.registry import Deployment
from proxy.routing.by_speed import SpeedChoice, SpeedChooser
from proxy.routing.candidates import Candidate
from proxy.routing.estimates import Estimates
from proxy.routing.measurements import Measurement, Measurements
from proxy.routing.requirements import Requirements

MINUTES = 60.0
SETTLING = 20
_ANY = Requirements()
REQUEST = GenerationRequest(model="m", prompt="Hi")


class World:
    """Two engines of known speed and a manual clock."""

    def __init__(self, mlx: float, ollama: float, noise: float = 0.0) -> None:
        self.now = 0.0
        self.seconds = {"mlx": mlx, "ollama": ollama}
        """Duration of an answer, by backend."""
        self.cold: set[str] = set()
        self.measurements, self.estimates = Measurements(), Estimates()
        self.chooser = SpeedChooser(self.measurements, self.estimates, lambda: self.now)
        self._noise, self._chance = noise, random.Random(7)  # noqa: S311

    def choose(
        self, *kinds: str, tokens: int = 50, requirements: Requirements = _ANY, **about: Any
    ) -> SpeedChoice:
        candidates = [
            Candidate(deployment=Deployment(backend=kind, name="m"), tokens=tokens, **about)
            for kind in kinds or self.seconds
        ]
        return self.chooser.choose(candidates, requirements)

    def ask(self, *kinds: str, tokens: int = 50, crowd: int = 1, **about: Any) -> str:
        """The backend that answers; measures the answer and advances the clock by a second."""
        choice = self.choose(*kinds, tokens=tokens, **about)
        self.chooser.note(choice)
        kind = choice.order[0].deployment.backend
        self.measure(kind, self.seconds[kind], tokens, crowd)
        self.now += 1
        return kind

    def measure(self, kind: str, seconds: float, tokens: int = 50, crowd: int = 1) -> None:
        took = seconds * (1 + self._chance.uniform(-self._noise, self._noise))
        self.measurements.record(
            Measurement(
                backend=kind,
                name="m",
                prompt_tokens=tokens,
                crowd=crowd,
                ttft=took / 2,
                cold=kind in self.cold,
                tokens_per_second=256 / (took / 2),
                memory=None,
            )
        )

    def asks(self, many: int, **about: Any) -> list[str]:
        return [self.ask(**about) for _ in range(many)]


def changes(kinds: list[str]) -> int:
    return sum(one != other for one, other in pairwise(kinds))


@pytest.mark.parametrize(("mlx", "ollama", "fastest"), [(1, 2, "mlx"), (2, 1, "ollama")])
def test_both_backends_are_tried_before_the_faster_one_is_kept(
    mlx: float, ollama: float, fastest: str
):
    kinds = World(mlx, ollama).asks(30)
    assert Counter(kinds[:8]) == {"mlx": 4, "ollama": 4}
    assert set(kinds[8:]) == {fastest}


def test_choosing_without_noting_changes_nothing():
    world = World(1, 2)
    for _ in range(12):
        choices = [world.choose().order[0].deployment.backend for _ in range(3)]
        assert choices == [world.ask()] * 3


def test_order_is_kept_without_measurements():
    world = World(1, 2)
    choice = world.choose(fit="evicts")
    assert (choice.rule, [each.deployment.backend for each in choice.order]) == (
        "order",
        ["mlx", "ollama"],
    )


def test_candidate_that_evicts_a_model_is_not_tried():
    world = World(1, 2)
    here = Candidate(deployment=Deployment(backend="ollama", name="m"), tokens=50, fit="loaded")
    there = Candidate(deployment=Deployment(backend="mlx", name="m"), tokens=50, fit="evicts")
    for _ in range(10):
        choice = world.chooser.choose([there, here], Requirements())
        world.chooser.note(choice)
        world.measure("ollama", 2)
        assert choice.order[0] is here
    world.measure("mlx", 1)  # A request named this backend.
    assert world.chooser.choose([there, here], Requirements()).order[0] is there


def test_answers_after_a_load_do_not_count():
    world = World(1, 2)
    world.measure("ollama", 2)
    world.cold = {"mlx"}
    world.measure("mlx", 0.1)
    world.measure("mlx", 0.1)
    assert world.choose().seconds.keys() == {"ollama"}


def test_incumbent_is_kept_for_a_small_gain():
    world = World(1, 1.3)
    world.asks(10)
    world.now += 20 * MINUTES
    for _ in range(20):
        world.measure("ollama", 0.9)
    assert world.ask() == "mlx"
    for _ in range(20):
        world.measure("ollama", 0.8)
    assert world.ask() == "ollama"


def test_incumbent_changes_at_most_once_in_ten_minutes():
    world = World(1, 2)
    world.asks(10)
    world.seconds = {"mlx": 4.0, "ollama": 2.0}
    assert changes(kinds := world.asks(20)) == 1  # The first choice may be put right at once …
    assert kinds[-1] == "ollama"
    world.seconds = {"mlx": 4.0, "ollama": 20.0}
    changed_at = world.now
    kinds = [world.ask() for _ in range(700)]
    assert changes(kinds) == 1  # … and it stays the incumbent.
    assert kinds.index("mlx") + changed_at == pytest.approx(10 * MINUTES + 25, abs=20)


@pytest.mark.slow
@pytest.mark.parametrize("faster", ["mlx", "ollama"])
def test_incumbent_is_kept_despite_noise(faster: str):
    other = {"mlx": "ollama", "ollama": "mlx"}[faster]
    for ratio in (1.0, 1.1, 1.25, 2.0):
        world = World(**{faster: 1.0, other: ratio}, noise=0.2)
        kinds = world.asks(1800)
        assert changes(kinds[8:]) <= (ratio == 1)  # In half an hour.
        if ratio > 1.2:
            assert set(kinds[20:]) == {faster}


def test_incumbent_changes_when_the_faster_becomes_the_slower():
    world = World(1, 1.5, noise=0.2)
    world.asks(20)
    world.now += 10 * MINUTES
    world.seconds["mlx"] = 3
    kinds = world.asks(30)
    assert changes(kinds) == 1
    assert set(kinds[6:]) == {"ollama"}


def test_unreachable_incumbent_is_skipped_and_used_again_later():
    world = World(1, 2)
    world.asks(20)
    assert [world.ask("ollama") for _ in range(5)] == ["ollama"] * 5
    assert world.ask() == "mlx"
    world.seconds["mlx"] = 9
    assert "ollama" in world.asks(10)  # That was no change: the one in ten minutes is still there.


def test_incumbent_that_is_no_candidate_stays_the_incumbent():
    world = World(1, 2)
    world.asks(20)
    assert (
        world.chooser.choose(
            [Candidate(deployment=Deployment(backend="ollama", name="m"), tokens=50)],
            Requirements(),
        )
        .order[0]
        .deployment.backend
        == "ollama"
    )
    assert world.asks(5) == ["mlx"] * 5


def test_slower_backend_is_tried_again_after_an_hour():
    world = World(1, 2)
    world.asks(20)
    world.now += 61 * MINUTES
    assert Counter(world.asks(10)) == {"mlx": 9, "ollama": 1}


def test_figures_of_adjacent_buckets_shorten_the_trial():
    world = World(1, 2)
    world.asks(20)
    assert world.choose(tokens=300).seconds["mlx"] == pytest.approx(1, rel=0.05)
    kinds = world.asks(10, tokens=300)
    assert Counter(kinds[:4]) == {"mlx": 2, "ollama": 2}
    assert set(kinds[4:]) == {"mlx"}


def test_long_prompts_and_concurrency_have_incumbents_of_their_own():
    world = World(1, 2)
    world.asks(20)
    world.seconds = {"mlx": 5.0, "ollama": 1.0}
    assert set(world.asks(20, tokens=5000)[10:]) == {"ollama"}
    assert world.ask() == "mlx"


def test_concurrent_requests_share_the_trials():
    world = World(1, 2)
    crowd: list[str] = []
    in_progress: list[tuple[str, str]] = []
    for _ in range(8):
        choice = world.choose()
        world.chooser.note(choice)
        kind = choice.order[0].deployment.backend
        crowd.append(kind)
        world.measurements.begin((kind, "m"))
        in_progress.append((kind, "m"))
    assert min(Counter(crowd).values()) >= 3
    assert world.choose().context.bucket.crowd == 3
    for key in in_progress:
        world.measurements.end(key)
    assert world.choose().context.bucket.crowd == 0


def test_other_requests_of_a_backend_count_against_it_alone():
    world = World(1, 2)
    world.asks(20)
    world.measure("mlx", 50, crowd=3)
    assert world.choose().order[0].deployment.backend == "mlx"
    for _ in range(2):
        world.measurements.begin(("mlx", "another"))
    choice = world.choose()
    assert choice.seconds["mlx"] == pytest.approx(50)
    assert choice.order[0].deployment.backend == "ollama"


def test_short_answer_goes_to_the_backend_with_the_lower_ttft():
    world = World(1, 1)
    for kind, ttft, speed in (("mlx", 0.1, 10.0), ("ollama", 1.0, 100.0)):
        for _ in range(4):
            world.measurements.record(
                Measurement(
                    backend=kind,
                    name="m",
                    prompt_tokens=50,
                    crowd=1,
                    ttft=ttft,
                    tokens_per_second=speed,
                    memory=None,
                )
            )
    for _ in range(40):
        world.estimates.learn(
            ("mlx", "m"), Requirements(), Usage(prompt_tokens=50, completion_tokens=100)
        )
    long = world.choose(fit="evicts")
    assert long.seconds == pytest.approx({"mlx": 10, "ollama": 2}, rel=0.05)
    assert long.order[0].deployment.backend == "ollama"
    assert (
        world.choose(fit="evicts", requirements=Requirements(max_tokens=2))
        .order[0]
        .deployment.backend
        == "mlx"
    )


def test_answer_in_one_piece_counts_with_its_ttft():
    world = World(1, 1)
    measured = Measurement(
        backend="mlx",
        name="m",
        prompt_tokens=50,
        crowd=1,
        ttft=3.0,
        tokens_per_second=None,
        memory=None,
    )
    world.measurements.record(measured)
    world.measurements.record(replace(measured, backend="ollama", ttft=2.0))
    assert world.choose().seconds == {"mlx": 3.0, "ollama": 2.0}


def test_swapped_speeds_are_noticed():
    world = World(1, 2, noise=0.2)
    world.asks(40)
    world.now += 10 * MINUTES
    world.seconds = {"mlx": 2.0, "ollama": 1.0}  # ollama has not been measured since.
    kinds = world.asks(60)
    assert set(kinds[SETTLING:]) == {"ollama"}
    assert changes(kinds) == 1


def test_slow_hour_of_the_faster_backend_costs_a_few_trials():
    world = World(1, 2)
    world.asks(40)
    world.now += 10 * MINUTES
    world.seconds["mlx"] = 1.5
    kinds = world.asks(500)
    assert Counter(kinds) == {"mlx": 496, "ollama": 4}
    assert changes(kinds) == 2


def test_much_slower_backend_is_tried_fewer_times():
    assert Counter(World(1, 5, noise=0.2).asks(20)) == {"mlx": 18, "ollama": 2}


def test_wrong_guess_is_corrected_at_once():
    world = World(1, 1)
    world.asks(20, fit="evicts")  # No backend is tried: mlx comes first.
    world.measure("mlx", 5, tokens=300)
    world.measure("ollama", 1, tokens=300)
    world.seconds = {"mlx": 1.0, "ollama": 3.0}
    kinds = world.asks(10, fit="evicts")
    assert kinds[0] == "ollama"  # By how it was with longer prompts.
    assert set(kinds[1:]) == {"mlx"}
