"""Lists received studies for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, literal_column, or_, select

from broker.db.reports.reading import FIRST_PAGE, Reader, mappings, paged, typed
from broker.db.schema import INSTANCE, ORDER, PATIENT, STUDY
from broker.db.synthetic import of_patients
from broker.workflow.images_port import InstanceState
from broker.workflow.reports_port import Page, StudyLine


class StudyReports(Reader):
    """Implements the studies part of the Reports port."""

    def studies(
        self,
        *,
        state: str | None = None,
        text: str | None = None,
        before: str | None = None,
        page: Page = FIRST_PAGE,
    ) -> Sequence[StudyLine]:
        """List received studies, newest first; `text` is a Study Instance UID, patient id or accession number.

        `before` is the Study Instance UID of the last one seen.
        """
        statement = select(STUDY).where(of_patients(STUDY.c.study_instance_uid)).order_by(STUDY.c.id.desc())
        if before is not None:
            last = select(STUDY.c.id).where(STUDY.c.study_instance_uid == before)
            statement = statement.where(STUDY.c.id < last.scalar_subquery())
        if state:
            statement = statement.where(_in_state(state.strip().upper()))
        if wanted := typed(text):
            statement = statement.where(
                or_(
                    STUDY.c.study_instance_uid == wanted,
                    STUDY.c.patient_id == wanted,
                    STUDY.c.accession_number == wanted,
                )
            )
        with self._reading() as connection:
            studies = mappings(connection, paged(statement, page))
            return study_lines(connection, [study["study_instance_uid"] for study in studies])


def study_lines(connection: Connection, uids: Sequence[str]) -> list[StudyLine]:
    """Answer received studies in the order of their UIDs given; those of which nothing came are left out."""
    counts = {row["study_instance_uid"]: row for row in mappings(connection, _counts(uids))}
    newest = _newest(connection, [row["newest"] for row in counts.values()])
    joined = _patient_names(connection, [row["order"] for row in counts.values() if row["order"]])
    return [
        _line(counts[uid], newest[counts[uid]["newest"]], joined.get(counts[uid]["order"]))
        for uid in uids
        if uid in counts
    ]


def _in_state(state: str) -> ColumnElement[bool]:
    """Tell in SQL whether a study is in a state: UNROUTED if any instance is, RECEIVED if any is, else ROUTED."""
    unrouted, received = _has(InstanceState.UNROUTED), _has(InstanceState.RECEIVED)
    if state == InstanceState.UNROUTED.value:
        return unrouted
    if state == InstanceState.RECEIVED.value:
        return received & ~unrouted
    return ~unrouted & ~received


def _has(state: InstanceState) -> ColumnElement[bool]:
    return STUDY.c.study_instance_uid.in_(
        select(INSTANCE.c.study_instance_uid).where(INSTANCE.c.state == literal_column(f"'{state.value}'"))
    )


def _counts(uids: Sequence[str]) -> Any:
    return (
        select(
            INSTANCE.c.study_instance_uid,
            func.count(INSTANCE.c.series_instance_uid.distinct()).label("series"),
            func.count(INSTANCE.c.sop_instance_uid.distinct()).label("instances"),
            # UNROUTED > ROUTED > RECEIVED as texts: the smallest and the greatest say which there are.
            func.min(INSTANCE.c.state).label("least_state"),
            func.max(INSTANCE.c.state).label("most_state"),
            func.max(INSTANCE.c.id).label("newest"),
            func.max(INSTANCE.c.order).label("order"),
            func.max(INSTANCE.c.last_received_at).label("last_received_at"),
            func.min(INSTANCE.c.modality).label("modality"),
        )
        .where(INSTANCE.c.study_instance_uid.in_(uids))
        .group_by(INSTANCE.c.study_instance_uid)
    )


def _newest(connection: Connection, ids: Sequence[int]) -> dict[int, Any]:
    statement = select(
        INSTANCE.c.id, INSTANCE.c.patient_id, INSTANCE.c.accession_number, INSTANCE.c.facts
    ).where(INSTANCE.c.id.in_(ids))
    return {row["id"]: row for row in mappings(connection, statement)}


def _patient_names(connection: Connection, orders: Sequence[int]) -> dict[int, str]:
    statement = (
        select(ORDER.c.id, PATIENT.c.name)
        .join(PATIENT, PATIENT.c.id == ORDER.c.patient)
        .where(ORDER.c.id.in_(orders))
    )
    return {row["id"]: row["name"] for row in mappings(connection, statement)}


def _line(counts: Any, newest: Any, name_of_order: str | None) -> StudyLine:
    state = InstanceState.ROUTED
    if counts["most_state"] == InstanceState.UNROUTED.value:
        state = InstanceState.UNROUTED
    elif counts["least_state"] == InstanceState.RECEIVED.value:
        state = InstanceState.RECEIVED
    names = newest["facts"].get("PatientName") or [""]
    return StudyLine(
        study_instance_uid=counts["study_instance_uid"],
        patient_id=newest["patient_id"],
        patient_name=name_of_order or names[0],
        accession_number=newest["accession_number"],
        modality=counts["modality"],
        series=counts["series"],
        instances=counts["instances"],
        state=state.value,
        order_id=counts["order"],
        last_received_at=counts["last_received_at"],
    )
