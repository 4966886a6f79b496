"""Synthetic exams as stored, and the removal of what they left behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, func, literal_column, select, update

from broker.db.encoding import storable, storable_json
from broker.db.schema import (
    DECISION,
    DELIVERY,
    DELIVERY_ITEM,
    DESTINATION,
    INSTANCE,
    MESSAGE,
    ORDER,
    PATIENT,
    PATIENT_ALIAS,
    PERFORMED,
    PERFORMED_LINK,
    PERFORMED_STUDY,
    PROBE_RUN,
    PROCEDURE,
    STEP,
    STEP_STATION,
    STUDY,
)
from broker.db.transaction import Transaction
from broker.domain.delivery import DeliveryState
from broker.workflow.probe_port import PROBE, PROBE_DESTINATION, Hop, ProbeRun

IS_OPEN = PROBE_RUN.c.state == literal_column("'OPEN'")


class SqlProbeRuns:
    """Implements the ProbeRuns port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(self, run: ProbeRun) -> int:
        """Register an exam, answer its id."""
        values = {
            "study_instance_uid": run.study_instance_uid,
            "patient_id": run.patient_id,
            "state": "OPEN",
            "actor": storable(run.actor, 128),
            "started_at": run.started_at,
            "hops": [],
        }
        return self._transaction.insert(PROBE_RUN, values)

    def keep(self, run: ProbeRun) -> None:
        """Store what has become of it so far, or at its end."""
        hops = [storable_json(asdict(hop)) for hop in run.hops]
        self._transaction.execute(
            update(PROBE_RUN)
            .where(PROBE_RUN.c.id == run.id)
            .values(ended_at=run.ended_at, failed_hop=run.failed_hop, hops=hops)
        )

    def among(self, study_instance_uids: Iterable[str]) -> set[str]:
        """Answer which of these studies are synthetic."""
        asked = sorted(set(study_instance_uids))
        if not asked:
            return set()
        uid = PROBE_RUN.c.study_instance_uid
        return set(self._transaction.execute(select(uid).where(uid.in_(asked))).scalars())

    def last_started(self) -> datetime | None:
        """Answer when the last exam began."""
        statement = select(PROBE_RUN.c.started_at).order_by(PROBE_RUN.c.started_at.desc()).limit(1)
        found: datetime | None = self._transaction.execute(statement).scalar_one_or_none()
        return found

    def open(self, *, started_before: datetime) -> list[ProbeRun]:
        """Answer exams whose rows are still there: those that held, and of the others the older ones."""
        held = PROBE_RUN.c.ended_at.is_not(None) & PROBE_RUN.c.failed_hop.is_(None)
        statement = select(PROBE_RUN).where(IS_OPEN, held | (PROBE_RUN.c.started_at < started_before))
        return [probe_run_of(row) for row in self._transaction.execute(statement).mappings()]

    def clear(self, run: ProbeRun) -> list[str] | None:
        """Remove every row of an exam but its registration and events; answer the paths of its files.

        Everything is found by the study it was registered with and by its own patient, who has no other order.
        """
        study = run.study_instance_uid
        of_study = DELIVERY.c.study_instance_uid == study
        busy = DELIVERY.c.state == DeliveryState.IN_PROGRESS.value
        if self._ids(DELIVERY, of_study, busy):
            return None
        patients = self._ids(PATIENT, PATIENT.c.patient_id == run.patient_id)
        orders = self._ids(ORDER, ORDER.c.patient.in_(patients))
        procedures = self._ids(PROCEDURE, PROCEDURE.c.order.in_(orders))
        steps = self._ids(STEP, STEP.c.order.in_(orders))
        instances = self._ids(INSTANCE, INSTANCE.c.study_instance_uid == study)
        deliveries = self._ids(DELIVERY, of_study)
        performed = self._ids(PERFORMED, PERFORMED.c.patient_id == run.patient_id)
        messages = self._ids(
            MESSAGE,
            MESSAGE.c.sending_application == PROBE,
            MESSAGE.c.message_control_id == run.patient_id,
        )
        # SQLite gives the id of a removed newest row again: what remembers ids (answers, events) would take one for the
        # other. Such an exam goes when something newer has come.
        numbered = (
            (PATIENT, patients),
            (ORDER, orders),
            (PROCEDURE, procedures),
            (STEP, steps),
            (INSTANCE, instances),
            (DELIVERY, deliveries),
            (PERFORMED, performed),
            (MESSAGE, messages),
        )
        if not self._transaction.is_postgresql and any(
            ids and max(ids) == self._newest(table) for table, ids in numbered
        ):
            return None
        paths = list(
            self._transaction.execute(select(INSTANCE.c.path).where(INSTANCE.c.id.in_(instances))).scalars()
        )
        for table, condition in (
            (DELIVERY_ITEM, DELIVERY_ITEM.c.delivery.in_(deliveries)),
            (DELIVERY, DELIVERY.c.id.in_(deliveries)),
            (DECISION, DECISION.c.instance.in_(instances)),
            (INSTANCE, INSTANCE.c.id.in_(instances)),
            (STUDY, STUDY.c.study_instance_uid == study),
            (PERFORMED_LINK, PERFORMED_LINK.c.performed.in_(performed)),
            (PERFORMED_LINK, PERFORMED_LINK.c.step.in_(steps)),
            (PERFORMED_STUDY, PERFORMED_STUDY.c.performed.in_(performed)),
            (PERFORMED, PERFORMED.c.id.in_(performed)),
            (STEP_STATION, STEP_STATION.c.step.in_(steps)),
            (STEP, STEP.c.id.in_(steps)),
            (PROCEDURE, PROCEDURE.c.id.in_(procedures)),
            (MESSAGE, MESSAGE.c.id.in_(messages)),
            (ORDER, ORDER.c.id.in_(orders)),
            (PATIENT_ALIAS, PATIENT_ALIAS.c.patient.in_(patients)),
            (PATIENT, PATIENT.c.id.in_(patients)),
            (DESTINATION, DESTINATION.c.name == PROBE_DESTINATION),
        ):
            self._transaction.execute(delete(table).where(condition))
        self._transaction.execute(update(PROBE_RUN).where(PROBE_RUN.c.id == run.id).values(state="CLEARED"))
        return paths

    def forget(self, *, ended_before: datetime) -> int:
        """Remove old results, answer how many."""
        gone = delete(PROBE_RUN).where(~IS_OPEN, PROBE_RUN.c.started_at < ended_before)
        return int(self._transaction.execute(gone).rowcount)

    def _newest(self, table: Table) -> int:
        return int(self._transaction.execute(select(func.max(table.c.id))).scalar_one())

    def _ids(self, table: Table, *conditions: ColumnElement[bool]) -> list[int]:
        return list(self._transaction.execute(select(table.c.id).where(*conditions)).scalars())


def probe_run_of(row: Any) -> ProbeRun:
    """Read a row."""
    return ProbeRun(
        id=row["id"],
        study_instance_uid=row["study_instance_uid"],
        patient_id=row["patient_id"],
        actor=row["actor"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        failed_hop=row["failed_hop"],
        hops=tuple(Hop(**hop) for hop in row["hops"]),
    )
