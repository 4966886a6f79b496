"""Runs single SELECTs on the hottest paths: one statement, one state of the database, nothing around it.

A statement that stands alone needs no transaction: SQLite reads it from one snapshot and PostgreSQL too, and it sees
everything that was acknowledged before it began. What SQLAlchemy would do for a connection, a transaction and a
result costs more than the database needs to answer.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from broker.db.engine import READ_ONLY
from broker.db.errors import as_broker_error, as_broker_error_of
from broker.db.prepared import Prepared, Values


class Lookup:
    """Runs prepared SELECTs, each by itself, on connections of the engine's pool."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_postgresql = engine.dialect.name == "postgresql"
        options = {"isolation_level": "AUTOCOMMIT"} if self.is_postgresql else {READ_ONLY: True}
        self._heard = engine.execution_options(**options)

    def rows(self, prepared: Prepared, values: Values) -> list[tuple[Any, ...]]:
        """Answer the rows by place. Raises the broker's errors only."""
        compiled = prepared.compiled(self._engine.dialect)
        bound = compiled.bind(values)
        if self._engine.dispatch.before_cursor_execute:
            # Somebody listens to every statement: it goes where they hear it.
            with self._heard.connect() as connection:
                rows = [tuple(row) for row in connection.exec_driver_sql(compiled.text, bound)]
        else:
            rows = self._fetch(compiled.text, bound)
        return compiled.converted(rows)

    def _fetch(self, statement: str, bound: Any) -> list[tuple[Any, ...]]:
        try:
            connection = self._engine.raw_connection()
        except SQLAlchemyError as error:
            raise as_broker_error(error) or error from None
        except Exception as error:
            raise as_broker_error_of(error) from error
        driver: Any = connection.driver_connection
        try:
            if not self.is_postgresql:
                rows: list[tuple[Any, ...]] = driver.execute(statement, bound).fetchall()
                return rows
            driver.autocommit = True
            try:
                return list(driver.execute(statement, bound).fetchall())
            finally:
                if not driver.closed:
                    driver.autocommit = False
        except Exception as error:
            told: Any = error  # SQLAlchemy names a protocol that no driver's errors declare
            if self._engine.dialect.is_disconnect(told, driver, None):
                connection.invalidate(error)
            raise as_broker_error_of(error) from error
        finally:
            connection.close()
