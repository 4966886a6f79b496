"""The instances of a delivery as stored, and what became of each at the peer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import bindparam, func, select, update

from broker.db.encoding import decode_values, storable_or_none
from broker.db.prepared import Prepared
from broker.db.schema import DELIVERY, DELIVERY_ITEM, INSTANCE
from broker.db.transaction import Transaction
from broker.domain.delivery import DeliveryState, ItemState
from broker.workflow.destinations_port import ItemResult, ParcelItem

_ROWS_PER_STATEMENT = 500

_WAITING = DELIVERY_ITEM.c.state == ItemState.WAITING.value
_WAITING_ITEMS = Prepared(
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
_CONTEXTS = Prepared(
    select(INSTANCE.c.sop_class_uid, INSTANCE.c.transfer_syntax_uid)
    .join(DELIVERY_ITEM, INSTANCE.c.id == DELIVERY_ITEM.c.instance)
    .where(DELIVERY_ITEM.c.delivery == bindparam("key"), _WAITING)
    .distinct()
    .order_by(INSTANCE.c.sop_class_uid, INSTANCE.c.transfer_syntax_uid)
)
_HELD = Prepared(
    select(DELIVERY.c.id)
    .where(
        DELIVERY.c.id == bindparam("key"),
        DELIVERY.c.state == DeliveryState.IN_PROGRESS.value,
        DELIVERY.c.attempt == bindparam("its_attempt"),
    )
    .with_for_update()
)
_COUNT_WAITING = Prepared(
    select(func.count().label("waiting"))
    .select_from(DELIVERY_ITEM)
    .where(DELIVERY_ITEM.c.delivery == bindparam("key"), _WAITING)
)
_SETTLED = (
    update(DELIVERY_ITEM)
    .where(DELIVERY_ITEM.c.delivery == bindparam("key"), _WAITING)
    .values(
        state=bindparam("its_state"),
        wire_status=bindparam("its_wire_status"),
        reason=bindparam("its_reason"),
        sends=DELIVERY_ITEM.c.sends + 1,
        settled_at=bindparam("now"),
    )
)
_SETTLE_ONE = Prepared(_SETTLED.where(DELIVERY_ITEM.c.id == bindparam("item")))
_SETTLE_SOME = _SETTLED.where(DELIVERY_ITEM.c.id.in_(bindparam("chosen", expanding=True)))
_ADD_SETTLED = Prepared(
    update(DELIVERY)
    .where(DELIVERY.c.id == bindparam("key"))
    .values(
        items_delivered=DELIVERY.c.items_delivered + bindparam("delivered"),
        items_rejected=DELIVERY.c.items_rejected + bindparam("rejected"),
        updated_at=bindparam("now"),
    )
)
_ADD_ITEMS = Prepared(
    update(DELIVERY)
    .where(DELIVERY.c.id == bindparam("key"))
    .values(items=DELIVERY.c["items"] + bindparam("new"))
)


class SqlDeliveryItems:
    """Implements the part of the Deliveries port that is about items."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add_items(self, delivery: int, instances: Sequence[int]) -> int:
        """Add instances not yet in it (an item already there is left), answer how many were new."""
        if len(instances) == 1:
            row = {
                "delivery": delivery,
                "instance": instances[0],
                "state": ItemState.WAITING.value,
                "sends": 0,
            }
            new = 0 if self._transaction.insert_unless_there(DELIVERY_ITEM, row) is None else 1
        else:
            new = self._add_many(delivery, instances)
        if new:
            self._transaction.change(_ADD_ITEMS, {"key": delivery, "new": new})
        return new

    def _add_many(self, delivery: int, instances: Sequence[int]) -> int:
        new = 0
        insert = self._transaction.insert_ignoring(DELIVERY_ITEM).returning(DELIVERY_ITEM.c.id)
        for start in range(0, len(instances), _ROWS_PER_STATEMENT):
            rows = [
                {"delivery": delivery, "instance": instance, "state": ItemState.WAITING.value, "sends": 0}
                for instance in instances[start : start + _ROWS_PER_STATEMENT]
            ]
            new += len(self._transaction.execute(insert, rows).all())
        return new

    def waiting_items(self, delivery: int, *, after: int, limit: int) -> list[ParcelItem]:
        """Answer items still to be sent whose id is greater than `after`; `path` is relative to the store."""
        rows = self._transaction.rows(_WAITING_ITEMS, {"key": delivery, "after": after, "limit": limit})
        return [
            ParcelItem(
                id=row["id"],
                instance=row["instance"],
                sop_class_uid=row["sop_class_uid"],
                sop_instance_uid=row["sop_instance_uid"],
                transfer_syntax_uid=row["transfer_syntax_uid"],
                study_instance_uid=row["study_instance_uid"],
                series_instance_uid=row["series_instance_uid"],
                path=Path(row["path"]),
                data_set_offset=row["data_set_offset"],
                size_bytes=row["size_bytes"],
                calling_ae_title=row["calling_ae_title"],
                facts=decode_values(row["facts"]),
            )
            for row in rows
        ]

    def contexts(self, delivery: int) -> tuple[tuple[str, str], ...]:
        """Answer the (SOP class, transfer syntax) pairs of the items still to be sent."""
        return tuple(
            (row["sop_class_uid"], row["transfer_syntax_uid"])
            for row in self._transaction.rows(_CONTEXTS, {"key": delivery})
        )

    def settle_items(
        self, delivery: int, attempt: int, results: Sequence[ItemResult], *, now: datetime
    ) -> bool:
        """Store results under the fence; False when it is lost, and then nothing is written."""
        if self._transaction.row(_HELD, {"key": delivery, "its_attempt": attempt}) is None:
            return False
        alike: dict[tuple[ItemState, str | None, str | None], list[int]] = defaultdict(list)
        for result in results:
            alike[result.state, result.wire_status, result.reason].append(result.item)
        moved = dict.fromkeys(ItemState, 0)
        for (state, wire_status, reason), items in alike.items():
            values = {
                "key": delivery,
                "its_state": state.value,
                "its_wire_status": storable_or_none(wire_status, 8),
                "its_reason": storable_or_none(reason),
                "now": now,
            }
            if len(items) == 1:
                moved[state] += self._transaction.change(_SETTLE_ONE, {**values, "item": items[0]})
                continue
            for start in range(0, len(items), _ROWS_PER_STATEMENT):
                chosen = items[start : start + _ROWS_PER_STATEMENT]
                moved[state] += self._transaction.execute(_SETTLE_SOME, {**values, "chosen": chosen}).rowcount
        self._transaction.change(
            _ADD_SETTLED,
            {
                "key": delivery,
                "delivered": moved[ItemState.DELIVERED],
                "rejected": moved[ItemState.REJECTED],
                "now": now,
            },
        )
        return True

    def count_waiting(self, delivery: int) -> int:
        """Count the items still to be sent."""
        return int(self._transaction.rows(_COUNT_WAITING, {"key": delivery})[0]["waiting"])

    def undelivered(self, delivery: int) -> list[int]:
        """Answer the instances of a delivery that are not delivered, in their order."""
        rows = self._transaction.execute(
            select(DELIVERY_ITEM.c.instance)
            .where(DELIVERY_ITEM.c.delivery == delivery, DELIVERY_ITEM.c.state != ItemState.DELIVERED.value)
            .order_by(DELIVERY_ITEM.c.id)
        )
        return [int(key) for key in rows.scalars()]

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
