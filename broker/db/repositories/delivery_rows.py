"""A delivery as a row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from broker.db.encoding import storable_or_none
from broker.domain.causes import cause_of
from broker.domain.delivery import DeliveryState
from broker.workflow.deliveries_port import Delivery


def delivery_values(delivery: Delivery, now: datetime) -> dict[str, Any]:
    """Write a new delivery as a row; one that collects is due by its cap at the latest."""
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
        "cause": cause_name(delivery.state, delivery.reason),
        "operation": delivery.operation,
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
        cause=row["cause"],
        operation=row["operation"],
    )


def cause_name(state: DeliveryState, reason: str | None) -> str | None:
    """Answer what is stored as the cause: of what failed and is not over, the reason says it."""
    if not reason or state not in (DeliveryState.DEAD, DeliveryState.PENDING):
        return None
    return cause_of(reason).name
