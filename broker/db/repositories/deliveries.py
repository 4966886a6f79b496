"""Deliveries as stored: made, joined, found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import bindparam, case, func, select, update

from broker.db.delivery_filters import selected
from broker.db.delivery_states import OPEN_STATES, in_state, listed_in_state
from broker.db.prepared import Prepared
from broker.db.repositories.delivery_items import SqlDeliveryItems
from broker.db.repositories.delivery_queue import SqlDeliveryQueue
from broker.db.repositories.delivery_rows import delivery_of, delivery_values
from broker.db.schema import DELIVERY, DELIVERY_ITEM, INSTANCE
from broker.db.transaction import Transaction
from broker.domain.delivery import DeliveryState
from broker.errors import Conflict, NotFound
from broker.workflow.deliveries_port import Delivery
from broker.workflow.selection import Selection

_MAX_JOINS = 5

_OPEN_FOR = Prepared(
    select(DELIVERY)
    .where(
        DELIVERY.c.destination == bindparam("destination"),
        DELIVERY.c.route == bindparam("route"),
        DELIVERY.c.unit_uid == bindparam("unit_uid"),
        in_state(*OPEN_STATES),
        DELIVERY.c.route.is_not(None),
    )
    .with_for_update()
)
_BY_ID = Prepared(select(DELIVERY).where(DELIVERY.c.id == bindparam("key")))
_OF_INSTANCE = Prepared(
    select(DELIVERY)
    .where(
        DELIVERY.c.id.in_(
            select(DELIVERY_ITEM.c.delivery).where(DELIVERY_ITEM.c.instance == bindparam("key"))
        )
    )
    .order_by(DELIVERY.c.id)
)
_DUE = bindparam("due", type_=DELIVERY.c.due_at.type)
_COLLECT = Prepared(
    update(DELIVERY)
    .where(DELIVERY.c.id == bindparam("key"), DELIVERY.c.state == DeliveryState.COLLECTING.value)
    .values(
        due_at=case((DELIVERY.c.collect_until < _DUE, DELIVERY.c.collect_until), else_=_DUE),
        updated_at=bindparam("now"),
    )
)


class SqlDeliveries(SqlDeliveryQueue, SqlDeliveryItems):
    """Implements the Deliveries port."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._transaction = transaction

    def add(self, delivery: Delivery, *, now: datetime) -> int:
        """Store a new delivery, answer its id; where its unit has an open one, join it and answer that id.

        Two workers that route two images of a series at once both end up with the same delivery.
        """
        values = delivery_values(delivery, now)
        for _ in range(_MAX_JOINS):
            key = self._transaction.insert_unless_there(DELIVERY, values)
            if key is not None:
                return key
            assert delivery.route is not None  # without a route nothing is unique
            found = self.open_for(
                destination=delivery.destination, route=delivery.route, unit_uid=delivery.unit_uid
            )
            if found is not None:
                return found.id
        raise Conflict("The delivery of this unit changes faster than it can be joined.")

    def open_for(self, *, destination: str, route: str, unit_uid: str) -> Delivery | None:
        """Answer the open delivery of a unit, locked for this transaction."""
        row = self._transaction.row(
            _OPEN_FOR, {"destination": destination, "route": route, "unit_uid": unit_uid}
        )
        return None if row is None else delivery_of(row)

    def collect(self, delivery: int, *, due_at: datetime, now: datetime) -> None:
        """Move the quiet period of a COLLECTING delivery, never past its cap."""
        self._transaction.change(_COLLECT, {"key": delivery, "due": due_at, "now": now})

    def get(self, delivery: int) -> Delivery:
        """Answer a delivery. Raises NotFound."""
        row = self._transaction.row(_BY_ID, {"key": delivery})
        if row is None:
            raise NotFound("There is no such delivery.")
        return delivery_of(row)

    def find_ids(
        self,
        *,
        state: DeliveryState,
        destination: str | None = None,
        study_instance_uid: str | None = None,
        after: int = 0,
        limit: int = 500,
    ) -> list[int]:
        """Answer ids greater than `after` in a state, ascending: one page of what an operator acts on."""
        statement = select(DELIVERY.c.id).where(listed_in_state(state), DELIVERY.c.id > after)
        if destination is not None:
            statement = statement.where(DELIVERY.c.destination == destination)
        if study_instance_uid is not None:
            statement = statement.where(DELIVERY.c.study_instance_uid == study_instance_uid)
        rows = self._transaction.execute(statement.order_by(DELIVERY.c.id).limit(limit))
        return [int(key) for key in rows.scalars()]

    def select(
        self, selection: Selection, *, states: Sequence[DeliveryState], after: int, limit: int
    ) -> list[Delivery]:
        """Answer those that fit in one of `states` with ids greater than `after`, ascending."""
        if selection.state is not None:
            states = [state for state in states if state is selection.state]
            selection = replace(selection, state=None)
        if not states:
            return []
        fits = [*selected(selection), in_state(*states), DELIVERY.c.id > after]
        rows = self._transaction.execute(select(DELIVERY).where(*fits).order_by(DELIVERY.c.id).limit(limit))
        return [delivery_of(row) for row in rows.mappings()]

    def newest_id(self) -> int:
        """Answer the id of the delivery planned last; 0 when there is none."""
        return int(self._transaction.execute(select(func.max(DELIVERY.c.id))).scalar_one() or 0)

    def of_instance(self, instance: int) -> list[Delivery]:
        """Answer the deliveries an instance is part of, oldest first."""
        return [delivery_of(row) for row in self._transaction.rows(_OF_INSTANCE, {"key": instance})]

    def collecting_of_series(self, series_instance_uid: str) -> list[int]:
        """Answer the COLLECTING deliveries whose unit is this series."""
        rows = self._transaction.execute(
            select(DELIVERY.c.id)
            .where(
                DELIVERY.c.unit_uid == series_instance_uid,
                DELIVERY.c.unit == "series",
                in_state(DeliveryState.COLLECTING),
                DELIVERY.c.study_instance_uid.in_(
                    select(INSTANCE.c.study_instance_uid).where(
                        INSTANCE.c.series_instance_uid == series_instance_uid
                    )
                ),
            )
            .order_by(DELIVERY.c.id)
        )
        return [int(key) for key in rows.scalars()]
