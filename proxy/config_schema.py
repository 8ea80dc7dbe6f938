"""The JSON schema of `config.yaml`, with which editors complete and check it."""

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any, cast, get_args

import msgspec

from adapters.config import KINDS, BackendConfig, MLXModel, MLXVoice
from proxy.access.config import KeyConfig
from proxy.config import AudioConfig, ImagesConfig, ModelConfig, ServerConfig, StoreConfig
from proxy.durations import PATTERN

_JSON = dict[str, Any]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def to_schema() -> _JSON:
    """The schema of the whole file. Descriptions are the documentation of the fields."""
    kinds = get_args(BackendConfig)
    parts = (KeyConfig, ImagesConfig, AudioConfig, StoreConfig, MLXModel, MLXVoice)
    types = (ServerConfig, ModelConfig, *kinds, *parts)
    _, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for kind in types:
        _describe(definitions[kind.__name__], kind)
    _add_durations(definitions)
    return {
        "$schema": _DIALECT,
        "title": "config.yaml of Tandem",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "server": {"$ref": "#/$defs/ServerConfig"},
            "backends": _backends(definitions),
            "models": _models(definitions.pop("ModelConfig")),
        },
        "$defs": definitions,
    }


def _backends(definitions: _JSON) -> _JSON:
    """Settings by name: the name is the kind, unless `kind` says another one."""
    for kind, config in KINDS.items():
        settings = definitions[config.__name__]
        settings["required"] = [name for name in settings["required"] if name != "kind"]
        settings["properties"]["kind"] = {"const": kind, "description": "The kind of backend."}
    named = {kind: _switched(f"#/$defs/{config.__name__}") for kind, config in KINDS.items()}
    others = [
        {"allOf": [{"$ref": f"#/$defs/{config.__name__}"}, {"required": ["kind"]}]}
        for config in KINDS.values()
    ]
    return {
        "type": "object",
        "description": "Backends by name. null or false switches one off.",
        "properties": named,
        "additionalProperties": {"anyOf": [*others, {"type": "null"}, {"const": False}]},
    }


def _switched(reference: str) -> _JSON:
    return {"anyOf": [{"$ref": reference}, {"type": ["boolean", "null"]}]}


def _models(alias: _JSON) -> _JSON:
    """Aliases: all keys that are no setting are names of backends."""
    settings = {name: value for name, value in alias["properties"].items() if name != "names"}
    return {
        "type": "object",
        "description": "Aliases: your own names for models.",
        "additionalProperties": {
            "type": "object",
            "description": "A backend's name -> its name of the model; and settings.",
            "properties": settings,
            "additionalProperties": {"type": ["string", "null"]},
        },
    }


def _add_durations(schema: Any) -> None:
    """Let every time be a text such as `5m` as well; one with a minimum is no negative one."""
    if isinstance(schema, list):
        for part in cast(list[Any], schema):
            _add_durations(part)
    if not isinstance(schema, dict):
        return
    node = cast(_JSON, schema)
    if node.get("type") == "number":
        node["type"] = ["number", "string"]
        sign = "(?!-)" if {"minimum", "exclusiveMinimum"} & node.keys() else ""
        least = "(?=.*[1-9])" if "exclusiveMinimum" in node else ""
        node["pattern"] = f"^{sign}{least}{PATTERN}$"
    for part in node.values():
        _add_durations(part)


def _describe(schema: _JSON, kind: type) -> None:
    """Add the docstrings of the fields of `kind`, which Python keeps in its source only."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in pairwise(statements):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ) if name in schema["properties"]:
                schema["properties"][name]["description"] = inspect.cleandoc(words)
            case _:
                pass
