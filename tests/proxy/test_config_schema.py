"""The JSON schema of `config.yaml` accepts what the server accepts, and refuses what it refuses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import msgspec
import pytest

from proxy.config import ConfigError, load_config
from proxy.config_schema import to_schema

ROOT = Path(__file__).parents[2]


SCHEMA = to_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def validate(text: str) -> None:
    VALIDATOR.validate(msgspec.yaml.decode(text))


def test_schema_is_one():
    VALIDATOR.check_schema(SCHEMA)


def test_documented_file_is_valid():
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    validate(text)
    validate(text.replace("#~ ", "").replace("  echo: null ", "  #"))


class Place(NamedTuple):
    """A setting, and what makes a whole file of a value for it."""

    name: str
    schema: dict[str, Any]
    file: Callable[[Any], Any]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Merge references and `allOf` into one schema."""
    if "$ref" in schema:
        referred = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        return resolved(referred | {key: schema[key] for key in schema if key != "$ref"})
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for part in map(resolved, schema.get("allOf", ())):
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged |= part | {"required": required}
    return merged


def variants(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema, or those of which a value meets any."""
    schema = resolved(schema)
    return (
        [v for part in schema["anyOf"] for v in variants(part)] if "anyOf" in schema else [schema]
    )


def least(schema: dict[str, Any]) -> dict[str, object]:
    """The required settings of an object, with some value each."""
    parts = {name: resolved(schema["properties"][name]) for name in schema.get("required", ())}
    return {name: part.get("const", f"some-{name}-0123456789") for name, part in parts.items()}


def places(name: str, schema: dict[str, Any], file: Callable[[object], object]) -> Iterator[Place]:
    """Yield a setting and all settings below it."""
    yield Place(name, schema, file)
    for variant in variants(schema):
        base = least(variant) if "properties" in variant else {}
        parts = dict(variant.get("properties", {}))
        if isinstance(variant.get("additionalProperties"), dict):
            parts["box"] = variant["additionalProperties"]
        for key, part in parts.items():

            def with_part(value: object, key: str = key, base: Any = base) -> object:
                return file({**base, key: value})

            yield from places(f"{name}.{key}", part, with_part)
        if isinstance(variant.get("items"), dict):
            yield from places(f"{name}[]", variant["items"], lambda value: file([value]))


ANY = [None, True, 0, 1, -1, 2.5, 10**10, "", "a", "1", "5m", "-5m", "0s", "1h30.5m", [], ["a"], {}]
ANY += [{"no_such_key": 1}, {"a": 1}, [1], float("inf")]


def values(schema: dict[str, Any]) -> list[Any]:
    """Values of every kind, and those at the limits of this setting."""
    found = [*ANY]
    for variant in variants(schema):
        found += [*variant.get("enum", ()), *([variant["const"]] if "const" in variant else [])]
        bounds = [
            variant[key] for key in ("minimum", "exclusiveMinimum", "maximum") if key in variant
        ]
        found += [bound + step for bound in bounds for step in (-1, 0, 1)]
    return found


def refusal(path: Path, file: Any) -> str | None:
    """Return what the server says to this file, if it refuses its form."""
    path.write_bytes(msgspec.yaml.encode(file))
    try:
        load_config(path, {})
    except ConfigError as error:
        forms = [p.message for p in error.problems if p.message.startswith(FORM)]
        return forms[0] if forms else None
    return None


FORM = ("Expected ", "Invalid ", "Object ", "no kind of backend", "missing;")
"""Beginnings of what is said of a type, a limit or a key; else two settings or a name are wrong."""
PLACES = {place.name: place for place in places("", SCHEMA, lambda value: value)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_schema_and_server_accept_the_same_values(name: str, tmp_path: Path):
    place = PLACES[name]
    for value in values(place.schema):
        file = place.file(value)
        said = refusal(tmp_path / "config.yaml", file)
        if isinstance(value, str) and said and " <= " in said:
            continue  # A schema cannot compare a duration with a maximum.
        assert VALIDATOR.is_valid(file) == (said is None), (value, said)


def test_keys_are_described():
    definitions: dict[str, Any] = to_schema()["$defs"]
    port = definitions["ServerConfig"]["properties"]["allowed_hosts"]
    assert port["description"].startswith("Host names besides localhost")
