"""What workers share about destinations: pause and breaker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from broker.db.encoding import storable_or_none
from broker.db.prepared import Prepared
from broker.db.schema import DESTINATION
from broker.db.transaction import Transaction
from broker.workflow.destinations_port import DestinationHealth, DestinationState

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
            "held_by": storable_or_none(state.held_by, 128),
            "resume_at": state.resume_at,
            "drain_to": state.drain_to,
        }
        self._put(state.name, values, values)

    def save_check(self, name: str, check: Mapping[str, object], *, now: datetime) -> None:
        """Keep what a test of the destination came to, beside its state."""
        said = {"last_check_at": now, "last_check": storable_or_none(json.dumps(check, ensure_ascii=False))}
        fresh = {"state": DestinationHealth.UP.value, "since": now, "failures": 0}
        self._put(name, fresh | said, said)

    def _put(self, name: str, new: dict[str, Any], changed: dict[str, Any]) -> None:
        insert = postgresql.insert if self._transaction.is_postgresql else sqlite.insert
        self._transaction.execute(
            insert(DESTINATION)
            .values(name=name, **new)
            .on_conflict_do_update(index_elements=["name"], set_=changed)
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
        held_by=row["held_by"],
        resume_at=row["resume_at"],
        drain_to=row["drain_to"],
    )
