"""What the description of the API says of who may ask what: taken from what every route declares."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from broker.web.access import COOKIE, declaration, served_routes

_SCHEMES = {
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": f"Of a browser that has signed in; by TLS it is called __Host-{COOKIE}."
        " What changes something also carries the token of the forms.",
    },
    "token": {"type": "http", "scheme": "bearer", "description": "Of a program: `broker tokens issue`."},
}


def described(app: FastAPI) -> dict[str, Any]:
    """Answer the OpenAPI document, each operation with how to ask and the role it needs."""
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = _SCHEMES
    declared = {
        (route.path_format, method.lower()): declaration(route)
        for route in served_routes(app)
        for method in route.methods or ()
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            role = declared.get((path, method))
            is_open = role in {None, "anybody"}
            operation["security"] = [] if is_open else [{name: []} for name in _SCHEMES]
            if not is_open:
                operation["x-role"] = role
    return document
