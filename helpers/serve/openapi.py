"""The published description of the gateway's API, made from the records that parse its requests."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from helpers.serve.wire import ChatRequest, FeedbackRequest

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
REFUSALS = (400, 401, 403, 404, 408, 409, 411, 413, 415, 422, 429, 502, 504)


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds = [(ChatRequest, "validation"), (FeedbackRequest, "validation")]
    _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    components = schemas["$defs"] | {"Error": ERROR}
    paths = {
        "/v1/chat/completions": {"post": _post("Answer a chat", "ChatRequest")},
        "/v1/feedback": {"post": _post("Rate or correct an answer", "FeedbackRequest")},
        "/v1/models": {"get": _get("Which tasks and versions answer")},
        "/healthz": {"get": _get("Whether the process answers")},
        "/readyz": {"get": _get("Whether what the registry names is what serves", (503,))},
        "/metrics": {"get": _get("Counts and times for Prometheus", kind="text/plain")},
    }
    key = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "workbook serve", "version": "1"},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": key}},
        "security": [{}, {"key": []}],
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _post(summary: str, body: str) -> dict[str, Any]:
    refusal = _json({"$ref": "#/components/schemas/Error"}) | {"description": "refused, or failed"}
    answer = _json({"type": "object"}) | {"description": summary}
    answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "requestBody": _json({"$ref": f"#/components/schemas/{body}"}) | {"required": True},
        "responses": {"200": answer} | {str(status): refusal for status in REFUSALS},
    }


def _get(
    summary: str, more: tuple[int, ...] = (), kind: str = "application/json"
) -> dict[str, Any]:
    schema = {"type": "string"} if kind == "text/plain" else {"type": "object"}
    answer = {"description": summary, "content": {kind: {"schema": schema}}}
    refusal = _json({"type": "object"}) | {"description": "not now, or not you"}
    statuses = dict.fromkeys(map(str, (401, 403, *more)), refusal)
    return {"summary": summary, "responses": {"200": answer} | statuses}
