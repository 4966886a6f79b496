"""The instances of a delivery as stored, and what became of each at the peer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import bindparam, func, select, update

from broker.db.encoding import decode_values, storable_or_none
from broker.db.schema import DELIVERY, DELIVERY_ITEM, INSTANCE
from broker.db.transaction import Transaction
from broker.domain.delivery import DeliveryState, ItemState
from broker.workflow.ports import ItemResult, ParcelItem

_ROWS_PER_STATEMENT = 500

_WAITING = DELIVERY_ITEM.c.state == ItemState.WAITING.value
_WAITING_ITEMS = (
    select(
        DELIVERY_ITEM.c.id,
        DELIVERY_ITEM.c.instance,
        INSTANCE.c.sop_class_uid,
        INSTANCE.c.sop_instance_uid,
        INSTANCE.c.transfer_syntax_uid,
        INSTANCE.c.study_instance_uid,
        INSTANCE.c.series_instance_uid,
        INSTANCE.c.path,
        INSTANCE.c.data_set_offset,
        INSTANCE.c.size_bytes,
        INSTANCE.c.calling_ae_title,
        INSTANCE.c.facts,
    )
    .join(INSTANCE, INSTANCE.c.id == DELIVERY_ITEM.c.instance)
    .where(DELIVERY_ITEM.c.delivery == bindparam("key"), _WAITING, DELIVERY_ITEM.c.id > bindparam("after"))
    .order_by(DELIVERY_ITEM.c.id)
    .limit(bindparam("limit"))
)
_CONTEXTS = (
    select(INSTANCE.c.sop_class_uid, INSTANCE.c.transfer_syntax_uid)
    .join(DELIVERY_ITEM, INSTANCE.c.id == DELIVERY_ITEM.c.instance)
    .where(DELIVERY_ITEM.c.delivery == bindparam("key"), _WAITING)
    .distinct()
    .order_by(INSTANCE.c.sop_class_uid, INSTANCE.c.transfer_syntax_uid)
)
_HELD = (
    select(DELIVERY.c.id)
    .where(
        DELIVERY.c.id == bindparam("key"),
        DELIVERY.c.state == DeliveryState.IN_PROGRESS.value,
        DELIVERY.c.attempt == bindparam("its_attempt"),
    )
    .with_for_update()
)
_COUNT_WAITING = (
    select(func.count())
    .select_from(DELIVERY_ITEM)
    .where(DELIVERY_ITEM.c.delivery == bindparam("key"), _WAITING)
)


class SqlDeliveryItems:
    """Implements the part of the Deliveries port that is about items."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add_items(self, delivery: int, instances: Sequence[int]) -> int:
        """Add instances not yet in it (an item already there is left), answer how many were new."""
        new = 0
        insert = self._transaction.insert_ignoring(DELIVERY_ITEM).returning(DELIVERY_ITEM.c.id)
        for start in range(0, len(instances), _ROWS_PER_STATEMENT):
            rows = [
                {"delivery": delivery, "instance": instance, "state": ItemState.WAITING.value, "sends": 0}
                for instance in instances[start : start + _ROWS_PER_STATEMENT]
            ]
            new += len(self._transaction.execute(insert, rows).all())
        if new:
            self._transaction.execute(
                update(DELIVERY).where(DELIVERY.c.id == delivery).values(items=DELIVERY.c["items"] + new)
            )
        return new

    def waiting_items(self, delivery: int, *, after: int, limit: int) -> list[ParcelItem]:
        """Answer items still to be sent whose id is greater than `after`; `path` is relative to the store."""
        rows = self._transaction.execute(_WAITING_ITEMS, {"key": delivery, "after": after, "limit": limit})
        return [
            ParcelItem(
                id=row.id,
                instance=row.instance,
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
                transfer_syntax_uid=row.transfer_syntax_uid,
                study_instance_uid=row.study_instance_uid,
                series_instance_uid=row.series_instance_uid,
                path=Path(row.path),
                data_set_offset=row.data_set_offset,
                size_bytes=row.size_bytes,
                calling_ae_title=row.calling_ae_title,
                facts=decode_values(row.facts),
            )
            for row in rows
        ]

    def contexts(self, delivery: int) -> tuple[tuple[str, str], ...]:
        """Answer the (SOP class, transfer syntax) pairs of the items still to be sent."""
        return tuple(
            (row.sop_class_uid, row.transfer_syntax_uid)
            for row in self._transaction.execute(_CONTEXTS, {"key": delivery})
        )

    def settle_items(
        self, delivery: int, attempt: int, results: Sequence[ItemResult], *, now: datetime
    ) -> bool:
        """Store results under the fence; False when it is lost, and then nothing is written."""
        held = self._transaction.execute(_HELD, {"key": delivery, "its_attempt": attempt})
        if held.scalar_one_or_none() is None:
            return False
        alike: dict[tuple[ItemState, str | None, str | None], list[int]] = defaultdict(list)
        for result in results:
            alike[result.state, result.wire_status, result.reason].append(result.item)
        moved = dict.fromkeys(ItemState, 0)
        for (state, wire_status, reason), items in alike.items():
            for start in range(0, len(items), _ROWS_PER_STATEMENT):
                changed = self._transaction.execute(
                    update(DELIVERY_ITEM)
                    .where(
                        DELIVERY_ITEM.c.delivery == delivery,
                        DELIVERY_ITEM.c.id.in_(items[start : start + _ROWS_PER_STATEMENT]),
                        _WAITING,
                    )
                    .values(
                        state=state.value,
                        wire_status=storable_or_none(wire_status, 8),
                        reason=storable_or_none(reason),
                        sends=DELIVERY_ITEM.c.sends + 1,
                        settled_at=now,
                    )
                )
                moved[state] += changed.rowcount
        self._transaction.execute(
            update(DELIVERY)
            .where(DELIVERY.c.id == delivery)
            .values(
                items_delivered=DELIVERY.c.items_delivered + moved[ItemState.DELIVERED],
                items_rejected=DELIVERY.c.items_rejected + moved[ItemState.REJECTED],
                updated_at=now,
            )
        )
        return True

    def count_waiting(self, delivery: int) -> int:
        """Count the items still to be sent."""
        return int(self._transaction.execute(_COUNT_WAITING, {"key": delivery}).scalar_one())

    def reopen_items(self, delivery: int) -> int:
        """Put REJECTED items back to WAITING, answer how many; delivered ones stay delivered."""
        reopened = self._transaction.execute(
            update(DELIVERY_ITEM)
            .where(DELIVERY_ITEM.c.delivery == delivery, DELIVERY_ITEM.c.state == ItemState.REJECTED.value)
            .values(state=ItemState.WAITING.value)
        ).rowcount
        if reopened:
            self._transaction.execute(
                update(DELIVERY)
                .where(DELIVERY.c.id == delivery)
                .values(items_rejected=DELIVERY.c.items_rejected - reopened)
            )
        return reopened
