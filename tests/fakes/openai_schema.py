"""Validators of OpenAI's OpenAPI document."""

from typing import Any

from jsonschema import Draft202012Validator


def validators(components: dict[str, Any], *names: str) -> list[Draft202012Validator]:
    """Return a validator of each of the schemas `names` in the document's `components`."""
    root = {"components": _plain(components)}
    return [
        Draft202012Validator({**root, "$ref": f"#/components/schemas/{name}"}) for name in names
    ]


def _plain(schema: Any) -> Any:
    """Write OpenAPI 3.0's `nullable` in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") is True:
        return {"anyOf": [plain, {"type": "null"}]}
    return plain
