"""Lists imaging orders for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, literal_column, select, tuple_, union

from broker.db.reports.reading import FIRST_PAGE, Reader, mappings, paged, patients_with, text_of, typed
from broker.db.schema import ORDER, PATIENT, PROCEDURE, STEP
from broker.db.synthetic import is_a_patient
from broker.domain.steps import OFFERED_BY_DEFAULT
from broker.errors import NotFound
from broker.workflow.reports_port import OrderLine, Page

_COLUMNS = select(
    ORDER.c.id,
    ORDER.c.accession_number,
    ORDER.c.placer_order_number,
    ORDER.c.filler_order_number,
    ORDER.c.status,
    ORDER.c.updated_at,
    PATIENT.c.patient_id,
    PATIENT.c.name,
).join(PATIENT, PATIENT.c.id == ORDER.c.patient)

# A step in a status C-FIND offers that is not offered lacks something.
INCOMPLETE_ORDERS = select(STEP.c.order).where(
    # As the partial index says it; `offered = 0` would make SQLite look through all that are not offered.
    literal_column("NOT scheduled_procedure_step.offered"),
    STEP.c.status.in_([literal_column(f"'{name}'") for name in sorted(s.value for s in OFFERED_BY_DEFAULT)]),
)


class OrderReports(Reader):
    """Implements the orders part of the Reports port."""

    def orders(
        self,
        *,
        status: str | None = None,
        incomplete: bool = False,
        text: str | None = None,
        before: tuple[datetime, int] | None = None,
        page: Page = FIRST_PAGE,
    ) -> Sequence[OrderLine]:
        """List orders, newest change first; `before` is when the last one seen was changed, and its id."""
        statement = _COLUMNS.order_by(ORDER.c.updated_at.desc(), ORDER.c.id.desc())
        statement = statement.where(is_a_patient(PATIENT.c.patient_id))
        if before is not None:
            statement = statement.where(tuple_(ORDER.c.updated_at, ORDER.c.id) < tuple_(*before))
        if status:
            statement = statement.where(ORDER.c.status == status.strip().upper())
        if incomplete:
            statement = statement.where(ORDER.c.id.in_(INCOMPLETE_ORDERS))
        if wanted := typed(text):
            statement = statement.where(
                # A union of what several indexes find; an OR of them would read every order.
                ORDER.c.id.in_(
                    union(
                        select(ORDER.c.id).where(ORDER.c.patient.in_(patients_with(wanted))),
                        select(ORDER.c.id).where(ORDER.c.accession_number.contains(wanted, autoescape=True)),
                        select(ORDER.c.id).where(ORDER.c.placer_order_number == wanted),
                        select(ORDER.c.id).where(ORDER.c.filler_order_number == wanted),
                    )
                )
            )
        with self._reading() as connection:
            return _lines(connection, paged(statement, page))

    def order(self, order_id: int) -> OrderLine:
        """Answer one. Raises NotFound."""
        with self._reading() as connection:
            found = _lines(connection, _COLUMNS.where(ORDER.c.id == order_id))
        if not found:
            raise NotFound("There is no such order.")
        return found[0]


def order_lines(connection: Connection, ids: Sequence[int]) -> list[OrderLine]:
    """Answer orders in the order of their ids given; those that are not there are left out."""
    lines = {line.order_id: line for line in _lines(connection, _COLUMNS.where(ORDER.c.id.in_(ids)))}
    return [lines[key] for key in ids if key in lines]


def _lines(connection: Connection, statement: Select[Any]) -> list[OrderLine]:
    rows = mappings(connection, statement)
    ids = [row["id"] for row in rows]
    procedures: dict[int, list[Any]] = defaultdict(list)
    for row in mappings(
        connection, select(PROCEDURE).where(PROCEDURE.c.order.in_(ids)).order_by(PROCEDURE.c.id)
    ):
        procedures[row["order"]].append(row)
    missing: dict[int, set[str]] = defaultdict(set)
    for row in mappings(connection, select(STEP.c.order, STEP.c.missing).where(STEP.c.order.in_(ids))):
        missing[row["order"]].update(row["missing"])
    return [_line(row, procedures[row["id"]], missing[row["id"]]) for row in rows]


def _line(row: Any, procedures: Sequence[Any], missing: set[str]) -> OrderLine:
    descriptions = [text_of(p["attributes"], "RequestedProcedureDescription") for p in procedures]
    return OrderLine(
        order_id=row["id"],
        accession_number=row["accession_number"],
        placer_order_number=row["placer_order_number"],
        filler_order_number=row["filler_order_number"],
        patient_id=row["patient_id"],
        patient_name=row["name"],
        status=row["status"],
        procedure="; ".join(dict.fromkeys(filter(None, descriptions))),
        missing=tuple(sorted(missing)),
        updated_at=row["updated_at"],
        study_instance_uids=tuple(dict.fromkeys(p["study_instance_uid"] for p in procedures)),
    )
