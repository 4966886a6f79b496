"""Counts what a selection of deliveries means: the groups people act on, and what acting would come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import ColumnElement, case, exists, func, select

from broker.db.delivery_filters import fitting, selected
from broker.db.delivery_states import GROUPED_DESTINATION, OPEN_STATES, in_state
from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.bulk_operations import bulk_operation_of
from broker.db.schema import BULK_OPERATION, DELIVERY, DELIVERY_ITEM, INSTANCE
from broker.db.synthetic import is_synthetic
from broker.domain.causes import cause_named
from broker.domain.delivery import DeliveryState, ItemState
from broker.errors import NotFound
from broker.workflow.bulk_port import BulkOperation
from broker.workflow.delivery_reports import CauseLine, ItemLine, SelectionCount, Volume
from broker.workflow.selection import Selection

MAX_MEASURED_ITEMS = 5_000
"""Bytes of more are an estimate: a preview must not read for seconds."""
MAX_ITEMS = 501
"""One more than is shown says whether there is a next page."""
_MISSING = DELIVERY.c["items"] - DELIVERY.c.items_delivered

_ITEMS = select(
    DELIVERY_ITEM.c.id.label("item"),
    DELIVERY_ITEM.c.instance,
    INSTANCE.c.sop_instance_uid,
    INSTANCE.c.modality,
    INSTANCE.c.size_bytes,
    DELIVERY_ITEM.c.state,
    DELIVERY_ITEM.c.wire_status,
    DELIVERY_ITEM.c.reason,
    DELIVERY_ITEM.c.sends,
    DELIVERY_ITEM.c.settled_at,
).join(INSTANCE, INSTANCE.c.id == DELIVERY_ITEM.c.instance)


class SelectionReports(Reader):
    """Implements the part of the DeliveryReports port that is about selections and operations on them."""

    def causes(self, selection: Selection) -> Sequence[CauseLine]:
        """Group the dead of a selection by cause and destination, the largest group first."""
        dead = in_state(DeliveryState.DEAD)
        number = func.count().label("number")
        statement = (
            select(
                DELIVERY.c.cause,
                DELIVERY.c.destination,
                number,
                func.min(DELIVERY.c.id).label("first"),
                func.max(DELIVERY.c.id).label("last"),
            )
            .where(*selected(replace(selection, state=selection.state or DeliveryState.DEAD)), dead)
            .group_by(DELIVERY.c.cause, DELIVERY.c.destination)
            .order_by(number.desc(), DELIVERY.c.cause, DELIVERY.c.destination)
            .limit(100)
        )
        with self._reading() as connection:
            groups = mappings(connection, statement)
            ends = {key for group in groups for key in (group["first"], group["last"])}
            planned: dict[int, datetime] = {
                row["id"]: row["created_at"]
                for row in mappings(
                    connection, select(DELIVERY.c.id, DELIVERY.c.created_at).where(DELIVERY.c.id.in_(ends))
                )
            }
        lines = []
        for group in groups:
            cause = cause_named(group["cause"])
            lines.append(
                CauseLine(
                    cause=cause.name,
                    title=cause.title,
                    advice=cause.advice,
                    destination=group["destination"],
                    deliveries=group["number"],
                    oldest=planned[group["first"]],
                    newest=planned[group["last"]],
                )
            )
        return lines

    def counts(self, selection: Selection) -> Sequence[SelectionCount]:
        """Count what a selection means by destination and state; of what is delivered, of which most is, in one number."""
        counts: list[SelectionCount] = []
        with self._reading() as connection:
            for state in DeliveryState:  # each has an index of its own
                if selection.state not in {None, state}:
                    continue
                if state is DeliveryState.DELIVERED:
                    # Of very many, so each is looked at only once: those of synthetic exams are taken off the number.
                    count = (
                        select(func.count())
                        .select_from(DELIVERY)
                        .where(*fitting(replace(selection, state=state)))
                    )
                    synthetic = count.where(is_synthetic(DELIVERY.c.study_instance_uid))
                    number = int(connection.execute(count).scalar_one())
                    number -= int(connection.execute(synthetic).scalar_one())
                    counts.append(SelectionCount("", "", state.value, number, 0))
                    continue
                its = selected(replace(selection, state=state))
                statement = (
                    select(
                        GROUPED_DESTINATION.label("destination"),
                        func.max(DELIVERY.c.kind).label("kind"),
                        func.count().label("number"),
                        func.coalesce(func.sum(_MISSING), 0).label("images"),
                    )
                    .where(*its)
                    .group_by(GROUPED_DESTINATION)
                )
                counts += [
                    SelectionCount(
                        row["destination"], row["kind"], state.value, int(row["number"]), int(row["images"])
                    )
                    for row in mappings(connection, statement)
                ]
        found = [count for count in counts if count.deliveries]
        return sorted(found, key=lambda count: (count.destination, count.state))

    def blocked(self, selection: Selection) -> int:
        """Count those that are over while another delivery of the same unit is open."""
        other = DELIVERY.alias("other")
        has_open = exists().where(
            other.c.destination == DELIVERY.c.destination,
            other.c.route == DELIVERY.c.route,
            other.c.unit_uid == DELIVERY.c.unit_uid,
            in_state(*OPEN_STATES, of=other),
            other.c.route.is_not(None),
        )
        number = 0
        with self._reading() as connection:
            for state in (DeliveryState.DEAD, DeliveryState.CANCELLED):
                if selection.state in {None, state}:
                    its = selected(replace(selection, state=state))
                    statement = select(func.count()).select_from(DELIVERY).where(*its, has_open)
                    number += int(connection.execute(statement).scalar_one())
        return number

    def volume(self, selection: Selection, states: Sequence[DeliveryState], *, images: int) -> Volume:
        """Answer how much `images` that are still to be sent come to; of very many it is an estimate."""
        if not images:
            return Volume(0, is_exact=True)
        chosen = [*selected(selection), in_state(*states), _MISSING > 0]
        newest = select(DELIVERY.c.id).where(*chosen).order_by(DELIVERY.c.id.desc()).limit(MAX_MEASURED_ITEMS)
        items = (
            select(DELIVERY_ITEM.c.instance)
            .where(
                DELIVERY_ITEM.c.delivery.in_(newest.scalar_subquery()),
                DELIVERY_ITEM.c.state != ItemState.DELIVERED.value,
            )
            .limit(MAX_MEASURED_ITEMS)
            .subquery()
        )
        measured = select(func.count(), func.coalesce(func.sum(INSTANCE.c.size_bytes), 0)).where(
            INSTANCE.c.id.in_(select(items.c.instance))
        )
        with self._reading() as connection:
            number, size = connection.execute(measured).one()
        if images <= MAX_MEASURED_ITEMS:
            return Volume(int(size), is_exact=True)
        return Volume(int(size) * images // max(int(number), 1), is_exact=False)

    def newest_delivery(self) -> int:
        """Answer the id of the delivery planned last; 0 when there is none."""
        with self._reading() as connection:
            return int(connection.execute(select(func.max(DELIVERY.c.id))).scalar_one() or 0)

    def items(self, delivery: int, *, after: int = 0, limit: int = 50) -> Sequence[ItemLine]:
        """List the images of a delivery: refused ones first, then those that wait, then the delivered."""
        rank: ColumnElement[int] = case(
            (DELIVERY_ITEM.c.state == ItemState.REJECTED.value, 0),
            (DELIVERY_ITEM.c.state == ItemState.WAITING.value, 1),
            else_=2,
        )
        statement = _ITEMS.where(DELIVERY_ITEM.c.delivery == delivery).order_by(rank, DELIVERY_ITEM.c.id)
        with self._reading() as connection:
            rows = mappings(connection, statement.limit(min(limit, MAX_ITEMS)).offset(after))
        return [ItemLine(**row) for row in rows]

    def items_behind(self, delivery: int, *, item: int = 0, limit: int = 50) -> Sequence[ItemLine]:
        """List the images of a delivery in the order they came to it, those behind one."""
        statement = _ITEMS.where(DELIVERY_ITEM.c.delivery == delivery, DELIVERY_ITEM.c.id > item)
        with self._reading() as connection:
            rows = mappings(connection, statement.order_by(DELIVERY_ITEM.c.id).limit(min(limit, MAX_ITEMS)))
        return [ItemLine(**row) for row in rows]

    def operation(self, operation: int) -> BulkOperation:
        """Answer an operation on many deliveries. Raises NotFound."""
        with self._reading() as connection:
            found = mappings(connection, select(BULK_OPERATION).where(BULK_OPERATION.c.id == operation))
        if not found:
            raise NotFound("There is no such operation.")
        return bulk_operation_of(found[0])

    def operations(self, *, before: int | None = None, limit: int = 20) -> Sequence[BulkOperation]:
        """List operations on many deliveries, newest first."""
        statement = select(BULK_OPERATION).order_by(BULK_OPERATION.c.id.desc()).limit(min(limit, MAX_ITEMS))
        if before is not None:
            statement = statement.where(BULK_OPERATION.c.id < before)
        with self._reading() as connection:
            return [bulk_operation_of(row) for row in mappings(connection, statement)]
