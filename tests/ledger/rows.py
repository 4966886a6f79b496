"""Reads a broker's database with nothing of the broker: sqlite3 or psycopg, and plain SQL."""

from __future__ import annotations

import json
import sqlite3
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from tests.postgres import as_libpq

_JSON = ("details", "station_ae_titles", "facts", "routes")


class Rows:
    """An open look at a database; both kinds answer the same dictionaries."""

    def __init__(self, url: str) -> None:
        self._sqlite: sqlite3.Connection | None = None
        self._postgres: psycopg.Connection[dict[str, Any]] | None = None
        if url.startswith("sqlite"):
            # Not read-only: after a kill the log must be read back before anything can be.
            self._sqlite = sqlite3.connect(f"/{urlsplit(url).path.lstrip('/')}", timeout=30)
            self._sqlite.row_factory = sqlite3.Row
        else:
            self._postgres = psycopg.connect(as_libpq(url), row_factory=dict_row, autocommit=True)

    def all(self, statement: str) -> list[dict[str, Any]]:
        """Answer what a SELECT finds."""
        if self._sqlite is not None:
            found = [dict(row) for row in self._sqlite.execute(statement)]
        else:
            assert self._postgres is not None
            found = self._postgres.execute(statement.encode()).fetchall()
        for row in found:
            for name in _JSON:
                if isinstance(row.get(name), str):
                    row[name] = json.loads(row[name])
        return found

    def one(self, statement: str) -> Any:
        """Answer the only value of a SELECT."""
        (row,) = self.all(statement)
        (value,) = row.values()
        return value

    def close(self) -> None:
        """Let go of the database."""
        for connection in (self._sqlite, self._postgres):
            if connection is not None:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
