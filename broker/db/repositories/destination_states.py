"""What workers share about destinations: pause and breaker."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from broker.db.encoding import storable_or_none
from broker.db.prepared import Prepared
from broker.db.schema import DESTINATION
from broker.db.transaction import Transaction
from broker.workflow.ports import DestinationHealth, DestinationState

_BY_NAME = Prepared(select(DESTINATION).where(DESTINATION.c.name == bindparam("its_name")))


class SqlDestinationStates:
    """Implements the DestinationStates port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def get(self, name: str) -> DestinationState | None:
        """Answer the state of a destination; None when nothing has been said of it yet."""
        row = self._transaction.row(_BY_NAME, {"its_name": name})
        return None if row is None else destination_state_of(row)

    def save(self, state: DestinationState) -> None:
        """Store the state of a destination, new or not."""
        values = {
            "state": state.state.value,
            "reason": storable_or_none(state.reason),
            "since": state.since,
            "failures": state.failures,
            "open_until": state.open_until,
            "last_success_at": state.last_success_at,
        }
        insert = postgresql.insert if self._transaction.is_postgresql else sqlite.insert
        self._transaction.execute(
            insert(DESTINATION)
            .values(name=state.name, **values)
            .on_conflict_do_update(index_elements=["name"], set_=values)
        )

    def all(self) -> list[DestinationState]:
        """Answer what is known, by name."""
        rows = self._transaction.execute(select(DESTINATION).order_by(DESTINATION.c.name))
        return [destination_state_of(row) for row in rows.mappings()]


def destination_state_of(row: Any) -> DestinationState:
    """Read the state of a destination from the mapping of a row."""
    return DestinationState(
        name=row["name"],
        state=DestinationHealth(row["state"]),
        since=row["since"],
        reason=row["reason"],
        failures=row["failures"],
        open_until=row["open_until"],
        last_success_at=row["last_success_at"],
    )
