"""Event rows, written together just before the commit they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from broker.db.encoding import storable, storable_json
from broker.db.schema import EVENT
from broker.db.transaction import Transaction
from broker.domain.events import Event


class SqlEvents:
    """Writes events; nothing ever updates one but the sealer, which adds the seal."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add_many(self, events: Sequence[tuple[datetime, Event]]) -> None:
        """Write events with the instants they happened at, in their order, in one statement."""
        self._transaction.insert_many(EVENT, [_values(at, event) for at, event in events])


def _values(at: datetime, event: Event) -> dict[str, Any]:
    return {
        "at": at,
        "name": event.name.value,
        "subject": event.subject.value,
        "subject_id": event.subject_id,
        "study_instance_uid": event.study_instance_uid,
        "order": event.order,
        "actor": storable(event.actor, 128),
        "details": storable_json(event.details),
    }
