"""Every command and snippet of README and docs is run, or says why not; every link leads somewhere.

`sh`: `tandem` commands are parsed by the CLI, `curl` commands run against a server. `python`: run,
against a server where the snippet has its address. `yaml`: decoded as `config.yaml`. `json`:
parsed.
"""

import asyncio
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend
from servers.served import served
from servers.server_process import serving

from adapters.backend import Model
from proxy.cli import main
from proxy.cli.app import to_command
from proxy.config import Config, load_config
from proxy.errors import BACKEND_ERRORS, HTTP_ERRORS, RATE_LIMITED, UNAUTHORIZED
from proxy.routes import routing
from tools.markdown_pages import (
    DOCS,
    MAPS,
    PAGES,
    README,
    ROOT,
    Block,
    anchors,
    blocks,
    commands,
    links,
    prose,
)

ADDRESS = "127.0.0.1:8006"
ALL = [block for page in PAGES for block in blocks(page)]
RUN_BY_CI = (
    "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet uv",
    "python3 -m uv run pytest",
)
"""The halves of README's second `sh` block, which `.ci/run` runs."""
PERSONS = re.compile(
    r"\b(who|whoever|whom|whose|nobody|somebody|someone|anybody|everybody|everyone|those who)\b",
    re.IGNORECASE,
)
WRITTEN = (*PAGES, *MAPS, ROOT / "SECURITY.md")


def of(language: str) -> list[Block]:
    """The blocks in `language` that have to run."""
    return [block for block in ALL if block.language == language and block.reason is None]


def python(*, with_server: bool) -> list[Block]:
    return [block for block in of("python") if (ADDRESS in block.text) is with_server]


