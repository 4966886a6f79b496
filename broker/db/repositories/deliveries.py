"""Deliveries as stored: every state change is one conditional UPDATE whose row count says who won."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, case, exists, func, not_, or_, select, update

from broker.db.delivery_states import OPEN_STATES, in_state, listed_in_state
from broker.db.encoding import storable_or_none
from broker.db.repositories.delivery_items import SqlDeliveryItems
from broker.db.schema import DELIVERY, DELIVERY_ITEM, DESTINATION, INSTANCE
from broker.db.transaction import Transaction
from broker.domain.delivery import DeliveryState
from broker.errors import Conflict, NotFound
from broker.workflow.ports import Delivery, DestinationHealth

_MAX_JOINS = 5

_IN_PROGRESS_STATE = in_state(DeliveryState.IN_PROGRESS)
FENCE = and_(
    DELIVERY.c.id == bindparam("key"), _IN_PROGRESS_STATE, DELIVERY.c.attempt == bindparam("its_attempt")
)
"""Only the worker of this attempt may write: a zombie finds another attempt or another state."""


def _destination_is_closed() -> ColumnElement[bool]:
    return exists().where(
        DESTINATION.c.name == DELIVERY.c.destination,
        or_(
            DESTINATION.c.state == DestinationHealth.PAUSED.value, DESTINATION.c.open_until > bindparam("now")
        ),
    )


def _earlier_is_open() -> ColumnElement[bool]:
    earlier = DELIVERY.alias("earlier")
    return and_(
        DELIVERY.c.ordering_key.is_not(None),
        exists().where(
            earlier.c.ordering_key == DELIVERY.c.ordering_key,
            earlier.c.destination == DELIVERY.c.destination,
            earlier.c.id < DELIVERY.c.id,
            in_state(*OPEN_STATES, of=earlier),
        ),
    )


def _may_start() -> ColumnElement[bool]:
    return and_(
        in_state(DeliveryState.PENDING),
        DELIVERY.c.due_at <= bindparam("now"),
        not_(_destination_is_closed()),
        not_(_earlier_is_open()),
    )


_CLAIM = (
    update(DELIVERY)
    .where(DELIVERY.c.id == bindparam("key"), _may_start())
    .values(
        state=DeliveryState.IN_PROGRESS.value,
        attempt=DELIVERY.c.attempt + 1,
        worker=bindparam("its_worker"),
        lease_until=bindparam("its_lease_until"),
        first_sent_at=func.coalesce(DELIVERY.c.first_sent_at, bindparam("now", type_=DELIVERY.c.due_at.type)),
        updated_at=bindparam("now"),
    )
    .returning(DELIVERY)
)
_RENEW = (
    update(DELIVERY)
    .where(FENCE)
    .values(lease_until=bindparam("its_lease_until"), updated_at=bindparam("now"))
)
_NEXT_DUE = (
    select(DELIVERY.c.id, DELIVERY.c.kind, DELIVERY.c.priority, DELIVERY.c.due_at)
    .where(DELIVERY.c.destination == bindparam("its_destination"), _may_start())
    .order_by(DELIVERY.c.priority, DELIVERY.c.due_at, DELIVERY.c.id)
    .limit(bindparam("limit"))
)
_NEXT_DESTINATION = select(func.min(DELIVERY.c.destination)).where(
    in_state(DeliveryState.PENDING), DELIVERY.c.destination > bindparam("after")
)
_OPEN_FOR = (
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


class SqlDeliveries(SqlDeliveryItems):
    """Implements the Deliveries port."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._transaction = transaction

    def add(self, delivery: Delivery, *, now: datetime) -> int:
        """Store a new delivery, answer its id; where its unit has an open one, join it and answer that id.

        Two workers that route two images of a series at once both end up with the same delivery.
        """
        values = _values(delivery, now)
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
        row = (
            self._transaction.execute(
                _OPEN_FOR, {"destination": destination, "route": route, "unit_uid": unit_uid}
            )
            .mappings()
            .one_or_none()
        )
        return None if row is None else delivery_of(row)

    def collect(self, delivery: int, *, due_at: datetime, now: datetime) -> None:
        """Move the quiet period of a COLLECTING delivery, never past its cap."""
        due = bindparam("due", due_at, type_=DELIVERY.c.due_at.type)
        capped = case((DELIVERY.c.collect_until < due, DELIVERY.c.collect_until), else_=due)
        self._transaction.execute(
            update(DELIVERY)
            .where(DELIVERY.c.id == delivery, DELIVERY.c.state == DeliveryState.COLLECTING.value)
            .values(due_at=capped, updated_at=now)
        )

    def get(self, delivery: int) -> Delivery:
        """Answer a delivery. Raises NotFound."""
        found = self._select(DELIVERY.c.id == delivery)
        if not found:
            raise NotFound("There is no such delivery.")
        return found[0]

    def claim(self, delivery: int, *, worker: str, now: datetime, lease: timedelta) -> Delivery | None:
        """Take a delivery under a lease; None when it is not to be sent now or another worker was first."""
        row = (
            self._transaction.execute(
                _CLAIM,
                {"key": delivery, "its_worker": worker, "now": now, "its_lease_until": now + lease},
            )
            .mappings()
            .one_or_none()
        )
        return None if row is None else delivery_of(row)

    def renew(self, delivery: int, attempt: int, *, now: datetime, lease: timedelta) -> bool:
        """Extend the lease under the fence; False when it is lost."""
        values = {"key": delivery, "its_attempt": attempt, "now": now, "its_lease_until": now + lease}
        return self._transaction.execute(_RENEW, values).rowcount == 1

    def settle(
        self,
        delivery: int,
        attempt: int,
        *,
        state: DeliveryState,
        reason: str | None,
        failure_class: str | None,
        failures: int,
        due_at: datetime,
        now: datetime,
    ) -> bool:
        """Leave IN_PROGRESS under the fence; False when it is lost."""
        statement = (
            update(DELIVERY)
            .where(FENCE)
            .values(
                state=state.value,
                reason=storable_or_none(reason),
                failure_class=failure_class,
                failures=failures,
                due_at=due_at,
                lease_until=None,
                worker=None,
                updated_at=now,
            )
        )
        return self._transaction.execute(statement, {"key": delivery, "its_attempt": attempt}).rowcount == 1

    def move(
        self,
        delivery: int,
        *,
        source: DeliveryState,
        to: DeliveryState,
        due_at: datetime,
        reason: str | None,
        now: datetime,
        failures: int | None = None,
    ) -> bool:
        """Move by a conditional UPDATE on the source state; False when it moved on.

        Out of IN_PROGRESS it moves only while its lease has run out: a worker that renewed just now keeps it.
        """
        condition = and_(DELIVERY.c.id == delivery, DELIVERY.c.state == source.value)
        if source is DeliveryState.IN_PROGRESS:
            condition = and_(condition, DELIVERY.c.lease_until <= now)
        values: dict[str, Any] = {
            "state": to.value,
            "reason": storable_or_none(reason),
            "due_at": due_at,
            "lease_until": None,
            "worker": None,
            "updated_at": now,
        }
        if failures is not None:
            values["failures"] = failures
        return self._transaction.execute(update(DELIVERY).where(condition).values(values)).rowcount == 1

    def due(self, *, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Answer (id, kind) of what may be claimed now, by priority (1 first), then oldest.

        Every destination gets its share of `limit`; what one does not need goes to those that have more.
        """
        names = self._waiting_destinations()
        if not names:
            return []
        share = -(-limit // len(names))
        rows: dict[int, Row[Any]] = {}
        longer = []
        for name in names:
            found = self._next_due(name, now, share)
            rows |= {row.id: row for row in found}
            if len(found) == share:
                longer.append(name)
        for name in longer:
            if len(rows) >= limit:
                break
            rows |= {row.id: row for row in self._next_due(name, now, share + limit - len(rows))}
        urgent = sorted(rows.values(), key=lambda row: (row.priority, row.due_at, row.id))
        return [(int(row.id), str(row.kind)) for row in urgent[:limit]]

    def next_due(self, destination: str, *, now: datetime, limit: int = 1) -> list[int]:
        """Answer ids of what may be claimed now for one destination, by priority, then oldest."""
        return [int(row.id) for row in self._next_due(destination, now, limit)]

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

    def quiet(self, *, now: datetime, limit: int) -> list[int]:
        """Answer COLLECTING rows whose quiet period or cap is over."""
        rows = self._transaction.execute(
            select(DELIVERY.c.id)
            .where(
                in_state(DeliveryState.COLLECTING),
                DELIVERY.c.due_at <= now,  # which is never later than the cap
            )
            .order_by(DELIVERY.c.due_at, DELIVERY.c.id)
            .limit(limit)
        )
        return [int(key) for key in rows.scalars()]

    def expired(self, *, now: datetime, limit: int) -> list[Delivery]:
        """Answer IN_PROGRESS rows whose lease ran out, longest ago first."""
        rows = self._transaction.execute(
            select(DELIVERY)
            .where(_IN_PROGRESS_STATE, DELIVERY.c.lease_until <= now)
            .order_by(DELIVERY.c.lease_until)
            .limit(limit)
        )
        return [delivery_of(row) for row in rows.mappings()]

    def in_progress(self, destination: str) -> int:
        """Count what is being sent to a destination."""
        count = select(func.count()).select_from(DELIVERY)
        return int(
            self._transaction.execute(
                count.where(DELIVERY.c.destination == destination, _IN_PROGRESS_STATE)
            ).scalar_one()
        )

    def of_instance(self, instance: int) -> list[Delivery]:
        """Answer the deliveries an instance is part of, oldest first."""
        return self._select(
            DELIVERY.c.id.in_(select(DELIVERY_ITEM.c.delivery).where(DELIVERY_ITEM.c.instance == instance))
        )

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

    def _waiting_destinations(self) -> list[str]:
        """Hop from destination to destination in the index: their number counts, not that of deliveries."""
        names: list[str] = []
        while True:
            after = names[-1] if names else ""
            name = self._transaction.execute(_NEXT_DESTINATION, {"after": after}).scalar_one()
            if name is None:
                return names
            names.append(str(name))

    def _next_due(self, destination: str, now: datetime, limit: int) -> Sequence[Row[Any]]:
        return self._transaction.execute(
            _NEXT_DUE, {"its_destination": destination, "now": now, "limit": limit}
        ).all()

    def _select(self, condition: ColumnElement[bool]) -> list[Delivery]:
        rows = self._transaction.execute(select(DELIVERY).where(condition).order_by(DELIVERY.c.id))
        return [delivery_of(row) for row in rows.mappings()]


def _values(delivery: Delivery, now: datetime) -> dict[str, Any]:
    due_at = delivery.due_at
    if delivery.state is DeliveryState.COLLECTING and delivery.collect_until is not None:
        due_at = min(due_at, delivery.collect_until)
    return {
        "destination": delivery.destination,
        "kind": delivery.kind,
        "route": delivery.route,
        "unit": delivery.unit,
        "unit_uid": delivery.unit_uid,
        "study_instance_uid": delivery.study_instance_uid,
        "order": delivery.order,
        "ordering_key": delivery.ordering_key,
        "state": delivery.state.value,
        "reason": storable_or_none(delivery.reason),
        "failure_class": delivery.failure_class,
        "attempt": delivery.attempt,
        "failures": delivery.failures,
        "priority": delivery.priority,
        "due_at": due_at,
        "collect_until": delivery.collect_until,
        "lease_until": delivery.lease_until,
        "worker": delivery.worker,
        "payload": delivery.payload,
        "items": 0,
        "items_delivered": 0,
        "items_rejected": 0,
        "created_at": delivery.created_at,
        "updated_at": now,
    }


def delivery_of(row: Any) -> Delivery:
    """Read a delivery from the mapping of a row."""
    payload = row["payload"]
    return Delivery(
        id=row["id"],
        destination=row["destination"],
        kind=row["kind"],
        route=row["route"],
        unit=row["unit"],
        unit_uid=row["unit_uid"],
        state=DeliveryState(row["state"]),
        attempt=row["attempt"],
        failures=row["failures"],
        due_at=row["due_at"],
        created_at=row["created_at"],
        study_instance_uid=row["study_instance_uid"],
        order=row["order"],
        ordering_key=row["ordering_key"],
        reason=row["reason"],
        failure_class=row["failure_class"],
        priority=row["priority"],
        collect_until=row["collect_until"],
        lease_until=row["lease_until"],
        worker=row["worker"],
        payload=None if payload is None else bytes(payload),
        items=row["items"],
        items_delivered=row["items_delivered"],
        items_rejected=row["items_rejected"],
    )
