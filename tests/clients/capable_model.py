"""A model that follows instructions by rules, in place of one that is too large for tests.

It calls the tools that have a word of the last message in their names, fills schemas with what that
message mentions, and repeats results of tools. What it proves is the wire, not an intelligence.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]


class Question(NamedTuple):
    text: str
    """The last message of the user."""
    results: tuple[str, ...] = ()
    """Results of tools since then."""
    tools: tuple[tuple[str, Schema], ...] = ()
    """Names and parameters of the tools that may be called."""
    must_call: bool = False
    schema: Schema | None = None
    """The schema of the answer; `{}` for any object."""
    conversation: str = ""
    """All texts, which may describe the object."""


class Call(NamedTuple):
    name: str
    arguments: Any


class Reply(NamedTuple):
    text: str = ""
    calls: tuple[Call, ...] = ()


def reply(question: Question) -> Reply:
    said = " ".join(question.results) or question.text
    filled = _Filled(said, may_call=not question.results)
    if wanted := list(_wanted(question)):
        return Reply(calls=tuple(Call(name, filled.value(each, each)) for name, each in wanted))
    if question.schema is not None:
        schema = filled.choose(question.schema)
        if schema.keys() <= {"type"}:  # Any object: which one is said in words.
            schema = _described(question.conversation)
        return Reply(json.dumps(filled.value(schema, question.schema), ensure_ascii=False))
    return Reply(f"The result is {said}" if question.results else f"You said: {said}")


def _wanted(question: Question) -> list[tuple[str, Schema]]:
    """The tools that are called: those mentioned first, and after their results another."""
    mentioned = list(_mentioned(question))
    if not question.must_call:
        return mentioned if not question.results else []
    if not question.results:
        return [*mentioned, *question.tools][:1]
    return [*(each for each in question.tools if each not in mentioned), *question.tools][:1]


def _described(conversation: str) -> Schema:
    """The schema that a text contains, or an object with the keys that it quotes."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"\{", conversation):
        try:
            found, _ = decoder.raw_decode(conversation, start.start())
        except ValueError:
            continue
        if "properties" in found:
            return found
    keys = re.findall(r"'(\w+)'", conversation)
    return {"properties": {key: {"type": "string"} for key in keys}}


def _mentioned(question: Question) -> Iterator[tuple[str, Schema]]:
    words = set(_words(question.text))
    for name, schema in question.tools:
        if words.intersection(_words(name)) - {"get", "the", "a"}:
            yield name, schema


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())


_EXAMPLES = {
    "date": "2026-11-29",
    "time": "12:30:00Z",
    "date-time": "2026-11-29T12:30:00Z",
    "duration": "P1D",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/a",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}
"""A string of each `format` that the grammar of an engine enforces."""


class _Filled:
    """Values of schemas, from the numbers and the names that a text mentions."""

    def __init__(self, text: str, may_call: bool) -> None:
        """`may_call`: of the schemas of calls and of an answer, a call is chosen."""
        self._text = text
        self._may_call = may_call
        self._numbers = iter(re.findall(r"-?\d+(?:\.\d+)?", text))
        quoted = re.findall(r"'([^']{2,40})'", text)
        places = re.findall(r"\b(?:in|for|of|is) ((?:[A-Z][\w.]*,? ?)+)", text)
        names = re.findall(r"\b[A-Z][a-z]+\b", text)
        self._name = (quoted or places or names[1:] or names or [text[:40]])[0].strip(" ,.?")

    def value(self, schema: Any, root: Schema) -> Any:
        if not isinstance(schema, dict):
            return {}
        if (chosen := self.choose(schema)) is not schema:
            return self.value(chosen, root)
        match schema:
            case {"$ref": str(reference)}:
                return self.value(_resolved(root, reference), root)
            case {"const": constant}:
                return constant
            case {"enum": [*values]}:
                named = [each for each in values if str(each).lower() in self._text.lower()]
                return (named or values)[0]
        return self._by_type(schema, root)

    def choose(self, schema: Schema) -> Schema:
        """`schema`, or one of its alternatives."""
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                return self._best(schema[keyword])
        return schema

    def _best(self, schemas: list[Any]) -> Any:
        """The first that is not null; a call of a tool that is mentioned, then an answer."""
        words = set(_words(self._text))

        def rank(schema: Any) -> tuple[bool, int]:
            name = schema.get("properties", {}).get("name", {}).get("const")
            if name is None:
                return schema.get("type") == "null", 1
            is_mentioned = bool(words.intersection(_words(name)))
            return False, (0 if self._may_call else 3) if is_mentioned else 2

        return min(schemas, key=rank)

    def _by_type(self, schema: Schema, root: Schema) -> Any:
        kind = schema.get("type", "object")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        match kind:
            case "integer":
                return int(float(next(self._numbers, schema.get("minimum", 1))))
            case "number":
                return float(next(self._numbers, schema.get("minimum", 1)))
            case "boolean":
                return True
            case "null":
                return None
            case "string":
                return self._string(schema)
            case "array":
                return [self.value(schema.get("items", {"type": "string"}), root)]
            case _:
                properties = schema.get("properties", {})
                return {name: self.value(each, root) for name, each in properties.items()}

    def _string(self, schema: Schema) -> str:
        """The name, or an example of what the grammar of an engine allows in its place."""
        if (example := _EXAMPLES.get(schema.get("format", ""))) is not None:
            return example
        pattern = schema.get("pattern", "")
        matching = (each for each in (self._name, *_EXAMPLES.values()) if re.search(pattern, each))
        return next(matching, self._name)


def _resolved(root: Schema, reference: str) -> Any:
    node: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        node = node[step]
    return node
