"""Scheduled procedure steps as stored, with the copies a worklist query narrows by."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, case, delete, select, update

from broker.db.encoding import decode_attributes, encode_attributes
from broker.db.prepared import Prepared
from broker.db.repositories.orders import order_of, procedure_of
from broker.db.repositories.patients import patient_of
from broker.db.schema import ORDER, PATIENT, PROCEDURE, STEP, STEP_STATION
from broker.db.transaction import Transaction
from broker.domain.names import name_key
from broker.domain.orders import (
    ImagingOrder,
    Patient,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import FINAL_STEPS, OFFERED_BY_DEFAULT, StepStatus
from broker.errors import NotFound

PRIORITY_RANKS = {"STAT": 1, "HIGH": 2, "ROUTINE": 3, "MEDIUM": 4, "LOW": 5}
"""Requested Procedure Priority (0040,1003) in the order PS3.3 C.4.11 lists it; unknown counts as MEDIUM."""
UNKNOWN_PRIORITY_RANK = 4

_STATUS_CHANGED_AT = case(
    (STEP.c.status != bindparam("new_status"), bindparam("changed_at")), else_=STEP.c.status_changed_at
)
_NOT_SAVED = frozenset({"id", "created_at", "revision", "status_changed_at"})
_SAVE = Prepared(
    update(STEP)
    .where(STEP.c.id == bindparam("key"))
    .values(revision=STEP.c.revision + 1, status_changed_at=_STATUS_CHANGED_AT),
    [column.name for column in STEP.c if column.name not in _NOT_SAVED],
)
_FORGET_STATIONS = Prepared(delete(STEP_STATION).where(STEP_STATION.c.step == bindparam("key")))


def _steps_where(column: ColumnElement[int]) -> Prepared:
    return Prepared(select(STEP).where(column == bindparam("key")).order_by(STEP.c.id))


_BY_ID = _steps_where(STEP.c.id)
_OF_ORDER = _steps_where(STEP.c.order)
_OF_PROCEDURE = _steps_where(STEP.c.procedure)


class SqlSteps:
    """Implements the Steps port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def of_order(self, order: int) -> list[ScheduledProcedureStep]:
        """Answer the steps of an order, oldest first."""
        return self._steps(_OF_ORDER, order)

    def of_procedure(self, procedure: int) -> list[ScheduledProcedureStep]:
        """Answer the steps of a requested procedure, oldest first."""
        return self._steps(_OF_PROCEDURE, procedure)

    def get(self, step: int) -> ScheduledProcedureStep:
        """Answer a step. Raises NotFound."""
        found = self._steps(_BY_ID, step)
        if not found:
            raise NotFound("There is no such scheduled procedure step.")
        return found[0]

    def add(self, entry: WorklistEntry, *, elements: bytes, now: datetime) -> ScheduledProcedureStep:
        """Store a new step with its copies. Raises DuplicateKey when the procedure has one with this id."""
        values = {
            **_values(entry, elements, now),
            "revision": 0,
            "status_changed_at": now,
            "created_at": now,
        }
        key = self._transaction.insert(STEP, values)
        self._write_stations(key, values)
        return replace(entry.step, id=key, revision=0)

    def save(self, entry: WorklistEntry, *, elements: bytes, now: datetime) -> None:
        """Store a step and its copies again, raising its revision."""
        values = _values(entry, elements, now)
        changed = self._transaction.change(
            _SAVE,
            {
                **values,
                "key": entry.step.id,
                "new_status": values["status"],
                "changed_at": values["updated_at"],
            },
        )
        if changed != 1:
            raise NotFound("There is no such scheduled procedure step.")
        self._transaction.change(_FORGET_STATIONS, {"key": entry.step.id})
        self._write_stations(entry.step.id, values)

    def entry(self, step: int) -> WorklistEntry:
        """Answer a step with its procedure, order and patient. Raises NotFound."""
        found = self._entries(STEP.c.id == step)
        if not found:
            raise NotFound("There is no such scheduled procedure step.")
        return found[0]

    def entries_of_patient(self, patient: int, *, open_only: bool) -> list[WorklistEntry]:
        """Answer the entries of a patient, oldest first; those that can still change if `open_only`."""
        condition = STEP.c.patient == patient
        if open_only:
            condition &= STEP.c.status.not_in([status.value for status in FINAL_STEPS])
        return self._entries(condition)

    def find_for_performed(
        self,
        *,
        study_instance_uid: str | None,
        accession_number: str | None,
        requested_procedure_id: str | None,
        scheduled_procedure_step_id: str | None,
    ) -> list[WorklistEntry]:
        """Find the steps one item of (0040,0270) means; the first rule with a hit answers."""
        if not scheduled_procedure_step_id:
            return []
        for column, value in (
            (STEP.c.study_instance_uid, study_instance_uid),
            (STEP.c.accession_number, accession_number),
            (STEP.c.requested_procedure_id, requested_procedure_id),
        ):
            if value:
                found = self._entries(
                    (column == value) & (STEP.c.scheduled_procedure_step_id == scheduled_procedure_step_id)
                )
                if found:
                    return found
        return []

    def _steps(self, prepared: Prepared, key: int) -> list[ScheduledProcedureStep]:
        return [step_of(row) for row in self._transaction.rows(prepared, {"key": key})]

    def _entries(self, condition: ColumnElement[bool]) -> list[WorklistEntry]:
        return read_entries(self._transaction, select(STEP).where(condition).order_by(STEP.c.id))

    def _write_stations(self, step: int, values: dict[str, Any]) -> None:
        titles = sorted({title.upper() for title in values["station_ae_titles"] if title})
        shared = {"step": step, "offered": values["offered"], "start_date": values["start_date"]}
        self._transaction.insert_many(STEP_STATION, [{**shared, "ae_title": title} for title in titles])


