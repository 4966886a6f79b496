"""Days and instants as programs write them: RFC 3339, never numbers, whose unit everybody guesses differently."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated

from fastapi import Query
from pydantic import BeforeValidator, Field

_WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}([Tt ].*)?", re.ASCII | re.DOTALL)


def _written(value: object) -> object:
    """Refuse what pydantic would take for seconds."""
    if isinstance(value, str) and not _WRITTEN.fullmatch(value):
        raise ValueError("must be written like 2026-11-21T19:00:00+01:00")
    if isinstance(value, int | float):
        raise ValueError("must be a text like 2026-11-21T19:00:00+01:00")  # noqa: TRY004 - pydantic wants it
    return value


Instant = Annotated[
    datetime,
    Field(strict=False, description="Without an offset: in the site's time."),
    BeforeValidator(_written),
]
Day = Annotated[date | None, Query(description="Of the site."), BeforeValidator(_written)]
"""In an address."""
WrittenDay = Annotated[
    date | None, Field(strict=False, description="Of the site."), BeforeValidator(_written)
]
"""In a body."""
