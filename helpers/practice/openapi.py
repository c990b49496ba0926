"""The published description of the practice API, made from its routes and what parses requests."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from helpers.practice.wire import BatchRequest, ChatRequest, JobRequest

UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
}
KINDS = {
    "/fine_tuning/jobs": JobRequest,
    "/chat/completions": ChatRequest,
    "/batches": BatchRequest,
}
ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
REFUSALS = (400, 401, 403, 404, 411, 413, 421, 429, 500, 503)  # 500: a scenario's
RESPONSES = {"200": {"description": "done"}} | {str(n): {"description": "no"} for n in REFUSALS}


def document(routes: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes."""
    _, schemas = models_json_schema([(kind, "validation") for kind in KINDS.values()])
    paths: dict[str, dict[str, Any]] = {}
    for method, pattern, answer in routes:
        operation = {"summary": answer.__doc__.splitlines()[0], "responses": RESPONSES}
        if "(" in pattern:
            operation["parameters"] = [ID]
        elif pattern in KINDS and method == "POST":
            schema = {"$ref": f"#/$defs/{KINDS[pattern].__name__}"}
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            }
        elif method == "POST":
            content = {"multipart/form-data": {"schema": UPLOAD}}
            operation["requestBody"] = {"required": True, "content": content}
        path = f"/v1{pattern.replace('([^/]+)', '{id}')}"
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "workbook practice-api", "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
        **schemas,
    }
