"""Clients of others, each in an environment of its own, against both engines.

A client is a program in `programs/`, `check_NAME.py` for pytest or `check_NAME.mjs` for `node
--test`, and its packages in `pins.toml`. It is run once against each server, with these variables:

- `TANDEM_URL`: the server, without `/v1`
- `TANDEM_MODEL`, `TANDEM_EMBEDDING_MODEL`: names of models; the latter may be missing
- `TANDEM_ENGINE`: `mlx` or `ollama`
- `TANDEM_CAPABLE`: set if the model follows instructions, which a scripted one does by rules
"""

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from clients.conftest import Target

from tools.install_clients import Environment, environments

pytestmark = [pytest.mark.clients, pytest.mark.timeout(420)]

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("check_*.*"))
ENVIRONMENTS = environments()


_ASYNCIO = [
    *("-o", "asyncio_mode=auto"),
    # LangChain keeps its connections for the next test.
    *("-o", "asyncio_default_test_loop_scope=session"),
    *("-o", "asyncio_default_fixture_loop_scope=session"),
]
"""Options of pytest-asyncio."""


def _name(program: Path) -> str:
    return program.stem.removeprefix("check_")


def _targets(*, engine: str) -> list[object]:
    # A group of pytest-xdist runs in one process, so that each server is started once.
    group = pytest.mark.xdist_group(engine)
    # What a small model answers differs each time, and may end at a limit: not for every change.
    real = pytest.param(engine, engine, id=engine, marks=[group, pytest.mark.long])
    name = f"capable_on_{engine}"
    return [real, pytest.param(name, engine, id=f"scripted-{engine}", marks=group)]


@pytest.mark.parametrize(
    ("target", "engine"), [*_targets(engine="mlx"), *_targets(engine="ollama")]
)
@pytest.mark.parametrize("program", PROGRAMS, ids=_name)
def test_client(
    program: Path, target: str, engine: str, request: pytest.FixtureRequest, tmp_path: Path
):
    environment = ENVIRONMENTS[_name(program)]
    if not environment.is_installed:
        pytest.skip(f"run `python tools/install_clients.py {environment.name}` first")
    served: Target = request.getfixturevalue(target)
    variables = {
        "TANDEM_URL": f"http://127.0.0.1:{served.port}",
        "TANDEM_MODEL": served.model,
        "TANDEM_EMBEDDING_MODEL": served.embedding_model,
        "TANDEM_ENGINE": engine,
        "TANDEM_CAPABLE": "1" if served.is_capable else "",
    }
    results = tmp_path / "results.xml"
    done = subprocess.run(
        _command(environment, program, tmp_path, results),
        cwd=tmp_path,
        env=_environment_variables() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:]
    passed, skipped = _counts(results)
    print(f"{environment.name} on {target}: {passed} passed, {skipped} skipped")
    assert passed > 0


def _command(environment: Environment, program: Path, folder: Path, results: Path) -> list[str]:
    """Run a copy in `folder`: beside the program is what its runner must not find."""
    copied = str(shutil.copy(program, folder))
    if program.suffix == ".mjs":
        # Node looks for packages beside a program, and above it.
        (folder / "node_modules").symlink_to(environment.folder / "node_modules")
        spec = ["--test-reporter=spec", "--test-reporter-destination=stdout"]
        junit = ["--test-reporter=junit", f"--test-reporter-destination={results}"]
        return ["node", "--test", *spec, *junit, copied]
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--timeout=120"]
    settings = ["-c", os.devnull, "--rootdir", str(folder), *_ASYNCIO]
    junit = [f"--junitxml={results}"]
    return [str(environment.python), "-m", "pytest", *options, *settings, *junit, copied]


def _environment_variables() -> dict[str, str]:
    """Return the user's variables, without the ones that clients or Python would obey."""
    prefixes = ("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LANGCHAIN_", "LANGSMITH_", "PYTEST_", "COV_")
    left_out = {"PYTHONPATH", "VIRTUAL_ENV"}
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) and name not in left_out
    }


def _counts(results: Path) -> tuple[int, int]:
    cases = list(ElementTree.parse(results).iter("testcase"))  # noqa: S314 - written by us
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - skipped, skipped


def test_every_program_has_pins_and_every_pin_a_program():
    agents = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    programs = {_name(program) for program in PROGRAMS}
    assert programs <= set(ENVIRONMENTS) <= programs | agents


def test_pins_are_exact():
    for environment in ENVIRONMENTS.values():
        pins = environment.pins
        assert all("==" in package for package in pins.python)
        assert all("@" in package[1:] for package in pins.npm)
