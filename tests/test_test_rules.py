"""Rules for the tests: no patches of the project's functions, no private attributes, no sleeps.

Only what the syntax shows is checked: a patch by the path or the imported name of a project object,
and `._name` on an object other than `self` and `cls`. A name that a test computes is not seen.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROJECT = ("adapters", "proxy", "tools")

PUBLIC = frozenset({"_replace", "_asdict", "_fields", "_make"})
"""Methods of named tuples, which begin with an underscore to collide with no field."""
FOREIGN = frozenset({"_freqs", "_request_id"})
"""Private attributes of libraries without a public way: the frequencies of MLX's RoPE; and the id
that OpenAI's SDK documents by this name."""


WRAPS = frozenset({"recorder/plugin.py"})
"""Files that put something around every application, those that tests create included."""
PAUSES = frozenset({"fakes/waiting.py"})
"""The file that polls what sends no event, and delays scripted servers."""


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imported(tree: ast.AST) -> frozenset[str]:
    """Return the names that are bound to objects of the project by imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {
                    each.asname or each.name.partition(".")[0]
                    for each in aliases
                    if each.name.partition(".")[0] in PROJECT
                }
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                if module.partition(".")[0] in PROJECT:
                    names |= {each.asname or each.name for each in aliases}
            case _:
                pass
    return frozenset(names)


def root(node: ast.expr) -> str | None:
    """Return the name that a chain of attributes begins with; `None` for anything else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def is_project_patch(call: ast.Call, project: frozenset[str]) -> bool:
    """Return true for `x.setattr(...)` of a private name or of a part of the project.

    A library that is reached through a module of the project is patched by its own name instead.
    """
    match call:
        case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=[target, *rest]):
            pass
        case _:
            return False
    if isinstance(target, ast.Constant):
        path = str(target.value).split(".")
        return path[0] in PROJECT or any(map(private, path))
    names = [each.value for each in rest[:1] if isinstance(each, ast.Constant)]
    return root(target) in project or any(private(str(name)) for name in names)


def project_patches(source: str) -> list[int]:
    """List the lines that patch a function, a class or a constant of the project."""
    tree = parse(source)
    project = imported(tree)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if is_project_patch(call, project)]


def private_names(source: str) -> list[int]:
    """List the lines that use a private attribute, or import a private name of the project."""
    return sorted(_private_names(parse(source)))


def _private_names(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if private(name) and name not in PUBLIC | FOREIGN:
                yield node.lineno
            case ast.ImportFrom(module=str(module), names=aliases, lineno=line):
                if module.partition(".")[0] in PROJECT and any(private(a.name) for a in aliases):
                    yield line
            case _:
                pass


def sleeps(source: str) -> list[int]:
    """List the lines that sleep for a time; `sleep(0)`, a turn of the event loop, takes none."""
    calls = (node for node in ast.walk(parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if is_sleep(call)]


def is_sleep(call: ast.Call) -> bool:
    match call:
        case ast.Call(args=[ast.Constant(value=0)]):
            return False
        case ast.Call(func=ast.Name(id="sleep")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr="sleep")):
            return module in {"anyio", "asyncio", "time"}
        case _:
            return False


FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.slow
def test_no_test_patches_the_project() -> None:
    found = {str(path.relative_to(TESTS)): project_patches(path.read_text()) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines and path not in WRAPS} == {}


@pytest.mark.slow
def test_no_test_uses_private_names() -> None:
    found = {str(path.relative_to(TESTS)): private_names(path.read_text()) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.slow
def test_no_test_sleeps_to_synchronise() -> None:
    """Events, `until` and a `Clock` wait for what is meant; `pause` is for a slow peer."""
    found = {str(path.relative_to(TESTS)): sleeps(path.read_text()) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines and path not in PAUSES} == {}


@pytest.mark.parametrize(
    "source", ["time.sleep(1)", "await asyncio.sleep(x)", "sleep(0.1)", "f(anyio.sleep(9))"]
)
def test_sleeps_are_found(source: str) -> None:
    assert sleeps(source) == [1]


@pytest.mark.parametrize("source", ["await asyncio.sleep(0)", "clock.sleep(1)", "until(x)"])
def test_other_waits_are_allowed(source: str) -> None:
    assert sleeps(source) == []


@pytest.mark.parametrize(
    "source",
    [
        'patch.setattr("proxy.images.fetch.Fetcher.fetch", fetch)',
        'from adapters.mlx.models import catalog\npatch.setattr(catalog, "find", 1)',
        'from adapters.mlx.models.load import Loading as L\npatch.setattr(L, "advance", 1)',
        'import adapters.echo\nmonkeypatch.setattr(adapters.echo, "SECONDS", 1)',
        'from adapters.mlx import blas\npatch.setattr(blas.ctypes, "CDLL", 1)',
        'patch.setattr(backend, "_engine", 1)',
        'patch.setattr("library._name", 1)',
        'from proxy import app\npatch.delattr(app, "x")',
    ],
)
def test_patches_of_the_project_are_found(source: str) -> None:
    assert project_patches(source) == [len(source.splitlines())]


@pytest.mark.parametrize(
    "source",
    [
        'patch.setattr(sys, "platform", "darwin")',
        'patch.setattr("mlx.core.device_info", info)',
        'patch.setenv("adapters", "x")',
        'from adapters.x import y\npatch.setitem(sys.modules, "numpy", None)',
    ],
)
def test_patches_of_libraries_are_allowed(source: str) -> None:
    assert project_patches(source) == []


@pytest.mark.parametrize(
    "source",
    ["backend._engine", "x = f()._a", "self.engine._a = 1", "from proxy.app import _x", "a._b.c"],
)
def test_private_names_are_found(source: str) -> None:
    assert private_names(source) == [1]


@pytest.mark.parametrize(
    "source", ["self._a", "cls._b = 1", "x.__class__", "usage._replace(free=1)", "rope._freqs"]
)
def test_other_names_are_allowed(source: str) -> None:
    assert private_names(source) == []
