"""The OpenAPI description, made from the dataclasses of requests and answers."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mdlm_atat.config.options import field_docs
from mdlm_atat.serve import answers, completions, requests

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
ROUTES: dict[str, tuple[type, type]] = {
    "/v1/infill": (requests.InfillRequest, answers.Texts),
    "/v1/generate": (requests.GenerateRequest, answers.Texts),
    "/v1/score": (requests.ScoreRequest, answers.Scores),
    "/v1/classify": (requests.ClassifyRequest, answers.Labels),
    "/v1/completions": (requests.CompletionRequest, completions.Completions),
}
"""What is posted to each, and what is answered."""
LOOKED_AT = {
    "/health": "Whether it runs, and how much it has to do.",
    "/v1/model": "What the model is, and what may be asked of it.",
    "/v1/models": "The model, as OpenAI lists models.",
    "/openapi.json": "This description.",
}
STREAMED = ("/v1/infill", "/v1/generate", "/v1/completions")


def openapi(*, with_classifier: bool) -> dict[str, Any]:
    """The description of the server's interface, OpenAPI 3.1."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, (request, answer) in ROUTES.items():
        if path == "/v1/classify" and not with_classifier:
            continue
        content = {"application/json": {"schema": _schema(answer, schemas)}}
        if path in STREAMED:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        paths[path] = {
            "post": {
                "summary": _summary(request),
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _schema(request, schemas)}},
                },
                "responses": {
                    "200": {"description": "done", "content": content},
                    "default": {"$ref": "#/components/responses/Mistake"},
                },
            }
        }
    for path, summary in LOOKED_AT.items():
        paths[path] = {
            "get": {
                "summary": summary,
                "responses": {
                    "200": {"description": "done", "content": {"application/json": {"schema": {"type": "object"}}}},
                    "default": {"$ref": "#/components/responses/Mistake"},
                },
            }
        }
    _schema(answers.ShownFrame, schemas)  # of the events
    mistake = {
        "type": "object",
        "properties": {
            "message": {"type": "string"},
            "type": {"type": "string"},
            "field": {"type": ["string", "null"], "description": "The field of the request that is wrong."},
        },
    }
    refused = {
        "description": "400: a mistake in the request; 401: no token; 403: another site's page; 413: too much; 429: "
        "the queue is full; 503: shutting down",
        "content": {"application/json": {"schema": {"type": "object", "properties": {"error": mistake}}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "atat serve", "version": _version()},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Mistake": refused},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _schema(hint: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a type; those of dataclasses go into `schemas`, and are referred to."""
    if is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in schemas:
            schemas[hint.__name__] = {}  # for one that holds itself
            schemas[hint.__name__] = _object(hint, schemas)
        return {"$ref": f"#/components/schemas/{hint.__name__}"}
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        found = [_schema(part, schemas) for part in parts]
        if all(set(each) == {"type"} for each in found):
            return {"type": [each["type"] for each in found]}
        return {"anyOf": found}
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(parts)}
    if get_origin(hint) is tuple and parts[-1] is ...:
        return {"type": "array", "items": _schema(parts[0], schemas)}
    if get_origin(hint) is tuple:
        size = len(parts)
        return {"type": "array", "items": _schema(parts[0], schemas), "minItems": size, "maxItems": size}
    if get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _schema(parts[1], schemas)}
    raise AssertionError(hint)


def _object(kind: type, schemas: dict[str, Any]) -> dict[str, Any]:
    hints, docs = get_type_hints(kind), field_docs(kind)
    properties: dict[str, Any] = {}
    for part in fields(kind):  # type: ignore[arg-type]
        properties[part.name] = _schema(hints[part.name], schemas)
        if part.name in docs:
            properties[part.name] = properties[part.name] | {"description": docs[part.name]}
        if part.default is not MISSING:
            properties[part.name] = properties[part.name] | {"default": part.default}
    found: dict[str, Any] = {"type": "object", "description": _summary(kind), "properties": properties}
    if required := [part.name for part in fields(kind) if part.default is MISSING]:  # type: ignore[arg-type]
        found["required"] = required
    if issubclass(kind, requests.Request):
        found["additionalProperties"] = kind.IGNORES_UNKNOWN
    return found


def _summary(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split())


def _version() -> str:
    from mdlm_atat import __version__

    return __version__
