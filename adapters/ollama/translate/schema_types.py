"""Which values a part of a schema allows, as far as its types, constants and properties say."""

from typing import Any, cast

from adapters.json_schema.keywords import IS_OF, KEYWORDS_OF

Part = dict[str, Any]


def types_of(part: Part) -> list[str]:
    """Return the types of `part`, or what its keywords imply."""
    if "type" in part:
        return listed(part["type"])
    return [kind for kind, keywords in KEYWORDS_OF.items() if part.keys() & set(keywords)]


def listed(types: Any) -> list[str]:
    """Return the value of a keyword `type` as a list."""
    return cast(list[str], types) if isinstance(types, list) else [types]


def common_types(some: list[str], others: list[str]) -> list[str]:
    """Return the types that both have; every integer is a number."""
    common = [name for name in some if name in others or (name == "integer" and "number" in others)]
    if "integer" in others and "number" in some and "integer" not in common:
        common.append("integer")
    return common


def of_types(option: Any, types: list[str]) -> Any:
    """Return the schema `option` for values of `types` only, `False` where it has none."""
    if not isinstance(option, dict):
        return {"type": types} if option else False
    part = cast(Part, option)
    values = _values_of(part)
    if values and not any(IS_OF[name](value) for name in types for value in values):
        return False
    common = common_types(listed(part["type"]), types) if "type" in part else types
    return part | {"type": common} if common else False


def exclude_each_other(one: Any, other: Any) -> bool:
    """True where it is easily seen that no value fits both schemas."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one is False or other is False
    first, second = cast(Part, one), cast(Part, other)
    values, others = _values_of(first), _values_of(second)
    if values and others and not any(value in others for value in values):
        return True
    types = [types_of(first), types_of(second)]
    if all(types) and not common_types(*types):
        return True
    shared = set(first.get("required", ())) & set(second.get("required", ()))
    return types == [["object"], ["object"]] and any(
        exclude_each_other(*(part.get("properties", {}).get(name) for part in (first, second)))
        for name in shared
    )


def _values_of(part: Part) -> list[Any] | None:
    """Return the values that `part` names one by one, `None` where it names none."""
    return [part["const"]] if "const" in part else part.get("enum")
