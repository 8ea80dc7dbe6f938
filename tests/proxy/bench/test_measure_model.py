"""`tandem bench MODEL`: the requests to each backend, their order, and the result."""

import json
import subprocess
from pathlib import Path

import pytest
from fakes.scripted_backend import DONE, ScriptedBackend
from fakes.tiny_model import write_tiny_model
from servers.server_process import command, serving, write

from adapters.backend import Model
from adapters.errors import BackendUnavailableError, ContextLengthError, GenerationError
from adapters.events import Started, TextDelta
from adapters.request import GenerationRequest, Message
from adapters.sink import Sink
from proxy.bench.measure_model import ModelPlan, bench_model, make_prompt
from proxy.bench.results import Result, Scenario
from proxy.cli.bench import with_subject
from proxy.config import Config, ModelConfig

PLAN = ModelPlan(model="small", clients=(1, 2), rounds=2, max_tokens=5)
BOTH = Config(models={"small": ModelConfig(names={"mlx": "m", "ollama": "m:1"})})


class BackendModels(ScriptedBackend):
    """Loads its model on the first request; logs prompts to `log`, which all backends share."""

    def __init__(self, kind: str, name: str, log: list[tuple[str, str]]) -> None:
        super().__init__(kind=kind, models=[Model(name=name, loaded=False)])
        self.log = log
        self.is_loaded = False

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        self.is_loaded = True

    async def unload(self, model: str) -> None:
        self.is_loaded = False

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        self.requests.append(request)
        self.log.append((self.kind, text_of(request)))
        sink.write(Started(cold=not self.is_loaded))
        self.is_loaded = True
        sink.write(TextDelta("a"))
        sink.write(DONE)


def text_of(request: GenerationRequest) -> str:
    assert isinstance(request.prompt, tuple)
    last: Message = request.prompt[-1]
    return "".join(part.text for part in last.content if hasattr(part, "text"))  # type: ignore[union-attr]


def ignore(_text: str, _done: int, _total: int) -> None:
    pass


async def run(
    plan: ModelPlan = PLAN, config: Config = BOTH
) -> tuple[Result, list[tuple[str, str]], list[BackendModels]]:
    log: list[tuple[str, str]] = []
    backends = [BackendModels("mlx", "m", log), BackendModels("ollama", "m:1", log)]
    result = await bench_model(
        config, plan, ignore, {backend.kind: backend for backend in backends}
    )
    return result, log, backends


async def test_each_scenario_is_measured_on_each_backend():
    result, _, _ = await run()
    assert [one.backend for one in result.contestants] == ["mlx", "ollama"]
    assert [
        (scenario.state, scenario.prompt, scenario.clients) for scenario in result.scenarios()
    ] == [
        ("warm", "short", 1),
        ("warm", "short", 2),
        ("warm", "long", 1),
        ("warm", "long", 2),
        ("again", "long", 1),
        ("cold", "short", 1),
        ("cold", "short", 2),
    ]
    for scenario in result.scenarios():
        rows = result.rows_of(scenario)
        assert [row.backend for row in rows] == ["mlx", "ollama"]
        assert [row.answers for row in rows] == [2 * scenario.clients] * 2
        assert all(row.ttft_p95_s >= row.ttft_p50_s > 0 for row in rows)
        assert all(row.together > 0 for row in rows)


async def test_backends_get_the_same_prompts_in_turns():
    _, log, _ = await run(ModelPlan(model="small", clients=(1,), rounds=2))
    short = [(kind, text) for kind, text in log if len(text) < 300][:4]
    # The first position rotates.
    assert [kind for kind, _ in short] == ["mlx", "ollama", "ollama", "mlx"]
    texts = [text for _, text in short]
    assert texts[0] == texts[1] != texts[2] == texts[3]


async def test_prompts_have_no_common_prefix():
    _, log, _ = await run()
    _, later, _ = await run()
    texts = [text for kind, text in (*log, *later) if kind == "mlx"]
    # Repeated prompts are those of the scenario `again`.
    again = 2 * PLAN.rounds
    assert len(texts) - len({text[:40] for text in texts}) == again


async def test_only_cold_answers_wait_for_a_load():
    result, _, _ = await run()
    assert {row.scenario.state for row in result.rows if row.loads} == {"cold"}
    # This backend is loaded by the first request of a round.
    assert result.rows_of(Scenario("cold", "short", 1))[0].loads == 2


async def test_answers_are_limited_and_greedy():
    _, _, backends = await run()
    for request in backends[0].requests:
        assert request.max_tokens in (1, 5)
        assert request.sampling.temperature == 0


async def test_model_of_one_backend_is_measured_alone():
    result, _, backends = await run(ModelPlan(model="mlx/small", clients=(1,), rounds=1))
    assert {row.backend for row in result.rows} == {"mlx"}
    assert backends[1].requests == []


async def test_unreachable_backend_is_left_out():
    log: list[tuple[str, str]] = []
    away = ScriptedBackend(kind="ollama", models=BackendUnavailableError("down"))
    backends = {"mlx": BackendModels("mlx", "m", log), "ollama": away}
    plan = ModelPlan(model="small", clients=(1,), rounds=1)
    result = await bench_model(BOTH, plan, ignore, backends)
    assert [one.backend for one in result.contestants] == ["mlx"]


