"""Examples of bodies, made from their JSON schemas, so that none can differ from its schema."""

from collections.abc import Mapping
from typing import Any, Final

_BY_NAME: Final[Mapping[str, Any]] = {
    "account_id": "my_account",
    "account_patterns": "team_*",
    "actor": "billing",
    "api_app": "AIOTT1",
    "api_apps": "AIOTT1",
    "event_type": "authorization.completed",
    "event_types": "authorization.*",
    "name": "billing",
    "profile_id": "66f1c2a4b7d8e9f0a1b2c3d4",
    "request_id": "6f1d1b0c7c5b4f6c9a52",
    "scopes": "authorize",
    "session_id": "0b8f3d52-6a0e-4c11-9d7e-1f2a3b4c5d6e",
    "url": "https://hooks.example.com/gologin",
}
_MOMENT: Final = "2026-11-21T08:00:00Z"
_SCALARS: Final[Mapping[str, Any]] = {
    "boolean": True,
    "integer": 1,
    "number": 1.0,
    "string": "text",
    "null": None,
}


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "") -> Any:
    """Return a value that `schema` describes. `schemas`: what it refers to; `name`: the field it belongs to."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    if "examples" in schema or "example" in schema:
        return schema["example"] if "example" in schema else schema["examples"][0]
    if "default" in schema and name != "data":
        return schema["default"]
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    for choices in ("anyOf", "oneOf", "allOf"):
        if choices in schema:
            return example_of(schema[choices][0], schemas, name)
    if schema.get("type") == "object":
        fields = schema.get("properties", {})
        return {field: example_of(each, schemas, field) for field, each in fields.items()}
    if schema.get("type") == "array":
        return [example_of(schema.get("items", {}), schemas, name)]
    if schema.get("format") == "date-time":
        return _MOMENT
    if schema.get("type") == "string" and name in _BY_NAME:
        return _BY_NAME[name]
    return schema.get("minimum", _SCALARS.get(schema.get("type", "null")))
