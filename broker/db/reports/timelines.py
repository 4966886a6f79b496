"""What happened to an order, a study or a delivery, merged from events and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, func, or_, select, union

from broker.db.reports.reading import Reader, mappings
from broker.db.schema import (
    DECISION,
    DELIVERY,
    EVENT,
    INSTANCE,
    MESSAGE,
    ORDER,
    PERFORMED,
    PERFORMED_LINK,
    PERFORMED_STUDY,
    PROCEDURE,
    STEP,
)
from broker.domain.events import EventName, Subject
from broker.domain.steps import OFFERED_BY_DEFAULT
from broker.workflow.reports_port import TimelineEntry

MAX_ENTRIES = 2000
MAX_SERIES_SHOWN = 20
"""Series that get previews."""
PREVIEWS = 4
"""Of one series."""
MAX_STEPS_SHOWN = 20
MAX_QUERIES_READ = 5000
_OFFERED = {status.value for status in OFFERED_BY_DEFAULT}
_STILL_SHOWN = timedelta(hours=4)
"""A started step is answered to devices of its modality for a while."""

# A study has thousands of instances: what happens to each of them is told by series and by route instead.
_OF_EACH_INSTANCE = (
    EventName.INSTANCE_RECEIVED,
    EventName.INSTANCE_REPEATED,
    EventName.INSTANCE_JOINED,
    EventName.ROUTED,
    EventName.UNROUTED,
)
# Who looked at it is no part of what happened to it: the audit search answers that.
_LOOKS = (EventName.VIEWED, EventName.SEARCHED)
_NOT_SUMMARISED = EVENT.c.name.not_in([name.value for name in (*_OF_EACH_INSTANCE, *_LOOKS)])


class TimelineReports(Reader):
    """Implements the timelines of the Reports port."""

    def delivery_events(self, delivery_id: int) -> Sequence[TimelineEntry]:
        """Answer what happened to one delivery, oldest first."""
        about = and_(
            EVENT.c.subject == Subject.DELIVERY.value, EVENT.c.subject_id == delivery_id, _NOT_SUMMARISED
        )
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
            .where(
                DELIVERY.c.id.in_(
                    union(
                        select(DELIVERY.c.id).where(DELIVERY.c.study_instance_uid.in_(studies)),
                        select(DELIVERY.c.id).where(DELIVERY.c.order.in_(orders)),
                    )
                )
            )
            .order_by(DELIVERY.c.id.desc())
            .limit(MAX_ENTRIES),
        )
        # A union of what several indexes find; with an OR the newest of all events would be walked through.
        about = union(
            select(EVENT.c.id).where(EVENT.c.study_instance_uid.in_(studies)),
            select(EVENT.c.id).where(EVENT.c.order.in_(orders)),
            select(EVENT.c.id).where(EVENT.c.subject == Subject.ORDER.value, EVENT.c.subject_id.in_(orders)),
            select(EVENT.c.id).where(
                EVENT.c.subject == Subject.DELIVERY.value,
                EVENT.c.subject_id.in_([row["id"] for row in deliveries][:500]),
            ),
        )
        entries = _events(connection, and_(EVENT.c.id.in_(about), _NOT_SUMMARISED))
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
        entries += [
            *_series(connection, studies),
            *_decisions(connection, studies),
            *_queries(connection, orders),
        ]
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
    linked = (
        select(PERFORMED_LINK.c.performed)
        .join(STEP, STEP.c.id == PERFORMED_LINK.c.step)
        .where(STEP.c.order.in_(orders))
    )
    named = select(PERFORMED_STUDY.c.performed).where(PERFORMED_STUDY.c.study_instance_uid.in_(studies))
    statement = select(
        PERFORMED.c.id, PERFORMED.c.created_at, PERFORMED.c.calling_ae_title, PERFORMED.c.status
    ).where(PERFORMED.c.id.in_(union(linked, named)))
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
    for number, row in enumerate(mappings(connection, statement)):
        details = {
            "series_instance_uid": row["series_instance_uid"],
            "modality": row["modality"],
            "instances": row["instances"],
            "last_received_at": row["last"].isoformat(),
        }
        if number < MAX_SERIES_SHOWN:
            details["previews"] = _samples(connection, row["series_instance_uid"], row["instances"])
        yield _entry(
            row["first"], EventName.INSTANCE_RECEIVED, Subject.SERIES, None, row["calling_ae_title"], details
        )


def _samples(connection: Connection, series_instance_uid: str, instances: int) -> list[int]:
    """Answer the instances that show what a series is: its first, its last and two between them."""
    ids = select(INSTANCE.c.id).where(INSTANCE.c.series_instance_uid == series_instance_uid)
    last = PREVIEWS - 1
    places = sorted({round((instances - 1) * part / last) for part in range(PREVIEWS)})
    return [
        int(key)
        for place in places
        for key in connection.execute(ids.order_by(INSTANCE.c.id).offset(place).limit(1)).scalars()
    ]


def _queries(connection: Connection, orders: Sequence[int]) -> Iterable[TimelineEntry]:
    """Tell which devices got a step in answer to a query: each device's first and newest time.

    Looked for among the newest queries since the steps were made and until they were begun, for the log of all
    queries is long.
    """
    steps = mappings(
        connection,
        select(STEP.c.id, STEP.c.created_at, STEP.c.status, STEP.c.status_changed_at)
        .where(STEP.c.order.in_(orders))
        .order_by(STEP.c.id)
        .limit(MAX_STEPS_SHOWN),
    )
    if not steps:
        return
    asked = [EVENT.c.name == EventName.WORKLIST_QUERIED.value]
    asked.append(EVENT.c.at >= min(row["created_at"] for row in steps))
    if not any(row["status"] in _OFFERED for row in steps):
        asked.append(EVENT.c.at <= max(row["status_changed_at"] for row in steps) + _STILL_SHOWN)
    recent = (
        select(EVENT.c.at, EVENT.c.actor, EVENT.c.details)
        .where(*asked)
        .order_by(EVENT.c.at.desc())
        .limit(MAX_QUERIES_READ)
        .subquery()
    )
    wanted = {str(row["id"]) for row in steps}
    named = or_(*(cast(recent.c.details, Text).like(f'%"{step}"%') for step in wanted))
    by_device: dict[str, list[Any]] = {}
    for row in mappings(connection, select(recent).where(named)):
        if wanted & set(row["details"].get("steps") or ()):
            by_device.setdefault(row["actor"], []).append(row)
    for actor, rows in by_device.items():
        rows.sort(key=_asked_at)
        times = len(rows)
        for place in (rows[0],) if times == 1 else (rows[0], rows[-1]):
            details = {
                name: place["details"].get(name) for name in ("answers", "status", "keys", "duration_ms")
            }
            if place is not rows[0]:
                details["times"] = times - 1
            yield _entry(_asked_at(place), EventName.WORKLIST_QUERIED, Subject.DEVICE, None, actor, details)


def _asked_at(row: Any) -> datetime:
    """Answer when a query was asked; its event is written with others a moment later."""
    try:
        return datetime.fromisoformat(str(row["details"].get("asked_at"))).astimezone(UTC)
    except ValueError:
        at: datetime = row["at"]
        return at


def _decisions(connection: Connection, studies: Sequence[str]) -> Iterable[TimelineEntry]:
    rows = mappings(
        connection,
        select(
            DECISION.c.study_instance_uid,
            DECISION.c.decided_at,
            DECISION.c.routes,
            DECISION.c.conflicts,
            DECISION.c.configuration,
        )
        .where(DECISION.c.study_instance_uid.in_(studies))
        .order_by(DECISION.c.id)
        .limit(10 * MAX_ENTRIES),
    )
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        key = (row["study_instance_uid"], tuple(row["routes"]), tuple(row["conflicts"]), row["configuration"])
        groups.setdefault(key, []).append(row)
    for (_, routes, conflicts, configuration), alike in groups.items():
        details: dict[str, object] = {
            "study": alike[0]["study_instance_uid"],
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
