"""Patients as stored: found by identifier, merges followed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, literal_column, or_, select, union_all, update

from broker.db.encoding import decode_attributes, decode_identifiers, encode_attributes, encode_identifiers
from broker.db.prepared import Prepared
from broker.db.schema import ORDER, PATIENT, PATIENT_ALIAS, STEP
from broker.db.transaction import Transaction
from broker.domain.names import name_key
from broker.domain.orders import Patient, PatientIdentifier
from broker.errors import DuplicateKey, IllegalTransition, NotFound

_BY_ID = Prepared(select(PATIENT).where(PATIENT.c.id == bindparam("key")))
_CANDIDATES = Prepared(
    union_all(
        select(PATIENT.c.id, PATIENT.c.issuer, literal_column("0").label("tier")).where(
            PATIENT.c.patient_id == bindparam("value")
        ),
        select(PATIENT_ALIAS.c.patient, PATIENT_ALIAS.c.issuer, literal_column("1")).where(
            PATIENT_ALIAS.c.value == bindparam("value")
        ),
    )
)
_ALIASES = Prepared(select(PATIENT_ALIAS).where(PATIENT_ALIAS.c.patient == bindparam("key")))
_COPY_TO_STEPS = Prepared(
    update(STEP)
    .where(
        STEP.c.patient == bindparam("key"),
        or_(STEP.c.patient_id != bindparam("its_id"), STEP.c.name_key != bindparam("its_name_key")),
    )
    .values(patient_id=bindparam("its_id"), name_key=bindparam("its_name_key"))
)
_SAVE = Prepared(
    update(PATIENT).where(PATIENT.c.id == bindparam("key")),
    [column.name for column in PATIENT.c if column.name not in ("id", "created_at")],
)
_MAX_CHAIN = 100


class SqlPatients:
    """Implements the Patients port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def find(self, identifier: PatientIdentifier) -> Patient | None:
        """Find the survivor: by exact (value, issuer) first, else by value where one side names no issuer."""
        issuer = identifier.issuer or ""
        rows = self._transaction.rows(_CANDIDATES, {"value": identifier.value})
        for tier in (0, 1):
            for row in rows:
                if row["issuer"] == issuer and row["tier"] == tier:
                    return self._survivor(row["id"])
        loose = {row["id"] for row in rows if not issuer or not row["issuer"]}
        survivors = {patient.id: patient for patient in map(self._survivor, sorted(loose))}
        return next(iter(survivors.values())) if len(survivors) == 1 else None

    def get(self, patient: int) -> Patient:
        """Answer the patient, or who it was merged into."""
        return self._survivor(patient)

    def add(self, patient: Patient, *, now: datetime) -> Patient:
        """Store a new patient. Raises DuplicateKey when (patient_id, issuer) is taken."""
        values = {**_values(patient, now), "created_at": now}
        key = self._transaction.insert_unless_there(PATIENT, values)
        if key is None:
            raise DuplicateKey("A patient with this identifier exists.", field="PatientID")
        if patient.other_ids:
            self._add_aliases(key, {_alias_of(identifier) for identifier in patient.other_ids})
        return replace(patient, id=key, issuer=patient.issuer or None)

    def save(self, patient: Patient, *, now: datetime) -> None:
        """Store a patient again, and the copies its steps are matched by."""
        values = _values(patient, now)
        if self._transaction.change(_SAVE, {**values, "key": patient.id}) != 1:
            raise NotFound("There is no such patient.")
        self._write_aliases(patient.id, patient.other_ids)
        self._copy_to_steps(patient.id, values["patient_id"], values["name_key"])

    def merge(self, *, absorbed: int, survivor: int, now: datetime) -> list[int]:
        """Move orders and steps of `absorbed` to `survivor`; answer the ids of the orders moved."""
        source, target = self._survivor(absorbed), self._survivor(survivor)
        if source.id == target.id:
            if absorbed == survivor:
                raise IllegalTransition("A patient cannot be merged with itself.")
            return []  # said twice, or through a chain that already ends there
        moved = self._transaction.execute(
            update(ORDER)
            .where(ORDER.c.patient == source.id)
            .values(patient=target.id, updated_at=now)
            .returning(ORDER.c.id)
        ).scalars()
        orders = sorted(int(order) for order in moved)
        self._transaction.execute(
            update(STEP).where(STEP.c.patient == source.id).values(patient=target.id, updated_at=now)
        )
        self._copy_to_steps(target.id, target.patient_id, name_key(target.name))
        self._transaction.execute(
            update(PATIENT).where(PATIENT.c.id == source.id).values(merged_into=target.id, updated_at=now)
        )
        return orders

    def _survivor(self, patient: int) -> Patient:
        seen: set[int] = set()
        while True:
            row = self._transaction.row(_BY_ID, {"key": patient})
            if row is None:
                raise NotFound("There is no such patient.")
            if row["merged_into"] is None:
                return patient_of(row)
            seen.add(patient)
            patient = int(row["merged_into"])
            if patient in seen or len(seen) > _MAX_CHAIN:
                raise IllegalTransition("The merges of this patient run in a circle.")

    def _write_aliases(self, patient: int, identifiers: tuple[PatientIdentifier, ...]) -> None:
        wanted = {_alias_of(identifier) for identifier in identifiers}
        aliases = PATIENT_ALIAS
        stored = {
            (row["value"], row["issuer"]): row["id"]
            for row in self._transaction.rows(_ALIASES, {"key": patient})
        }
        gone = [key for pair, key in stored.items() if pair not in wanted]
        if gone:
            self._transaction.execute(aliases.delete().where(aliases.c.id.in_(gone)))
        self._add_aliases(patient, wanted - stored.keys())

    def _add_aliases(self, patient: int, aliases: set[tuple[str, str]]) -> None:
        # An alias another patient holds already stays there: moving it would be a silent merge.
        rows = [{"patient": patient, "value": value, "issuer": issuer} for value, issuer in sorted(aliases)]
        self._transaction.insert_many(PATIENT_ALIAS, rows, ignoring=True)

    def _copy_to_steps(self, patient: int, patient_id: str, key: str) -> None:
        self._transaction.change(_COPY_TO_STEPS, {"key": patient, "its_id": patient_id, "its_name_key": key})


def _alias_of(identifier: PatientIdentifier) -> tuple[str, str]:
    return identifier.value, identifier.issuer or ""


def _values(patient: Patient, now: datetime) -> dict[str, Any]:
    return {
        "patient_id": patient.patient_id,
        "issuer": patient.issuer or "",
        "name": patient.name,
        "name_key": name_key(patient.name),
        "birth_date": patient.birth_date,
        "sex": patient.sex,
        "other_ids": encode_identifiers(patient.other_ids),
        "attributes": encode_attributes(patient.attributes),
        "sources": dict(patient.sources),
        "merged_into": patient.merged_into,
        "updated_at": now,
    }


def patient_of(row: Any) -> Patient:
    """Read a patient from the mapping of a row."""
    return Patient(
        id=row["id"],
        patient_id=row["patient_id"],
        issuer=row["issuer"] or None,
        name=row["name"],
        birth_date=row["birth_date"],
        sex=row["sex"],
        other_ids=decode_identifiers(row["other_ids"]),
        attributes=decode_attributes(row["attributes"]),
        merged_into=row["merged_into"],
        sources=row["sources"],
    )
