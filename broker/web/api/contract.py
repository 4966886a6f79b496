"""The OpenAPI document as programs read it: what the routes declare, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from broker.web.openapi import described
from broker.web.problems import MEDIA_TYPE

ABOUT = """The same operations as the pages and the command line.

Every request shows a token: `Authorization: Bearer …`. Every refusal is `application/problem+json` (RFC 9457) and has
changed nothing. Lists are cut by `limit`; where more follows, the header `Link: <…>; rel="next"` names the next part.
A POST that takes an `Idempotency-Key` is not done again when the key came before: it is answered as it was then.
Instants are RFC 3339 and carry their offset.
"""
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "What the status says."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, in a sentence."},
        "instance": {"type": "string", "description": "Path that was asked for."},
        "errors": {
            "type": "array",
            "description": "Each place of the request that is wrong.",
            "items": {
                "type": "object",
                "properties": {
                    "in": {"type": "string"},
                    "where": {"type": "string"},
                    "what": {"type": "string"},
                },
            },
        },
    },
}
_ALWAYS = (400, 401, 403, 422, 429, 500, 503)
_WITH_PATH = (404,)
_WHEN_LISTING = (409,)
_WHEN_ACTING = (404, 409, 413, 415)
_NEXT = {
    "description": 'Where more follows: `<…>; rel="next"`, the address of the next part (RFC 8288).',
    "schema": {"type": "string"},
}
_REPLAYED = {
    "description": "`true`: the key came before, and this is the answer of then.",
    "schema": {"type": "string"},
}


def contract(app: FastAPI) -> dict[str, Any]:
    """Answer the document of an application; made once."""
    document = described(app)
    if "Problem" not in document["components"].setdefault("schemas", {}):
        document["info"]["description"] = ABOUT
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)  # ours says it in its own way
        schemas["Problem"] = _PROBLEM
        for path, method, operation in operations(document):
            _complete(path, method, operation)
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Answer path, method and description of every operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)
    if not path.startswith("/api/"):
        return
    operation["summary"] = operation["description"].partition("\n")[0]
    statuses = {
        *_ALWAYS,
        *(_WITH_PATH if "{" in path else ()),
        *(_WHEN_ACTING if method != "get" else ()),
        *(int(status) for status in responses if status.startswith("4")),  # which a route declares besides
        *(_WHEN_LISTING if _is_list(responses.get("200", {})) else ()),
    }
    for status in sorted(statuses):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    for status, response in responses.items():
        if not status.startswith("2"):
            continue
        if _is_list(response):
            response.setdefault("headers", {})["Link"] = _NEXT
        if any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", ())):
            response.setdefault("headers", {})["Idempotent-Replayed"] = _REPLAYED


def _is_list(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return bool(schema.get("type") == "array")
