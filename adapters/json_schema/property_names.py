"""The keyword `propertyNames` of a JSON schema."""

from typing import Any, cast

_SAYING_NOTHING = frozenset({"title", "description", "$comment", "examples", "default"})


def allows_every_name(names: Any) -> bool:
    """True where the schema `names` of `propertyNames` excludes no key: keys are always strings.

    Zod writes `{"type": "string"}` for each record.
    """
    if not isinstance(names, dict):
        return names is True
    schema = cast(dict[str, Any], names)
    return schema.get("type", "string") == "string" and not schema.keys() - _SAYING_NOTHING - {
        "type"
    }
