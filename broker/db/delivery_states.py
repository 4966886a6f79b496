"""States of deliveries in SQL, written out: a bound parameter would hide from the planner that a partial index fits."""

from __future__ import annotations

from sqlalchemy import ColumnElement, FromClause, literal_column

from broker.db.schema import DELIVERY
from broker.domain.delivery import DeliveryState

# As an expression, for SQLite would walk through all deliveries where an index has the order of the groups.
GROUPED_DESTINATION = DELIVERY.c.destination.concat(literal_column("''"))
OPEN_STATES = (DeliveryState.COLLECTING, DeliveryState.PENDING, DeliveryState.IN_PROGRESS)


def listed_in_state(state: DeliveryState) -> ColumnElement[bool]:
    """Tell the same for a list in order of id.

    Most rows are delivered: these are read in order and need no index, and must not be sorted out of one.
    """
    return DELIVERY.c.state == state.value if state is DeliveryState.DELIVERED else in_state(state)


def in_state(*states: DeliveryState, of: FromClause = DELIVERY) -> ColumnElement[bool]:
    """Tell in SQL whether a delivery is in one of these states."""
    written: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in states]
    return of.c.state == written[0] if len(written) == 1 else of.c.state.in_(written)
