"""Merge settings into a file of a client, which keeps all else that is in it, and its comments."""

import difflib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from proxy.connect.settings import Part


class MergeError(ValueError):
    """The file cannot be merged; the text says why, and what to do."""


def merged(part: Part) -> tuple[str, str]:
    """The text of the file as it is, empty if there is none, and as it will be.

    Raises:
        MergeError: it is not what the client writes, or cannot be read.
    """
    try:
        before = part.path.read_text(encoding="utf-8") if part.path.exists() else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise MergeError(f"{part.path} cannot be read: {exc}") from exc
    old = "" if part.is_own else before
    try:
        after = _MERGING[part.form](old, part)
    except MergeError:
        raise
    except Exception as exc:  # of three parsers, which have no common base
        reason = " ".join(str(exc).split())
        raise MergeError(
            f"{part.path} is no valid {part.form.upper()}, so nothing was changed: {reason}. "
            "Correct it, or add the settings by hand."
        ) from exc
    return before, after


def difference(path: Path, before: str, after: str) -> str:
    """A unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), str(path)
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def write(path: Path, before: str, after: str) -> Path | None:
    """Write the file, and keep the one before it beside it; returns the path of that one.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    if path.exists():
        backup = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
        backup.write_text(before, encoding="utf-8")
        backup.chmod(path.stat().st_mode & 0o777)
    # A link, as in a folder of dotfiles, stays one; that folder may be another file system.
    target = path.resolve()
    partial = target.with_name(f"{target.name}.tandem-new")
    partial.touch(mode=0o600)
    partial.write_text(after, encoding="utf-8")
    if backup is not None:
        partial.chmod(path.stat().st_mode & 0o777)
    partial.replace(target)
    return backup


def _json(text: str, part: Part) -> str:
    old: object = json.loads(text) if text.strip() else {}
    if not isinstance(old, dict):
        raise ValueError("it is no object")
    return json.dumps(_with(cast(Any, old), part), indent=2, ensure_ascii=False) + "\n"


def _toml(text: str, part: Part) -> str:
    import tomlkit

    return tomlkit.dumps(_with(tomlkit.parse(text), part))  # pyright: ignore


def _yaml(text: str, part: Part) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    old: Any = yaml.load(text)  # pyright: ignore[reportUnknownMemberType]
    stream = io.StringIO()
    yaml.dump(_with({} if old is None else old, part), stream)  # pyright: ignore
    return stream.getvalue()


_MERGING = {"json": _json, "toml": _toml, "yaml": _yaml}


def _with(old: Any, part: Part) -> Any:
    """Add the settings of `part` to those of the file."""
    missing = {key: value for key, value in part.initial.items() if key not in old}
    return _into(old, missing | part.content)


def _into(old: Any, new: dict[str, Any]) -> Any:
    """Set the values of `new` in `old`; tables are merged, and lists of named things by name."""
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            _into(there, cast(dict[str, Any], value))
        elif isinstance(there, list) and _are_named(value):
            _by_name(cast(list[Any], there), cast(list[Any], value))
        elif there != value:
            old[key] = value
    return old


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and "name" in item for item in cast(list[Any], value)
    )


def _by_name(there: list[Any], new: list[dict[str, Any]]) -> None:
    for item in new:
        places = [at for at, known in enumerate(there) if known.get("name") == item["name"]]
        if places:
            there[places[0]] = item
        else:
            there.append(item)


def rendered(part: Part) -> Iterator[str]:
    """The lines of the part alone, as they are in the client's file."""
    text = _MERGING[part.form]("", part)
    yield from text.rstrip("\n").split("\n")
