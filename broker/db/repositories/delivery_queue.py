"""The queue that the delivery rows are: who may send what now, and what became of it.

Every state change is one conditional UPDATE whose row count says who won.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, exists, func, not_, or_, select, update

from broker.db.delivery_states import OPEN_STATES, in_state
from broker.db.encoding import storable_or_none
from broker.db.prepared import Prepared
from broker.db.repositories.delivery_rows import cause_name, delivery_of
from broker.db.schema import DELIVERY, DESTINATION
from broker.db.transaction import Transaction
from broker.domain.delivery import DeliveryState
from broker.workflow.deliveries_port import Delivery
from broker.workflow.destinations_port import DestinationHealth

_IN_PROGRESS_STATE = in_state(DeliveryState.IN_PROGRESS)
FENCE = and_(
    DELIVERY.c.id == bindparam("key"), _IN_PROGRESS_STATE, DELIVERY.c.attempt == bindparam("its_attempt")
)
"""Only the worker of this attempt may write: a zombie finds another attempt or another state."""


def _destination_is_closed() -> ColumnElement[bool]:
    return exists().where(
        DESTINATION.c.name == DELIVERY.c.destination,
        # An open breaker is closed by a probe that succeeded, not by time. One that drains holds what came later.
        or_(
            DESTINATION.c.state == DestinationHealth.PAUSED.value,
            DESTINATION.c.open_until.is_not(None),
            DESTINATION.c.drain_to < DELIVERY.c.id,
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


_CLAIM = Prepared(
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
_RENEW = Prepared(
    update(DELIVERY)
    .where(FENCE)
    .values(lease_until=bindparam("its_lease_until"), updated_at=bindparam("now"))
)
_NEXT_DUE = Prepared(
    select(DELIVERY.c.id, DELIVERY.c.kind, DELIVERY.c.priority, DELIVERY.c.due_at)
    .where(DELIVERY.c.destination == bindparam("its_destination"), _may_start())
    .order_by(DELIVERY.c.priority, DELIVERY.c.due_at, DELIVERY.c.id)
    .limit(bindparam("limit"))
)
_NEXT_DESTINATION = Prepared(
    select(func.min(DELIVERY.c.destination).label("name")).where(
        in_state(DeliveryState.PENDING), DELIVERY.c.destination > bindparam("after")
    )
)
_MORE_URGENT = Prepared(
    select(DELIVERY.c.id)
    .where(
        DELIVERY.c.destination == bindparam("its_destination"),
        DELIVERY.c.priority < bindparam("than"),
        _may_start(),
    )
    .order_by(DELIVERY.c.priority, DELIVERY.c.due_at, DELIVERY.c.id)
    .limit(1)
)
_SETTLE = Prepared(
    update(DELIVERY)
    .where(FENCE)
    .values(
        state=bindparam("its_state"),
        reason=bindparam("its_reason"),
        failure_class=bindparam("its_failure_class"),
        cause=bindparam("its_cause"),
        failures=bindparam("its_failures"),
        due_at=bindparam("its_due_at"),
        lease_until=None,
        worker=None,
        updated_at=bindparam("now"),
    )
)
_COUNT_IN_PROGRESS = Prepared(
    select(func.count().label("sending"))
    .select_from(DELIVERY)
    .where(DELIVERY.c.destination == bindparam("its_destination"), _IN_PROGRESS_STATE)
)


class SqlDeliveryQueue:
    """Implements the part of the Deliveries port that workers and the sweeper use."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def claim(self, delivery: int, *, worker: str, now: datetime, lease: timedelta) -> Delivery | None:
        """Take a delivery under a lease; None when it is not to be sent now or another worker was first."""
        row = self._transaction.row(
            _CLAIM, {"key": delivery, "its_worker": worker, "now": now, "its_lease_until": now + lease}
        )
        return None if row is None else delivery_of(row)

    def renew(self, delivery: int, attempt: int, *, now: datetime, lease: timedelta) -> bool:
        """Extend the lease under the fence; False when it is lost."""
        values = {"key": delivery, "its_attempt": attempt, "now": now, "its_lease_until": now + lease}
        return self._transaction.change(_RENEW, values) == 1

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
        values = {
            "key": delivery,
            "its_attempt": attempt,
            "its_state": state.value,
            "its_reason": storable_or_none(reason),
            "its_failure_class": failure_class,
            "its_cause": cause_name(state, reason),
            "its_failures": failures,
            "its_due_at": due_at,
            "now": now,
        }
        return self._transaction.change(_SETTLE, values) == 1

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
        attempt: int | None = None,
        operation: int | None = None,
    ) -> bool:
        """Move by a conditional UPDATE on the source state; False when it moved on.

        Out of IN_PROGRESS it moves only while its lease has run out: a worker that renewed just now keeps it. With
        an `attempt` it moves only while that one holds it: for a worker that is known to be dead.
        """
        condition = and_(DELIVERY.c.id == delivery, DELIVERY.c.state == source.value)
        if attempt is not None:
            condition = and_(condition, DELIVERY.c.attempt == attempt)
        elif source is DeliveryState.IN_PROGRESS:
            condition = and_(condition, DELIVERY.c.lease_until <= now)
        values: dict[str, Any] = {
            "state": to.value,
            "reason": storable_or_none(reason),
            "cause": cause_name(to, reason),
            "due_at": due_at,
            "lease_until": None,
            "worker": None,
            "updated_at": now,
        }
        if failures is not None:
            values["failures"] = failures
        if operation is not None:
            values["operation"] = operation
        return self._transaction.execute(update(DELIVERY).where(condition).values(values)).rowcount == 1

    def due(self, *, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Answer (id, kind) of what may be claimed now, by priority (1 first), then oldest.

        Every destination gets its share of `limit`; what one does not need goes to those that have more.
        """
        names = self._waiting_destinations()
        if not names:
            return []
        share = -(-limit // len(names))
        rows: dict[int, dict[str, Any]] = {}
        longer = []
        for name in names:
            found = self._next_due(name, now, share)
            rows |= {row["id"]: row for row in found}
            if len(found) == share:
                longer.append(name)
        for name in longer:
            if len(rows) >= limit:
                break
            rows |= {row["id"]: row for row in self._next_due(name, now, share + limit - len(rows))}
        urgent = sorted(rows.values(), key=itemgetter("priority", "due_at", "id"))
        return [(int(row["id"]), str(row["kind"])) for row in urgent[:limit]]

    def next_due(self, destination: str, *, now: datetime, limit: int = 1) -> list[int]:
        """Answer ids of what may be claimed now for one destination, by priority, then oldest."""
        return [int(row["id"]) for row in self._next_due(destination, now, limit)]

    def more_urgent(self, destination: str, *, than: int, now: datetime) -> int | None:
        """Answer what may be claimed there now before anything of priority `than`, if there is something."""
        row = self._transaction.row(_MORE_URGENT, {"its_destination": destination, "than": than, "now": now})
        return None if row is None else int(row["id"])

    def prioritise(
        self,
        delivery: int,
        *,
        source: DeliveryState,
        priority: int,
        operation: int | None = None,
    ) -> bool:
        """Change the priority while the row is in `source`; False when it moved on. Its lease is not touched.

        Nor is `updated_at`: how long it was to wait is told from there, should the clock be set back.
        """
        values: dict[str, Any] = {"priority": priority}
        if operation is not None:
            values["operation"] = operation
        condition = and_(DELIVERY.c.id == delivery, DELIVERY.c.state == source.value)
        return self._transaction.execute(update(DELIVERY).where(condition).values(values)).rowcount == 1

    def waits_up_to(self, destination: str, delivery: int) -> bool:
        """Answer whether anything planned up to this delivery is still to be sent there."""
        return any(
            self._transaction.execute(
                select(DELIVERY.c.id)
                .where(DELIVERY.c.destination == destination, in_state(state), DELIVERY.c.id <= delivery)
                .limit(1)
            ).first()
            is not None
            for state in OPEN_STATES
        )

    def mend_waits(self, *, now: datetime, tolerance: timedelta, limit: int) -> int:
        """Let rows that were written later than now wait from now on as long as was meant; answer how many."""
        written_later = select(DELIVERY.c.id, DELIVERY.c.due_at, DELIVERY.c.updated_at).where(
            in_state(DeliveryState.PENDING, DeliveryState.COLLECTING),
            DELIVERY.c.updated_at > now + tolerance,
        )
        rows = self._transaction.execute(written_later.order_by(DELIVERY.c.id).limit(limit)).all()
        for row in rows:
            self._transaction.execute(
                update(DELIVERY)
                .where(DELIVERY.c.id == row.id, DELIVERY.c.updated_at == row.updated_at)
                .values(due_at=now + (row.due_at - row.updated_at), updated_at=now)
            )
        return len(rows)

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

    def held(self, *, limit: int) -> list[Delivery]:
        """Answer IN_PROGRESS rows, the lease that ends first before the others."""
        rows = self._transaction.execute(
            select(DELIVERY).where(_IN_PROGRESS_STATE).order_by(DELIVERY.c.lease_until).limit(limit)
        )
        return [delivery_of(row) for row in rows.mappings()]

    def in_progress(self, destination: str) -> int:
        """Count what is being sent to a destination."""
        row = self._transaction.rows(_COUNT_IN_PROGRESS, {"its_destination": destination})[0]
        return int(row["sending"])

    def _waiting_destinations(self) -> list[str]:
        """Hop from destination to destination in the index: their number counts, not that of deliveries."""
        names: list[str] = []
        while True:
            after = names[-1] if names else ""
            name = self._transaction.rows(_NEXT_DESTINATION, {"after": after})[0]["name"]
            if name is None:
                return names
            names.append(str(name))

    def _next_due(self, destination: str, now: datetime, limit: int) -> list[dict[str, Any]]:
        return self._transaction.rows(_NEXT_DUE, {"its_destination": destination, "now": now, "limit": limit})
