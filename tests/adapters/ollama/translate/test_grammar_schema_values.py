"""Random strict schemas: whatever Ollama's grammar writes for one fits it."""

from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from adapters.errors import InvalidRequestError
from adapters.ollama.translate.grammar_schema import to_grammar_schema

DEFINITIONS = ("p", "q")


class TooDeepError(Exception):
    """The random choices lead into endless recursion."""


class Schemas:
    """Random schemas of keywords that are enforced."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311

    def whole(self) -> dict[str, Any]:
        definitions = {name: self._any(2) for name in DEFINITIONS}
        return self._any(3) | {"$defs": definitions}

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _any(self, depth: int) -> dict[str, Any]:
        kinds = [self._leaf, self._leaf, self._object, self._list, self._union, self._all]
        return self._random.choice([*kinds, self._reference] if depth else kinds[:1])(depth - 1)

    def _leaf(self, _: int) -> dict[str, Any]:
        least = self._random.randint(-3, 3)
        return self._random.choice(
            [
                {"type": "null"},
                {"type": "integer", "minimum": least, "maximum": least + 4},
                {"type": ["integer", "null"], "exclusiveMinimum": least},
                {"type": "string", "minLength": 1, "maxLength": 3},
                {"type": ["string", "integer"], "maxLength": 2, "minimum": 0},
                {"enum": ["x", 1, None]},
                {"const": {"a": 1}},
            ]
        )

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample("abc", self._random.randint(0, 3))
        schema: dict[str, Any] = {"properties": {name: self._any(depth) for name in names}}
        schema["required"] = names[: self._random.randint(0, 3)]
        if self._chance(0.3):
            schema["additionalProperties"] = self._random.choice([False, self._leaf(0)])
        return schema | {"type": "object"}

    def _list(self, depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self._any(depth)}
        return schema | ({"minItems": 1, "maxItems": 2} if self._chance(0.4) else {})

    def _union(self, depth: int) -> dict[str, Any]:
        options = [self._any(depth) for _ in range(self._random.randint(1, 3))]
        beside = {"type": ["object", "string"]} if self._chance(0.3) else {}
        return beside | {self._random.choice(["anyOf", "oneOf"]): options}

    def _all(self, depth: int) -> dict[str, Any]:
        parts = [self._any(depth) for _ in range(self._random.randint(1, 2))]
        return {"allOf": parts} | (self._leaf(0) if self._chance(0.3) else {})

    def _reference(self, depth: int) -> dict[str, Any]:
        reference = {"$ref": f"#/$defs/{self._random.choice(DEFINITIONS)}"}
        return reference | (self._any(depth) if self._chance(0.4) else {})


class Values:
    """Random values of a rewritten schema, as llama.cpp's grammar of it writes them."""

    def __init__(self, seed: int, root: dict[str, Any]) -> None:
        self._random = Random(seed)  # noqa: S311
        self._root = root

    def any(self, schema: dict[str, Any], depth: int = 12) -> Any:
        if not depth:
            raise TooDeepError
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            return self.any(self._root["$defs"][name], depth - 1)
        if "anyOf" in schema:
            return self.any(self._random.choice(schema["anyOf"]), depth - 1)
        if "const" in schema or "enum" in schema:
            return self._random.choice(schema.get("enum", [schema.get("const")]))
        types = schema["type"]
        kind = types if isinstance(types, str) else self._random.choice(types)
        return getattr(self, f"_{kind}")(schema, depth - 1)

    def _null(self, *_: Any) -> None:
        return None

    def _boolean(self, *_: Any) -> bool:
        return True

    def _number(self, *_: Any) -> float:
        return self._random.choice([-3, 0, 1.5, 7])

    def _integer(self, schema: dict[str, Any], _: int) -> int:
        least = schema.get("minimum", schema.get("maximum", 9) - 20)
        return self._random.randint(least, schema.get("maximum", least + 20))

    def _string(self, schema: dict[str, Any], _: int) -> str:
        least = schema.get("minLength", 0)
        return "é" * self._random.randint(least, schema.get("maxLength", least + 4))

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        count = self._random.randint(least, schema.get("maxItems", least + 2))
        return [self.any(schema["items"], depth) for _ in range(count)]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name, part in schema.get("properties", {}).items():
            if name in schema.get("required", ()) or self._random.random() < 0.4:
                value[name] = self.any(part, depth)
        others = schema.get("additionalProperties", False)
        if isinstance(others, dict) and "other" not in value:
            value["other"] = self.any(others, depth)
        return value


def written(seed: int, schema: dict[str, Any]) -> list[Any]:
    values, found = Values(seed, schema), []
    for _ in range(5):
        try:
            found.append(values.any(schema))
        except TooDeepError:
            continue
    return found


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """True also where the validator follows `{"$ref": "#/$defs/p"}` as p for ever."""
    try:
        return Draft202012Validator(schema).is_valid(value)
    except RecursionError:
        return True


@pytest.mark.parametrize("seed", range(20))
def test_what_the_grammar_of_a_strict_schema_writes_fits_it(seed: int) -> None:
    schemas, checked = Schemas(seed), 0
    for turn in range(40):
        schema = schemas.whole()
        try:
            grammar = to_grammar_schema(schema, "schema", strict=True)
        except InvalidRequestError:
            continue
        if not grammar.must_check:
            for value in written(turn, grammar.schema):
                assert fits(value, schema), (schema, grammar, value)
                checked += 1
    assert checked > 50
