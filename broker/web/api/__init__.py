"""The same lists and actions as JSON, one file per noun, and /healthz. Errors are problem+json (RFC 9457)."""

from __future__ import annotations

from fastapi import APIRouter

from broker.web.api import (
    accounts,
    alerts,
    audit,
    captures,
    certificates,
    configuration,
    deliveries,
    destinations,
    devices,
    find,
    handover,
    health,
    instances,
    messages,
    operations,
    orders,
    overview,
    probe,
    routes,
    sources,
    studies,
    support,
    worklist,
)

router = APIRouter()
for _noun in (
    health,
    overview,
    handover,
    find,
    worklist,
    orders,
    messages,
    studies,
    operations,
    deliveries,
    destinations,
    devices,
    captures,
    instances,
    routes,
    sources,
    support,
    probe,
    alerts,
    accounts,
    audit,
    configuration,
    certificates,
):
    router.include_router(_noun.router)
