"""What happened to an order, a study or a delivery, merged from events and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.performed_steps import names_study
from broker.db.schema import (
    DECISION,
    DELIVERY,
    EVENT,
    INSTANCE,
    MESSAGE,
    ORDER,
    PERFORMED,
    PERFORMED_LINK,
    PROCEDURE,
    STEP,
)
from broker.domain.events import EventName, Subject
from broker.workflow.reports_port import TimelineEntry

MAX_ENTRIES = 2000

# A study has thousands of instances: what happens to each of them is told by series and by route instead.
_OF_EACH_INSTANCE = (
    EventName.INSTANCE_RECEIVED,
    EventName.INSTANCE_REPEATED,
    EventName.INSTANCE_JOINED,
    EventName.ROUTED,
    EventName.UNROUTED,
)
_NOT_SUMMARISED = EVENT.c.name.not_in([name.value for name in _OF_EACH_INSTANCE])


class TimelineReports(Reader):
    """Implements the timelines of the Reports port."""

    def delivery_events(self, delivery_id: int) -> Sequence[TimelineEntry]:
        """Answer what happened to one delivery, oldest first."""
        about = and_(EVENT.c.subject == Subject.DELIVERY.value, EVENT.c.subject_id == delivery_id)
        with self._reading() as connection:
            return _events(connection, about)

    def study_timeline(self, study_instance_uid: str) -> Sequence[TimelineEntry]:
        """Answer everything that happened to a study, its order and its deliveries, oldest first."""
        with self._reading() as connection:
            orders = _ids(
                connection,
                select(PROCEDURE.c.order).where(PROCEDURE.c.study_instance_uid == study_instance_uid),
                select(INSTANCE.c.order)
                .where(INSTANCE.c.study_instance_uid == study_instance_uid, INSTANCE.c.order.is_not(None))
                .distinct(),
            )
            return self._merge(connection, orders, [study_instance_uid])

    def order_timeline(self, order_id: int) -> Sequence[TimelineEntry]:
        """Answer everything that happened to an order and its studies, oldest first."""
        with self._reading() as connection:
            studies = select(PROCEDURE.c.study_instance_uid).where(PROCEDURE.c.order == order_id).distinct()
            return self._merge(connection, [order_id], list(connection.execute(studies).scalars()))

    def _merge(
        self, connection: Connection, orders: Sequence[int], studies: Sequence[str]
    ) -> Sequence[TimelineEntry]:
        deliveries = mappings(
            connection,
            select(DELIVERY.c.id, DELIVERY.c.created_at, DELIVERY.c.destination, DELIVERY.c.route)
            .where(or_(DELIVERY.c.study_instance_uid.in_(studies), DELIVERY.c.order.in_(orders)))
            .order_by(DELIVERY.c.id.desc())
            .limit(MAX_ENTRIES),
        )
        entries = _events(
            connection,
            and_(
                or_(
                    EVENT.c.study_instance_uid.in_(studies),
                    EVENT.c.order.in_(orders),
                    and_(EVENT.c.subject == Subject.ORDER.value, EVENT.c.subject_id.in_(orders)),
                    and_(
                        EVENT.c.subject == Subject.DELIVERY.value,
                        EVENT.c.subject_id.in_([row["id"] for row in deliveries][:500]),
                    ),
                ),
                _NOT_SUMMARISED,
            ),
        )
        told = {(entry.subject, entry.subject_id) for entry in entries}
        for entry in (
            *_orders(connection, orders),
            *_messages(connection, orders),
            *_steps(connection, orders),
            *_performed(connection, studies, orders),
            *(_of_delivery(row) for row in deliveries),
        ):
            # A row speaks for itself only where no event does.
            if (entry.subject, entry.subject_id) not in told:
                entries.append(entry)
        entries += [*_series(connection, studies), *_decisions(connection, studies)]
        entries.sort(key=lambda entry: entry.at)
        return entries[-MAX_ENTRIES:]


def _events(connection: Connection, about: ColumnElement[bool]) -> list[TimelineEntry]:
    newest = select(EVENT).where(about).order_by(EVENT.c.id.desc()).limit(MAX_ENTRIES)
    return [
        TimelineEntry(
            at=row["at"],
            what=row["name"],
            actor=row["actor"],
            subject=row["subject"],
            subject_id=row["subject_id"],
            details=row["details"],
        )
        for row in reversed(mappings(connection, newest))
    ]


def _ids(connection: Connection, *statements: Any) -> list[int]:
    return sorted({int(key) for statement in statements for key in connection.execute(statement).scalars()})


def _orders(connection: Connection, orders: Sequence[int]) -> Iterable[TimelineEntry]:
    for row in mappings(connection, select(ORDER).where(ORDER.c.id.in_(orders))):
        yield _entry(
            row["created_at"], EventName.ORDER_PLACED, Subject.ORDER, row["id"], row["sending_application"]
        )


def _messages(connection: Connection, orders: Sequence[int]) -> Iterable[TimelineEntry]:
    columns = select(
        MESSAGE.c.id,
        MESSAGE.c.received_at,
        MESSAGE.c.sending_application,
        MESSAGE.c.message_type,
        MESSAGE.c.message_control_id,
        MESSAGE.c.outcome,
    )
    statement = columns.where(MESSAGE.c.order.in_(orders)).order_by(MESSAGE.c.id.desc()).limit(MAX_ENTRIES)
    for row in mappings(connection, statement):
        details = {name: row[name] for name in ("message_type", "message_control_id", "outcome")}
        yield _entry(
            row["received_at"],
            EventName.MESSAGE_RECEIVED,
            Subject.MESSAGE,
            row["id"],
            row["sending_application"],
            details,
        )


def _steps(connection: Connection, orders: Sequence[int]) -> Iterable[TimelineEntry]:
    columns = select(
        STEP.c.id,
        STEP.c.created_at,
        STEP.c.scheduled_procedure_step_id,
        STEP.c.modality,
        STEP.c.station_ae_titles,
        STEP.c.start_date,
        STEP.c.start_time,
    )
    for row in mappings(connection, columns.where(STEP.c.order.in_(orders)).order_by(STEP.c.id).limit(500)):
        details = {name: row[name] for name in row if name not in ("id", "created_at")}
        yield _entry(row["created_at"], EventName.STEP_SCHEDULED, Subject.STEP, row["id"], "broker", details)


def _performed(
    connection: Connection, studies: Sequence[str], orders: Sequence[int]
) -> Iterable[TimelineEntry]:
    is_postgresql = connection.dialect.name == "postgresql"
    linked = (
        select(PERFORMED_LINK.c.performed)
        .join(STEP, STEP.c.id == PERFORMED_LINK.c.step)
        .where(STEP.c.order.in_(orders))
    )
    of_study = [names_study(study, is_postgresql=is_postgresql) for study in studies]
    statement = select(
        PERFORMED.c.id, PERFORMED.c.created_at, PERFORMED.c.calling_ae_title, PERFORMED.c.status
    ).where(or_(PERFORMED.c.id.in_(linked), *of_study))
    for row in mappings(connection, statement.order_by(PERFORMED.c.id).limit(500)):
        yield _entry(
            row["created_at"],
            EventName.MPPS_CREATED,
            Subject.PERFORMED_STEP,
            row["id"],
            row["calling_ae_title"],
            {"status": row["status"]},
        )


def _of_delivery(row: Any) -> TimelineEntry:
    details = {"destination": row["destination"], "route": row["route"]}
    return _entry(
        row["created_at"], EventName.DELIVERY_CREATED, Subject.DELIVERY, row["id"], "broker", details
    )


def _series(connection: Connection, studies: Sequence[str]) -> Iterable[TimelineEntry]:
    statement = (
        select(
            INSTANCE.c.series_instance_uid,
            func.min(INSTANCE.c.received_at).label("first"),
            func.max(INSTANCE.c.last_received_at).label("last"),
            func.count().label("instances"),
            func.min(INSTANCE.c.calling_ae_title).label("calling_ae_title"),
            func.min(INSTANCE.c.modality).label("modality"),
        )
        .where(INSTANCE.c.study_instance_uid.in_(studies))
        .group_by(INSTANCE.c.series_instance_uid)
        .limit(MAX_ENTRIES)
    )
    for row in mappings(connection, statement):
        details = {
            "series_instance_uid": row["series_instance_uid"],
            "modality": row["modality"],
            "instances": row["instances"],
            "last_received_at": row["last"].isoformat(),
        }
        yield _entry(
            row["first"], EventName.INSTANCE_RECEIVED, Subject.SERIES, None, row["calling_ae_title"], details
        )


def _decisions(connection: Connection, studies: Sequence[str]) -> Iterable[TimelineEntry]:
    rows = mappings(
        connection,
        select(DECISION.c.decided_at, DECISION.c.routes, DECISION.c.conflicts, DECISION.c.configuration)
        .where(DECISION.c.study_instance_uid.in_(studies))
        .order_by(DECISION.c.id)
        .limit(10 * MAX_ENTRIES),
    )
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        key = (tuple(row["routes"]), tuple(row["conflicts"]), row["configuration"])
        groups.setdefault(key, []).append(row)
    for (routes, conflicts, configuration), alike in groups.items():
        details: dict[str, object] = {
            "routes": list(routes),
            "conflicts": list(conflicts),
            "configuration": configuration,
            "instances": len(alike),
            "until": alike[-1]["decided_at"].isoformat(),
        }
        name = EventName.ROUTED if routes else EventName.UNROUTED
        yield _entry(alike[0]["decided_at"], name, Subject.STUDY, None, "broker", details)


def _entry(
    at: Any,
    name: EventName,
    subject: Subject,
    subject_id: int | None,
    actor: str,
    details: dict[str, object] | None = None,
) -> TimelineEntry:
    return TimelineEntry(
        at=at,
        what=name.value,
        actor=actor,
        subject=subject.value,
        subject_id=subject_id,
        details=details or {},
    )
