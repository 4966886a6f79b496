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


def listed_by(state: DeliveryState | None) -> ColumnElement[int]:
    """Answer what a list in order of id is ordered by.

    Of open deliveries there are few, and their indexes have another order: as an expression, for SQLite would walk
    through all deliveries in theirs.
    """
    return DELIVERY.c.id + literal_column("0") if state in OPEN_STATES else DELIVERY.c.id


def narrowed(
    column: ColumnElement[str | None], value: str, state: DeliveryState | None
) -> ColumnElement[bool]:
    """Tell whether a column has a value, among the deliveries of a state.

    But for what is delivered, every state has an index of its own, which is by far the smallest.
    """
    if state in {None, DeliveryState.DELIVERED}:
        return column == value
    return column.concat(literal_column("''")) == value


def in_state(*states: DeliveryState, of: FromClause = DELIVERY) -> ColumnElement[bool]:
    """Tell in SQL whether a delivery is in one of these states."""
    written: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in states]
    return of.c.state == written[0] if len(written) == 1 else of.c.state.in_(written)
