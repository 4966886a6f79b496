"""Lists scheduled procedure steps for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select, union

from broker.db.reports.reading import FIRST_PAGE, Reader, mappings, paged, patients_with, text_of, typed
from broker.db.schema import PATIENT, PROCEDURE, STEP, STEP_STATION
from broker.db.synthetic import of_patients
from broker.workflow.reports_port import MAX_PAGE, MOST_ROWS, Page, WorklistLine

WORKLIST_COLUMNS = (
    select(
        STEP.c.id,
        STEP.c.scheduled_procedure_step_id,
        STEP.c.accession_number,
        STEP.c.patient_id,
        STEP.c.modality,
        STEP.c.station_ae_titles,
        STEP.c.start_date,
        STEP.c.start_time,
        STEP.c.time_unspecified,
        STEP.c.status,
        STEP.c.study_instance_uid,
        STEP.c.order,
        STEP.c.missing,
        STEP.c.attributes,
        PATIENT.c.name,
        PATIENT.c.birth_date,
        PROCEDURE.c.attributes.label("procedure_attributes"),
    )
    .join(PATIENT, PATIENT.c.id == STEP.c.patient)
    .join(PROCEDURE, PROCEDURE.c.id == STEP.c.procedure)
    .where(of_patients(STEP.c.study_instance_uid))
)


class WorklistReports(Reader):
    """Implements the worklist part of the Reports port."""

    def worklist(
        self,
        *,
        date: str | None = None,
        modality: str | None = None,
        station: str | None = None,
        status: str | None = None,
        text: str | None = None,
        page: Page = FIRST_PAGE,
    ) -> Sequence[WorklistLine]:
        """List steps by their start; without a date the latest come first, else history would hide them."""
        statement: Select[Any] = WORKLIST_COLUMNS
        if date:
            statement = statement.where(STEP.c.start_date == date).order_by(
                STEP.c.start_date, STEP.c.start_time, STEP.c.priority_rank, STEP.c.name_key, STEP.c.id
            )
        else:
            statement = statement.order_by(
                STEP.c.start_date.desc(), STEP.c.start_time.desc(), STEP.c.id.desc()
            )
        statement = narrowed(statement, modality=modality, station=station, status=status, text=text)
        with self._reading() as connection:
            if date:
                rows = mappings(connection, paged(statement, page))
            else:
                rows = _dated_then_undated(connection, statement, page)
        return [worklist_line(row) for row in rows]

    def steps_with(self, steps: Sequence[int]) -> Sequence[WorklistLine]:
        """Answer the steps with these ids, at most a page."""
        statement = WORKLIST_COLUMNS.where(STEP.c.id.in_(steps[:MAX_PAGE]))
        with self._reading() as connection:
            return [worklist_line(row) for row in mappings(connection, statement)]


def narrowed(
    statement: Select[Any],
    *,
    modality: str | None,
    station: str | None,
    status: str | None,
    text: str | None,
) -> Select[Any]:
    """Leave what does not fit out of a list of steps; an empty filter fits all."""
    if modality:
        statement = statement.where(STEP.c.modality == modality.strip().upper())
    if station:
        statement = statement.where(
            STEP.c.id.in_(
                select(STEP_STATION.c.step).where(STEP_STATION.c.ae_title == station.strip().upper())
            )
        )
    if status:
        statement = statement.where(STEP.c.status == status.strip().upper())
    if wanted := typed(text):
        statement = statement.where(
            # A union of what several indexes find; an OR of them would read every step.
            STEP.c.id.in_(
                union(
                    select(STEP.c.id).where(STEP.c.patient.in_(patients_with(wanted))),
                    select(STEP.c.id).where(STEP.c.accession_number.contains(wanted, autoescape=True)),
                    select(STEP.c.id).where(STEP.c.study_instance_uid == wanted),
                )
            )
        )
    return statement


def _dated_then_undated(connection: Connection, statement: Select[Any], page: Page) -> Sequence[Any]:
    """Read a page of steps with a date in the order of the index, and after them those without one.

    The databases put absent values at different ends, and sort by hand what an index does not have.
    """
    limit = max(0, min(page.limit, MOST_ROWS))
    dated = statement.where(STEP.c.start_date.is_not(None))
    rows = list(mappings(connection, paged(dated, page)))
    if len(rows) < limit:
        before = page.offset + len(rows)
        if not rows and page.offset > 0:
            counted = select(func.count()).select_from(dated.order_by(None).subquery())
            before = connection.execute(counted).scalar_one()
        rest = Page(limit - len(rows), max(0, page.offset - before))
        rows += mappings(connection, paged(statement.where(STEP.c.start_date.is_(None)), rest))
    return rows


def worklist_line(row: Any) -> WorklistLine:
    """Read a step from the mapping of a row of WORKLIST_COLUMNS."""
    procedure = row["procedure_attributes"]
    return WorklistLine(
        step=row["id"],
        sps_id=row["scheduled_procedure_step_id"],
        accession_number=row["accession_number"],
        patient_id=row["patient_id"],
        patient_name=row["name"],
        modality=row["modality"],
        station_ae_titles=tuple(row["station_ae_titles"]),
        start=_start(row["start_date"], row["start_time"], unspecified=row["time_unspecified"]),
        status=row["status"],
        description=text_of(row["attributes"], "ScheduledProcedureStepDescription")
        or text_of(procedure, "RequestedProcedureDescription"),
        study_instance_uid=row["study_instance_uid"],
        order_id=row["order"],
        missing=tuple(row["missing"]),
        birth_date=row["birth_date"],
        priority=text_of(procedure, "RequestedProcedurePriority"),
    )


def _start(date: str | None, time: str | None, *, unspecified: bool) -> str | None:
    """Write a start as `YYYY-MM-DD HH:MM`, without the time where none was given."""
    if not date:
        return None
    day = f"{date[:4]}-{date[4:6]}-{date[6:8]}"
    return day if unspecified or not time else f"{day} {time[:2]}:{time[2:4] or '00'}"
