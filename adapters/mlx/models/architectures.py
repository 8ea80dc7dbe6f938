"""Model types of the installed mlx-lm, read from its source: importing it takes seconds."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from msgspec import Struct


class Architecture(Struct, frozen=True):
    """A module of mlx-lm with a model class."""

    needs: tuple[str, ...]
    """Packages that it imports and that are not installed."""
    has_template: bool
    """True if its checkpoints need no chat template of their own."""


class _Remapping(Struct, frozen=True):
    """Model types with a module of another name, as `mlx_lm.utils` has them."""

    types: dict[str, str]
    architectures: dict[tuple[str, str], str]
    """Modules by model type and an entry of `architectures`."""


def module_of(config: dict[str, Any]) -> str:
    """Return the name of mlx-lm's module for a `config.json`."""
    kind, classes = str(config.get("model_type")), config.get("architectures") or ()
    remapping = _remapping()
    named = cast(list[object], [classes] if isinstance(classes, str) else classes)
    for name in named:
        if (module := remapping.architectures.get((kind, str(name)))) is not None:
            return module
    return remapping.types.get(kind, kind)


def unsupported(config: dict[str, Any]) -> str | None:
    """Return why mlx-lm cannot build the model of a `config.json`; `None` if it can."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return "its config.json names no model_type"
    if config.get("model_file") is not None:
        return "its config.json asks for code of its own (model_file), which is not run"
    architecture = read_module(module_of(config))
    if architecture is None:
        return f"mlx-lm {version('mlx-lm')} has no model type '{kind}'"
    if architecture.needs:
        return (
            f"the model type '{kind}' of mlx-lm needs the package '{architecture.needs[0]}', "
            "which is not installed"
        )
    return None


@cache
def read_module(name: str) -> Architecture | None:
    """Read the module `name` of mlx-lm; `None` if there is none with a model class."""
    path = _package() / "models" / f"{name}.py"
    # A name of a config.json is a part of a path here.
    if path.parent.name != "models" or not path.is_file():
        return None
    tree = ast.parse(path.read_bytes())
    if "Model" not in set(_defined(tree)):
        return None
    imported = (module for node in ast.walk(tree) for module in _absolute_imports(node))
    missing = (module for module in imported if find_spec(module) is None)
    defaults = _literal(tree, "TOKENIZER_DEFAULTS")
    return Architecture(tuple(dict.fromkeys(missing)), "chat_template_type" in defaults)


@cache
def _remapping() -> _Remapping:
    tree = ast.parse((_package() / "utils.py").read_bytes())
    types = _literal(tree, "MODEL_REMAPPING")
    return _Remapping(types, _literal(tree, "MODEL_ARCHITECTURE_REMAPPING"))


@cache
def _package() -> Path:
    spec = find_spec("mlx_lm")
    roots = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(roots or ()), "/mlx_lm is not installed"))


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of classes that a module defines or imports."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _absolute_imports(node: ast.AST) -> Iterator[str]:
    """Yield the packages that an import statement needs, without mlx-lm's own."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
        yield node.module.partition(".")[0]


def _literal(tree: ast.Module, name: str) -> dict[Any, Any]:
    """Return the dict that the module assigns to `name`; an empty one without it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return ast.literal_eval(node.value)
    return {}