async def test_failing_backend_is_named():
    broken = ScriptedBackend(
        (GenerationError("It broke."),), kind="ollama", models=[Model(name="m:1")]
    )
    backends = {"mlx": BackendModels("mlx", "m", []), "ollama": broken}
    with pytest.raises(RuntimeError, match=r"ollama: It broke\."):
        await bench_model(BOTH, PLAN, ignore, backends)


async def test_long_prompts_are_left_out_when_they_exceed_a_context():
    class Narrow(BackendModels):
        async def generate(self, request: GenerationRequest, sink: Sink) -> None:
            if len(text_of(request)) > 500:
                raise ContextLengthError("too long")
            await super().generate(request, sink)

    backends = {"mlx": BackendModels("mlx", "m", []), "ollama": Narrow("ollama", "m:1", [])}
    progress: list[str] = []
    result = await bench_model(BOTH, PLAN, lambda text, *_: progress.append(text), backends)
    assert {scenario.prompt for scenario in result.scenarios()} == {"short"}
    assert "long prompts are left out: they exceed the context of ollama" in progress


async def test_unknown_model_is_an_error():
    with pytest.raises(RuntimeError, match="'other' not found"):
        await run(ModelPlan(model="other"))


def test_prompts_of_a_length_have_equal_lengths():
    lengths = {len(make_prompt("long", f"k.{number}")) for number in range(9)}
    assert len(lengths) == 1
    assert len(make_prompt("short", "k.1")) * 5 < lengths.pop()


@pytest.mark.parametrize(
    ("argv", "expanded"),
    [
        (["bench", "qwen2.5:7b"], ["bench", "model", "qwen2.5:7b"]),
        (["bench", "--rounds", "2", "small"], ["bench", "model", "--rounds", "2", "small"]),
        (["bench", "engine", "--tiny"], ["bench", "engine", "--tiny"]),
        (["bench", "model", "engine"], ["bench", "model", "engine"]),
        (["bench", "--config", "f", "relay"], ["bench", "--config", "f", "relay"]),
        (["bench", "--help"], ["bench", "--help"]),
        (["bench"], ["bench"]),
        (["serve"], ["serve"]),
        ([], []),
    ],
)
def test_unknown_subject_is_a_model(argv: list[str], expanded: list[str]):
    assert list(with_subject(argv)) == expanded


@pytest.mark.long
@pytest.mark.process
def test_command_line_measures_a_model(tmp_path: Path):
    write_tiny_model(tmp_path / "models" / "tiny")
    mlx = f"{{folders: [{tmp_path / 'models'}], huggingface_cache: false}}"
    server = f"{{state_folder: {tmp_path}}}"
    config = write(tmp_path, f"server: {server}\nbackends: {{ollama: false, mlx: {mlx}}}\n")
    arguments = ("bench", "tiny", "--config", str(config), "--rounds", "1", "--clients", "1,2")
    done = subprocess.run(
        command(*arguments, "--max-tokens", "4", "--png", str(tmp_path / "it.png")),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "| short | cold | 2 | mlx |" in done.stdout
    assert "Only one backend has the model" in done.stdout
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    (kept,) = (tmp_path / "benchmarks").glob("*.json")
    rows = json.loads(kept.read_text())["result"]["rows"]
    cold = [row["loads"] for row in rows if row["scenario"]["state"] == "cold"]
    assert cold == [1, 2]
    assert not any(row["loads"] for row in rows if row["scenario"]["state"] != "cold")


@pytest.mark.process
def test_command_line_reports_an_unknown_model(tmp_path: Path):
    config = write(tmp_path, "backends: {ollama: false, mlx: false, echo: true}\n")
    done = subprocess.run(
        command("bench", "missing", "--config", str(config)), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "tandem: Model 'missing' not found." in done.stderr


@pytest.mark.ollama
@pytest.mark.long
def test_both_engines_are_measured_and_the_server_serves_the_result(
    ollama_host: str, tmp_path: Path
):
    write_tiny_model(tmp_path / "models" / "tiny")
    config = write(
        tmp_path,
        f"server: {{state_folder: {tmp_path}}}\n"
        f"backends: {{ollama: {{host: '{ollama_host}'}}, mlx: {{folders: [{tmp_path / 'models'}], "
        "huggingface_cache: false, embedded: never}}\n"
        "models: {both: {mlx: tiny, ollama: 'smollm2:135m'}}\n",
    )
    arguments = ("bench", "both", "--config", str(config), "--rounds", "1", "--clients", "2")
    done = subprocess.run(
        command(*arguments, "--max-tokens", "3"), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "It is unknown if these are the same weights" in done.stdout
    with serving(config) as server:
        status, body = server.get("/api/performance/comparison?model=both")
    assert status == 200
    (model,) = json.loads(body)["models"]
    (benched,) = model["benched"]
    assert not benched["stale"]
    found = {(row["backend"], row["scenario"]["state"]): row for row in benched["rows"]}
    assert set(found) == {(b, s) for b in ("mlx", "ollama") for s in ("warm", "again", "cold")}
    assert found["ollama", "cold"]["loads"] == 2
    assert found["ollama", "warm"]["loads"] == found["mlx", "warm"]["loads"] == 0
    assert found["ollama", "warm"]["memory_bytes"] > 100_000_000
    assert {verdict["cold"] for verdict in model["summary"]} == {False, True}
