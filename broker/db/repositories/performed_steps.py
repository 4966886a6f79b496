"""Performed procedure steps as stored, and which scheduled steps they perform."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, select, update

from broker.db.encoding import decode_values, encode_values
from broker.db.schema import PERFORMED, PERFORMED_LINK, PERFORMED_STUDY
from broker.db.transaction import Transaction
from broker.domain.steps import PerformedStatus
from broker.errors import DuplicateKey, NotFound
from broker.workflow.performed_port import PerformedStep


class SqlPerformedSteps:
    """Implements the PerformedSteps port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def find(self, sop_instance_uid: str, *, lock: bool = False) -> PerformedStep | None:
        """Find a performed step; locked, another N-SET of it waits until this transaction ends."""
        statement = select(PERFORMED).where(PERFORMED.c.sop_instance_uid == sop_instance_uid)
        if lock:
            statement = statement.with_for_update()
        row = self._transaction.execute(statement).mappings().one_or_none()
        return None if row is None else _performed(row)

    def add(self, step: PerformedStep, *, now: datetime) -> PerformedStep:
        """Store it; raises DuplicateKey when the UID exists."""
        values = {**_values(step, now), "created_at": now}
        key = self._transaction.insert_unless_there(PERFORMED, values)
        if key is None:
            raise DuplicateKey(
                "A performed procedure step with this UID exists.", field="AffectedSOPInstanceUID"
            )
        self._name_studies(key, step)
        return _performed({**values, "id": key})

    def save(self, step: PerformedStep, *, now: datetime) -> None:
        """Store it again. Raises NotFound."""
        changed = self._transaction.execute(
            update(PERFORMED).where(PERFORMED.c.id == bindparam("key")),
            {**_values(step, now), "key": step.id},
        )
        if changed.rowcount != 1:
            raise NotFound("There is no such performed procedure step.")
        gone = PERFORMED_STUDY.c.study_instance_uid.not_in(step.study_instance_uids)
        self._transaction.execute(delete(PERFORMED_STUDY).where(PERFORMED_STUDY.c.performed == step.id, gone))
        self._name_studies(step.id, step)

    def _name_studies(self, performed: int, step: PerformedStep) -> None:
        for study in dict.fromkeys(step.study_instance_uids):
            self._transaction.execute(
                self._transaction.insert_ignoring(PERFORMED_STUDY),
                {"study_instance_uid": study, "performed": performed},
            )

    def link(self, performed: int, step: int) -> None:
        """Say that `performed` performs `step`; saying it twice changes nothing."""
        self._transaction.execute(
            self._transaction.insert_ignoring(PERFORMED_LINK), {"performed": performed, "step": step}
        )

    def steps_of(self, performed: int) -> list[int]:
        """Answer the ids of the scheduled steps it performs."""
        rows = self._transaction.execute(
            select(PERFORMED_LINK.c.step)
            .where(PERFORMED_LINK.c.performed == performed)
            .order_by(PERFORMED_LINK.c.step)
        )
        return [int(step) for step in rows.scalars()]

    def performed_of(self, step: int) -> list[PerformedStep]:
        """Answer what performs a scheduled step, oldest first."""
        return self._select(
            PERFORMED.c.id.in_(select(PERFORMED_LINK.c.performed).where(PERFORMED_LINK.c.step == step))
        )

    def of_study(self, study_instance_uid: str) -> list[PerformedStep]:
        """Answer what was performed under a Study Instance UID, oldest first."""
        named = select(PERFORMED_STUDY.c.performed).where(
            PERFORMED_STUDY.c.study_instance_uid == study_instance_uid
        )
        return self._select(PERFORMED.c.id.in_(named))

    def _select(self, condition: ColumnElement[bool]) -> list[PerformedStep]:
        rows = self._transaction.execute(select(PERFORMED).where(condition).order_by(PERFORMED.c.id))
        return [_performed(row) for row in rows.mappings()]


def _values(step: PerformedStep, now: datetime) -> dict[str, Any]:
    return {
        "sop_instance_uid": step.sop_instance_uid,
        "status": step.status.value,
        "calling_ae_title": step.calling_ae_title,
        "performed_station_ae_title": step.performed_station_ae_title,
        "modality": step.modality,
        "patient_id": step.patient_id,
        "study_instance_uids": list(step.study_instance_uids),
        "data_set": step.data_set,
        "series": encode_values(step.series),
        "started_at": step.started_at,
        "ended_at": step.ended_at,
        "discontinuation_reason": step.discontinuation_reason,
        "matched": step.matched,
        "patient_mismatch": step.patient_mismatch,
        "updated_at": now,
    }


def _performed(row: Any) -> PerformedStep:
    return PerformedStep(
        id=row["id"],
        sop_instance_uid=row["sop_instance_uid"],
        status=PerformedStatus(row["status"]),
        calling_ae_title=row["calling_ae_title"],
        data_set=bytes(row["data_set"]),
        performed_station_ae_title=row["performed_station_ae_title"],
        modality=row["modality"],
        patient_id=row["patient_id"],
        study_instance_uids=tuple(row["study_instance_uids"]),
        series=decode_values(row["series"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        discontinuation_reason=row["discontinuation_reason"],
        matched=bool(row["matched"]),
        patient_mismatch=bool(row["patient_mismatch"]),
    )