def test_there_are_snippets_of_every_kind() -> None:
    assert {block.language for block in ALL} == {"sh", "python", "yaml", "json", "text"}
    assert all(of(language) for language in ("sh", "python", "yaml", "json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_a_block(page: Path) -> None:
    fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_marker_precedes_a_block_and_gives_a_reason(page: Path) -> None:
    reasons = [block.reason for block in blocks(page) if block.reason is not None]
    assert page.read_text(encoding="utf-8").count("<!-- not run") == len(reasons)
    assert all(len(reason.split()) > 2 for reason in reasons)


def tiered(cases: list[Block]) -> list[Any]:
    """The blocks as parameters; those of README are not `long`."""
    return [
        pytest.param(block, marks=() if block.page == README else pytest.mark.long, id=str(block))
        for block in cases
    ]


def to_tandem(words: list[str]) -> list[str] | None:
    """The arguments of a `tandem` command, also behind `uv run`."""
    if "tandem" in words and (words[0] == "tandem" or "uv" in words[: words.index("tandem")]):
        return words[words.index("tandem") + 1 :]
    return None


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of `tandem WORDS` with a configuration that does not exist.

    Arguments are parsed before the configuration is read, and nothing runs after that.
    """
    monkeypatch.setenv("TANDEM_CONFIG", "/nonexistent/config.yaml")
    return main(words)


def parse_alone(words: list[str]) -> bool:
    """True for a command that needs no valid configuration; its arguments are parsed here."""
    if words[:1] in (["version"], ["doctor"]):
        group = to_command()
        name, command, rest = group.resolve_command(group.make_context("tandem", words), words)
        command.make_context(name, rest)
        return True
    return words in (
        ["config", "path"],
        ["config", "schema"],
        ["service", "status"],
        ["service", "uninstall"],
        ["--install-completion"],
    )


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.language == "sh"], ids=lambda block: str(block)
)
def test_every_tandem_command_is_one(
    block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, words in commands(block):
        arguments = to_tandem(words)
        if arguments is not None and not parse_alone(arguments):
            assert parse(arguments, monkeypatch) == 2
            assert "/nonexistent/config.yaml" in capsys.readouterr().err


TASKS = ("start", "cli", "clients", "speed", "troubleshooting", "from-ollama", "from-litellm")
"""Pages with commands that a server with any model runs."""


@pytest.mark.long
@pytest.mark.process
def test_every_tandem_command_of_the_task_pages_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = "[SmolLM2-135M-Instruct, fast]"
    config = tmp_path / "config.yaml"
    config.write_text(f"backends: {{mlx: null, ollama: null, echo: {{models: {models}}}}}")
    monkeypatch.setenv("TANDEM_CONFIG", str(config))
    monkeypatch.setattr("sys.stdin", None)  # It is closed: pytest's own raises when it is read.
    tasks = [block for block in of("sh") if block.page.stem in TASKS]
    run = [words for block in tasks for _, words in commands(block) if to_tandem(words) is not None]
    assert len(run) > 15
    with serving(config) as server:
        monkeypatch.setenv("TANDEM_URL", f"http://127.0.0.1:{server.port}")
        for words in run:
            assert main(to_tandem(words)) == 0, words
            captured = capsys.readouterr()
            assert captured.out or captured.err, words


@pytest.mark.parametrize("words", [["serve", "--address", "x"], ["fetch", "m"], ["pull"]])
def test_a_wrong_command_is_noticed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse(words, monkeypatch)


def test_every_other_command_runs_somewhere_or_says_why_not() -> None:
    for block in of("sh"):
        for command, words in commands(block):
            known = words[0] == "curl" or to_tandem(words) is not None or command in RUN_BY_CI
            assert known, f"{block}: {command}"


@asynccontextmanager
async def scripted_server() -> AsyncIterator[int]:
    """The port of a server with a scripted MLX, for snippets in which only the API counts."""
    mlx = ScriptedBackend(kind="mlx", models=[Model(name="SmolLM2-135M-Instruct")])
    async with served(mlx) as port:
        yield port


async def run(port: int, *command: str) -> str:
    """Standard output of `command` with the address of the server on `port`."""
    process = await asyncio.create_subprocess_exec(
        *(part.replace(ADDRESS, f"127.0.0.1:{port}") for part in command),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no `curl` on PATH")
async def test_every_curl_command_is_answered() -> None:
    curls = [
        command for block in of("sh") for command, words in commands(block) if words[0] == "curl"
    ]
    assert len(curls) > 5
    async with scripted_server() as port:
        for command in curls:
            output = await run(port, "bash", "-c", command)
            answers = [json.loads(line) for line in output.splitlines()]
            assert answers
            assert all("error" not in answer for answer in answers)


@pytest.mark.process
@pytest.mark.parametrize("block", tiered(python(with_server=True)))
async def test_a_snippet_for_a_server_is_answered(block: Block) -> None:
    async with scripted_server() as port:
        output = await run(port, sys.executable, "-c", block.text)
    assert "Hello" in output


@pytest.mark.long
@pytest.mark.process
def test_the_snippets_without_a_server_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty cache: the bundled model is offered where there is no other.
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snippets = [block.text for block in python(with_server=False)]
    # In one process: the import of mlx takes longer than the answers.
    command = [sys.executable, "-c", "\n".join(snippets)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Paris") == len(snippets) == 2


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: str(block))
def test_a_configuration_is_valid(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in re.findall(r"env:(\w+)", block.text):
        monkeypatch.setenv(variable, "a-key-0123456789")
    path = tmp_path / "config.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert load_config(path) != Config()


@pytest.mark.parametrize("block", of("json"), ids=lambda block: str(block))
def test_json_is_an_object(block: Block) -> None:
    assert isinstance(json.loads(block.text), dict)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_to_every_page() -> None:
    targets = {link.partition("#")[0] for link in links(README)}
    assert {str(page.relative_to(ROOT)) for page in (*DOCS, *MAPS)} <= targets


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.parent.name)
def test_every_path_of_a_map_exists(page: Path) -> None:
    cells = re.findall(r"^\| (`.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    paths = [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]
    assert len(paths) > 15
    missing = [path for path in paths if not (page.parent / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.parent.name)
def test_a_map_has_every_folder_of_its_package(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = [path.parent for path in page.parent.glob("*/__init__.py")]
    assert folders
    assert not [folder.name for folder in folders if f"`{folder.name}/" not in text]


def test_every_path_named_in_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [
        f"/{path.relative_to(ROOT)}"
        for folder in ("adapters", "proxy", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    paths = re.findall(r"`([\w/]+\.py)`", text)
    assert len(paths) > 50
    missing = [path for path in paths if not any(file.endswith(f"/{path}") for file in files)]
    assert not missing


def test_every_decision_has_context_decision_cost_and_revisit() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, decisions = text.partition("\n## Decisions\n")
    sections = re.split(r"^#### ", decisions, flags=re.MULTILINE)[1:]
    assert len(sections) > 80
    for section in sections:
        title, _, body = section.partition("\n")
        labels = re.findall(r"^- (\w+): ", body, re.MULTILINE)
        assert labels == ["Context", "Decision", "Cost", "Revisit"], title


def test_the_api_page_has_every_address() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = {re.sub(r"\{.*?\}", "{id}", route.path_format) for route in routing().routes}
    assert len(paths) > 10
    assert not [path for path in paths if not re.search(rf"{re.escape(path)}[`?]", text)]


def test_the_api_page_has_every_code() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = [*BACKEND_ERRORS.values(), *(row for row, _ in HTTP_ERRORS.values())]
    rows += [UNAUTHORIZED, *RATE_LIMITED.values()]
    codes = {row.code for row in rows if row.code}
    assert len(codes) > 10
    assert not [code for code in codes if f"`{code}`" not in text]


def exists(dotted: str) -> bool:
    """Return true for a module, and for a name in a module or in a class."""
    module, _, name = dotted.rpartition(".")
    try:
        if find_spec(dotted) is not None:
            return True
    except ModuleNotFoundError:
        # `dotted` is a name in a class: its module is one part further up.
        return exists(module) and hasattr(_resolve(module), name)
    return hasattr(importlib.import_module(module), name)


def _resolve(dotted: str) -> object:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_names_that_moved_are_where_the_changes_say() -> None:
    text = (ROOT / "docs" / "changes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[\w.]+.*?\| .*?`((?:adapters|proxy)\.[\w.]+)", text, re.MULTILINE)
    assert len(rows) > 50
    assert not [dotted for dotted in rows if not exists(dotted)]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_are_no_persons(page: Path) -> None:
    assert PERSONS.findall(prose(page)) == []
