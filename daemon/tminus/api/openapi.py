"""Generate the OpenAPI document from the routes. pydantic generates the schemas."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from tminus import schemas
from tminus.api.parameters import Parameter
from tminus.api.routing import Route

_REFERENCE = "#/components/schemas/{model}"


def document(routes: Iterable[Route], **about: Any) -> dict[str, Any]:
    """Return the document of all described routes. `about` has the members `info`, `servers` and `tags`."""
    described = [route for route in routes if route.described]
    inputs = {key: one for route in described for key, one in _schemas(route).items()}
    found, definitions = TypeAdapter.json_schemas(
        [(key, mode, adapter) for key, (mode, adapter) in inputs.items()], ref_template=_REFERENCE
    )
    schemas_by_key = {key: schema for (key, _), schema in found.items()}
    paths: dict[str, Any] = {}
    for route in described:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, schemas_by_key)
    components = {"schemas": {name: _plain(one) for name, one in sorted(definitions.get("$defs", {}).items())}}
    return {"openapi": "3.1.0", **about, "paths": paths, "components": components}


def _name(route: Route) -> str:
    """Return the `operationId` of a route, to which links refer."""
    name = getattr(route.endpoint, "__name__", "")
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', name + route.template)}_{route.method.lower()}"


def _schemas(route: Route) -> dict[str, tuple[JsonSchemaMode, TypeAdapter[Any]]]:
    """Return the types of a route that need a schema, each with a unique key."""
    name = _name(route)
    schemas_by_key: dict[str, tuple[JsonSchemaMode, TypeAdapter[Any]]] = {
        f"{name} {one.place} {one.name}": ("validation", one.adapter) for one in _parameters(route)
    }
    if (body := _body(route)) is not None:
        schemas_by_key[f"{name} body"] = "validation", body
    if route.answers is not None:
        schemas_by_key[f"{name} 200"] = "serialization", TypeAdapter(route.answers)
    for status, refusal in route.refusals().items():
        schemas_by_key[f"{name} {status}"] = "serialization", TypeAdapter(refusal.get("model", schemas.Error))
    return schemas_by_key


def _parameters(route: Route) -> Sequence[Parameter]:
    return [*route.signature.path, *route.signature.query, *(one for one, _ in route.signature.headers)]


def _body(route: Route) -> TypeAdapter[Any] | None:
    """Return the type of the JSON body; None if there is none."""
    return route.reads if route.signature.body is None else route.signature.body.adapter


def _operation(route: Route, schemas_by_key: Mapping[str, Any]) -> dict[str, Any]:
    name = _name(route)
    operation: dict[str, Any] = {"tags": [route.tag], "summary": route.summary, "operationId": name}
    if parameters := [_parameter(one, schemas_by_key[f"{name} {one.place} {one.name}"]) for one in _parameters(route)]:
        operation["parameters"] = parameters
    if _body(route) is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas_by_key[f"{name} body"]}},
        }
    success: dict[str, Any] = {"description": "Successful Response"}
    if route.answers is None:
        success["content"] = {route.media_type: {"schema": {"type": "string"}}}
    else:
        success["content"] = {
            "application/json": {"schema": _titled(schemas_by_key[f"{name} 200"], f"Response_{name}")}
        }
    operation["responses"] = {"200": success}
    for status, refusal in route.refusals().items():
        content = {
            "schema": schemas_by_key[f"{name} {status}"],
            **refusal.get("content", {}).get("application/json", {}),
        }
        operation["responses"][str(status)] = {
            "description": refusal["description"],
            "content": {"application/json": content},
        }
    return operation


def _parameter(parameter: Parameter, schema: Mapping[str, Any]) -> dict[str, Any]:
    required = parameter.default is Parameter.required
    described_schema = dict(schema)
    if parameter.described_default is not None:
        described_schema["default"] = parameter.described_default
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "required": required,
        "schema": _titled(described_schema, parameter.name),
    }
    if parameter.description is not None:
        described["description"] = parameter.description
    return described


def _titled(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a schema with a title made from `name`, unless the schema is only a reference."""
    return dict(schema) if "$ref" in schema else {**schema, "title": name.title().replace("_", " ")}


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without defaults of null: a member with null counts as absent."""
    members = {
        name: {key: value for key, value in member.items() if key != "default" or value is not None}
        for name, member in schema.get("properties", {}).items()
    }
    return {**schema, "properties": members} if members else dict(schema)
