"""What all reports share: one read-only transaction each, bounded pages, and texts people type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Engine, RowMapping, Select, select, union
from sqlalchemy.exc import SQLAlchemyError

from broker.db.engine import reading
from broker.db.errors import as_broker_error
from broker.db.schema import PATIENT
from broker.domain.names import name_key
from broker.workflow.reports_port import MOST_ROWS, Page

FIRST_PAGE = Page()
MAX_TEXT_CHARACTERS = 200


class Reader:
    """Reads from one engine."""

    def __init__(self, engine: Engine, *, destinations: Iterable[str] = ()) -> None:
        """Read from `engine`; `destinations` are those in the configuration, shown even when nothing went there."""
        self._engine = engine
        self._destinations = tuple(destinations)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Open a read-only transaction. Raises DatabaseUnavailable."""
        try:
            with reading(self._engine) as connection:
                yield connection
        except SQLAlchemyError as error:
            translated = as_broker_error(error)
            if translated is None:
                raise
            raise translated from None


def mappings(connection: Connection, statement: Select[*tuple[Any, ...]]) -> Sequence[RowMapping]:
    """Run a statement, answer its rows by column name."""
    return connection.execute(statement).mappings().all()


def paged(statement: Select[Any], page: Page) -> Select[Any]:
    """Cut a page out of a list; its size is bounded whoever asks."""
    return statement.limit(max(0, min(page.limit, MOST_ROWS))).offset(max(0, page.offset))


def typed(text: str | None) -> str | None:
    """Bring what a person typed to a form to search with; None when that is nothing."""
    text = (text or "").replace("\x00", "").strip()[:MAX_TEXT_CHARACTERS]
    return text or None


def patients_with(text: str) -> CompoundSelect[Any]:
    """Select the ids of the patients a text is part of the name or id of: two scans of an index, none of rows."""
    return union(
        select(PATIENT.c.id).where(PATIENT.c.name_key.contains(name_key(text), autoescape=True)),
        select(PATIENT.c.id).where(PATIENT.c.patient_id.contains(text, autoescape=True)),
    )


def text_of(attributes: Any, keyword: str) -> str:
    """Answer the text of an attribute as stored; empty when it is not known."""
    value = attributes.get(keyword, "") if attributes else ""
    return value if isinstance(value, str) else ""
