"""Language of the sources: docstring openings, words for persons, places of development, names."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CHECKED = ("proxy", "adapters", "tools", "tests")
"""Folders with checked language."""
ABOUT_WORDS = frozenset({"tests/test_docs.py", "tests/test_language.py"})
"""Files that name the words themselves."""

OPENINGS = re.compile(
    r"\W*(of|as|by|what|those|who|whoever|whose|where|whether|how|when|with|nobody|somebody"
    r"|else)\b",
    flags=re.IGNORECASE,
)
"""First words that leave a docstring without a subject."""
PERSONS = re.compile(
    r"\b(who|whoever|whose|nobody|somebody|anybody|everybody)\b", flags=re.IGNORECASE
)
"""Words for persons. Programs are requests, clients, backends, servers, callers."""
ALLOWED_TEXTS: tuple[str, ...] = ("Who wrote Romeo and Juliet?", "Who painted the Mona Lisa?")
"""Texts in which words for persons are meant, such as the prompt of a benchmark."""

PLACES = re.compile(
    r"\bfounders?\b|\.\./shared\b|(?<![\w.~-])/(?:work|root|home/[a-z]\w*)(?![\w-])",
    flags=re.IGNORECASE,
)
"""Developers, and paths of their machines."""
EXAMPLE_PATHS = ("/home/ada", "/root/.ollama")
"""Paths that tests make up."""

BANNED_NAMES = frozenset(
    ("utils", "util", "helpers", "helper", "common", "core", "manager", "misc", "shared")
)
"""Names of modules and folders that say nothing about the content."""


class Finding(NamedTuple):
    line: int
    text: str


def docstrings(source: str) -> Iterator[Finding]:
    """Yield the docstrings of the module, of its classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield Finding(statement.lineno, text.strip())
                case _:
                    pass


def wrong_openings(source: str) -> list[Finding]:
    """List the docstrings that begin with a word of `OPENINGS`."""
    return [docstring for docstring in docstrings(source) if OPENINGS.match(docstring.text)]


def persons(source: str) -> list[Finding]:
    """List the lines with a word for a person, in code, comments and strings."""
    for text in ALLOWED_TEXTS:
        source = source.replace(text, "")
    lines = enumerate(source.splitlines(), 1)
    return [Finding(number, line.strip()) for number, line in lines if PERSONS.search(line)]


def places(text: str) -> list[Finding]:
    """List the lines that name developers or paths of their machines."""
    for path in EXAMPLE_PATHS:
        text = text.replace(path, "")
    lines = enumerate(text.splitlines(), 1)
    return [Finding(number, line.strip()) for number, line in lines if PLACES.search(line)]


def banned_names(path: Path) -> frozenset[str]:
    """Return the parts of `path` that are banned, without the suffix of the file."""
    return BANNED_NAMES.intersection(path.with_suffix("").parts)


def findings(find: Callable[[str], list[Finding]], files: list[Path]) -> dict[str, list[Finding]]:
    """Return the findings in each file that has any."""
    found = {relative(path): find(path.read_text(encoding="utf-8")) for path in files}
    return {path: lines for path, lines in found.items() if lines}


def checked_files() -> list[Path]:
    files = sorted(file for name in CHECKED for file in (ROOT / name).rglob("*.py"))
    return [file for file in files if relative(file) not in ABOUT_WORDS]


def written_files() -> list[Path]:
    """List the sources, tests and documents of the project, without recorded data and this file."""
    folders = [ROOT / name for name in ("proxy", "adapters", "tests", "tools", "docs")]
    patterns = ("*.py", "*.md", "*.yaml")
    files = {file for folder in folders for name in patterns for file in folder.rglob(name)}
    files |= {file for name in (*patterns, "*.toml") for file in ROOT.glob(name)}
    data = ROOT / "tests" / "data"
    return sorted(files - {Path(__file__), *data.rglob("*")})


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_to_check_exist():
    assert len(checked_files()) > 700
    names = {relative(path) for path in written_files()}
    assert {"README.md", "pyproject.toml", "proxy/app.py", "tests/conftest.py"} <= names


@pytest.mark.slow
def test_docstrings_begin_with_a_subject_or_a_verb():
    assert findings(wrong_openings, checked_files()) == {}


@pytest.mark.slow
def test_programs_are_not_persons():
    assert findings(persons, checked_files()) == {}


@pytest.mark.slow
def test_no_file_names_developers_or_their_machines():
    assert findings(places, written_files()) == {}


def test_modules_and_folders_have_telling_names():
    modules = [path.relative_to(ROOT) for path in written_files() if path.suffix == ".py"]
    assert [str(path) for path in modules if banned_names(path)] == []


@pytest.mark.parametrize(
    "source",
    [
        '"""What it costs."""',
        '"""`With` a quote."""',
        'class Clock:\n    """\n    Whoever sleeps by it.\n    """',
        'def f():\n    """by kind"""',
        'async def f():\n    if True:\n        x = 1\n        """Of x."""',
    ],
    ids=["module", "quoted", "class", "function", "attribute"],
)
def test_wrong_openings_are_found(source: str):
    assert len(wrong_openings(source)) == 1


@pytest.mark.parametrize(
    "source", ['"""Ask again."""', '"""Witness of it."""', 'x = "What it costs."', '""""""']
)
def test_other_openings_are_allowed(source: str):
    assert wrong_openings(source) == []


@pytest.mark.parametrize(
    "source",
    ['"""A client, who asks."""', "x = 1  # Nobody reads it.", 'x = f"{1} somebody\'s"', "who = 1"],
    ids=["docstring", "comment", "string", "name"],
)
def test_persons_are_found(source: str):
    assert persons(f"\n{source}\n") == [Finding(2, source)]


def test_words_that_contain_a_person_are_allowed():
    assert persons("whole = 1  # the whole; whoosh") == []


def test_allowed_texts_may_have_persons(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ALLOWED_TEXTS", ("Who wrote Faust?",))
    assert persons('x = "Who wrote Faust?"') == []
    assert persons('x = "Who wrote Faust? Who knows?"') != []


@pytest.mark.parametrize(
    "text",
    [
        "on the founders' machines",
        "see ../shared/plan.md",
        'Path("/work/main")',
        "cd /root && ls",
        "/home/bob/models",
        "in /home/ada or /home/eve",
    ],
)
def test_places_are_found(text: str):
    assert len(places(f"fine\n{text}\n")) == 1


@pytest.mark.parametrize(
    "text", ["GET /workers", "a/work/b", "~/root", "founded", "shared/x", "/home/ada/models"]
)
def test_other_paths_are_allowed(text: str):
    assert places(text) == []


@pytest.mark.parametrize("path", ["proxy/utils.py", "adapters/core/x.py", "tests/shared/x.py"])
def test_banned_names_are_found(path: str):
    assert banned_names(Path(path))
    assert not banned_names(Path("proxy/http/server.py"))
