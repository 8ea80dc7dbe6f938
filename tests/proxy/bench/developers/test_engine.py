"""`tandem bench engine`: CPU times, tables, client timestamps, and one complete run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tiny_model import write_tiny_model
from servers.server_process import serving, write

from proxy.bench.developers.child_process import cpu_seconds, to_seconds
from proxy.bench.developers.engine import Plan, Schedule
from proxy.bench.developers.engine_client import Question, Target, ask
from proxy.bench.developers.tables import EngineResult, Row, engine_lines


@pytest.mark.process
def test_cpu_seconds_grow_with_work():
    before = cpu_seconds(os.getpid())
    sum(number * number for number in range(3_000_000))
    assert cpu_seconds(os.getpid()) > before


@pytest.mark.parametrize(
    ("cputime", "seconds"), [("0:01.50", 1.5), ("1:02:03", 3723.0), ("2-00:00:01.25", 172801.25)]
)
def test_cpu_time_of_ps_is_parsed(cputime: str, seconds: float):
    assert to_seconds(cputime) == seconds


def test_ratio_is_relative_to_the_first_contestant_at_the_same_clients():
    times = {"first_token_p50": 0.1, "first_token_p95": 0.2, "gap_p99": 0.003}
    rows = tuple(
        Row(contestant=name, clients=2, tokens_per_second=speed, cpu_per_token=0.001, **times)
        for name, speed in (("bare", 50.0), ("Tandem", 49.0))
    )
    row = "| 2 | Tandem | 49.0 | 0.98 | 100 | 200 | 3.0 | 1.00 |"
    assert row in list(engine_lines(EngineResult("", rows, {})))


def test_newcomers_are_compared_with_the_first_contestant():
    result = EngineResult("", (), {"mlx_lm.server": 0.5, "Tandem": 0.25})
    assert list(engine_lines(result))[-1].endswith("Tandem: 250 ms (0.50)")


def test_after_its_time_only_needed_steps_begin():
    steps: list[tuple[str, int, int]] = []
    plan = Plan("m", True, 2, 8, 1, clients=(1, 4), seconds=0)
    schedule = Schedule(plan, lambda *step: steps.append(step))
    begun = [schedule.begin(str(step), needed=step[0] == 0) for step in plan.steps()]
    assert begun == [True, True, False, False]
    assert steps[0] == ("(0, 1)", 0, 5)
    assert steps[3] == ("left out, for want of time: (1, 4)", 3, 5)


@pytest.mark.long
@pytest.mark.process
async def test_client_records_the_time_of_each_piece(tmp_path: Path):
    write_tiny_model(tmp_path / "models" / "tiny")
    mlx = f"{{folders: [{tmp_path / 'models'}], huggingface_cache: false}}"
    with serving(write(tmp_path, f"backends: {{ollama: false, mlx: {mlx}}}")) as server:
        timing = await ask(Target(server.port, "tiny"), Question("one two three", 5))
        assert timing.tokens == 5
        assert timing.began < timing.pieces[0]
        assert list(timing.pieces) == sorted(timing.pieces)
        with pytest.raises(RuntimeError, match="model_not_found"):
            await ask(Target(server.port, "missing"), Question("one", 3))


@pytest.mark.long
def test_engine_is_measured_beside_its_baselines():
    command = [sys.executable, "-m", "proxy", "bench", "engine", "--tiny", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--max-tokens", "64", "--newcomers", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("bare BatchGenerator", "mlx_lm.server", "Tandem"):
        assert f"| 8 | {name} |" in done.stdout
