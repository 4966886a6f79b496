"""What the JSON API's files share: the page asked for, the token that changes want, rows as objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import Field

from broker.workflow.reports_port import MAX_PAGE, Page


def _page(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50, offset: Annotated[int, Query(ge=0)] = 0
) -> Page:
    return Page(limit=limit, offset=offset)


Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, Field(ge=0)]
"""Which rows, in the body of a search."""
ApiPage = Annotated[Page, Depends(_page)]


def rows(lines: Sequence[Any]) -> list[dict[str, Any]]:
    """Answer lines as JSON objects."""
    return [asdict(line) for line in lines]