def read_entries(transaction: Transaction, steps: Select[Any]) -> list[WorklistEntry]:
    """Read steps with what belongs to them: four statements, however many steps."""
    rows = transaction.execute(steps).mappings().all()
    if not rows:
        return []
    patients: dict[int, Patient] = {}
    orders: dict[int, ImagingOrder] = {}
    procedures: dict[int, RequestedProcedure] = {}
    for chunk in _chunks(sorted({row["patient"] for row in rows})):
        found = transaction.execute(select(PATIENT).where(PATIENT.c.id.in_(chunk)))
        patients |= {row["id"]: patient_of(row) for row in found.mappings()}
    for chunk in _chunks(sorted({row["order"] for row in rows})):
        found = transaction.execute(select(ORDER).where(ORDER.c.id.in_(chunk)))
        orders |= {row["id"]: order_of(row) for row in found.mappings()}
    for chunk in _chunks(sorted({row["procedure"] for row in rows})):
        found = transaction.execute(select(PROCEDURE).where(PROCEDURE.c.id.in_(chunk)))
        procedures |= {row["id"]: procedure_of(row) for row in found.mappings()}
    return [
        WorklistEntry(
            patients[row["patient"]], orders[row["order"]], procedures[row["procedure"]], step_of(row)
        )
        for row in rows
    ]


def _chunks(keys: list[int], size: int = 500) -> list[list[int]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _values(entry: WorklistEntry, elements: bytes, now: datetime) -> dict[str, Any]:
    step, procedure, order, patient = entry.step, entry.procedure, entry.order, entry.patient
    priority = procedure.attributes.get("RequestedProcedurePriority") or order.attributes.get(
        "RequestedProcedurePriority"
    )
    rank = PRIORITY_RANKS.get(priority.upper()) if isinstance(priority, str) else None
    return {
        "procedure": procedure.id,
        "order": order.id,
        "patient": patient.id,
        "scheduled_procedure_step_id": step.scheduled_procedure_step_id,
        "modality": step.modality,
        "station_ae_titles": list(step.station_ae_titles),
        "start_date": step.start_date,
        "start_time": step.start_time,
        "time_unspecified": step.time_unspecified,
        "status": step.status.value,
        "previous_status": step.previous_status.value if step.previous_status else None,
        "offered": step.status in OFFERED_BY_DEFAULT and not step.missing,
        "missing": list(step.missing),
        "priority_rank": rank or UNKNOWN_PRIORITY_RANK,
        "patient_id": patient.patient_id,
        "name_key": name_key(patient.name),
        "accession_number": order.accession_number,
        "requested_procedure_id": procedure.requested_procedure_id,
        "study_instance_uid": procedure.study_instance_uid,
        "attributes": encode_attributes(step.attributes),
        "sources": dict(step.sources),
        "elements": elements,
        "updated_at": now,
    }


def step_of(row: Any) -> ScheduledProcedureStep:
    """Read a step from the mapping of a row."""
    previous = row["previous_status"]
    return ScheduledProcedureStep(
        id=row["id"],
        procedure=row["procedure"],
        scheduled_procedure_step_id=row["scheduled_procedure_step_id"],
        modality=row["modality"],
        station_ae_titles=tuple(row["station_ae_titles"]),
        start_date=row["start_date"],
        start_time=row["start_time"],
        status=StepStatus(row["status"]),
        previous_status=StepStatus(previous) if previous else None,
        time_unspecified=bool(row["time_unspecified"]),
        attributes=decode_attributes(row["attributes"]),
        missing=tuple(row["missing"]),
        revision=row["revision"],
        sources=row["sources"],
    )
