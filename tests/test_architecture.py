"""Architecture: the direction of imports between packages."""

import ast
from functools import cache
from pathlib import Path

import pytest

import adapters
import proxy

ROOT = Path(__file__).parents[1]
ENGINES = {"mlx", "mlx_lm", "ollama", "transformers", "numpy"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def imports(path: Path) -> set[str]:
    """Return the dotted names of all imports of the file, also in functions.

    A relative import has the dots in front of its names.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def test_modules_to_check_exist():
    assert len(modules("adapters")) > 5
    assert len(modules("proxy")) > 10
    assert "proxy.config" in imports(ROOT / "proxy/app.py")


@pytest.mark.slow
def test_no_import_is_relative():
    for path in (*modules("adapters"), *modules("proxy")):
        assert not [name for name in imports(path) if name.startswith(".")], path


def test_adapters_do_not_know_the_proxy():
    for path in modules("adapters"):
        tops = {name.partition(".")[0] for name in imports(path)}
        assert tops & {"proxy", "litestar", "uvicorn"} == set(), path


def test_the_proxy_does_not_know_the_engines():
    for path in modules("proxy"):
        names = imports(path)
        assert {name.partition(".")[0] for name in names} & ENGINES == set(), path
        assert not [n for n in names if n.startswith(("adapters.mlx", "adapters.ollama"))], path


@pytest.mark.parametrize(
    ("folder", "others"),
    [
        ("mlx", ("adapters.ollama",)),
        ("ollama", ("adapters.mlx",)),
        ("chat_template", ("adapters.mlx", "adapters.ollama")),
    ],
)
def test_backend_does_not_know_the_other_one(folder: str, others: tuple[str, ...]):
    for path in modules(f"adapters/{folder}"):
        assert not [name for name in imports(path) if name.startswith(others)], path


def test_upstream_does_not_know_its_backends():
    for path in modules("adapters/upstream"):
        names = imports(path)
        assert not [n for n in names if n.startswith(("adapters.mlx", "adapters.ollama"))], path


@pytest.mark.parametrize("package", [adapters, proxy])
def test_packages_come_from_this_checkout(package: object):
    file = getattr(package, "__file__", None)
    assert file is not None
    assert Path(file).resolve().parents[1] == ROOT


def test_http_layer_knows_no_routing_endpoint_or_bench():
    allowed = {"access", "config", "errors", "record", "http"}
    for path in modules("proxy/http"):
        parts = {n.split(".")[1] for n in imports(path) if n.startswith("proxy.")}
        assert parts <= allowed, path


@pytest.mark.parametrize("dialect", ["openai", "ollama", "anthropic"])
def test_dialect_imports_no_other_dialect(dialect: str):
    others = {"openai", "ollama", "anthropic", "tandem"} - {dialect}
    for path in modules(f"proxy/endpoints/{dialect}"):
        names = [n for n in imports(path) if n.startswith("proxy.endpoints.")]
        assert not {n.split(".")[2] for n in names} & others, path
