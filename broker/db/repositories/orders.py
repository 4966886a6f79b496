"""Orders and requested procedures as stored, and which of them a message means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, String, bindparam, or_, select, tuple_, update

from broker.db.encoding import decode_attributes, encode_attributes
from broker.db.prepared import Prepared
from broker.db.repositories.order_rules import (
    ACCESSION_AND_PROCEDURE,
    ACCESSION_RULE,
    NUMBER_RULES,
    NUMBERS_KNOWN,
    number_values,
    procedure_ids,
)
from broker.db.schema import ORDER, PROCEDURE, STEP
from broker.db.transaction import Transaction
from broker.domain.orders import EntityIdentifier, ImagingOrder, OrderDetails, RequestedProcedure
from broker.domain.steps import OrderStatus
from broker.errors import NotFound

_BY_ID = Prepared(select(ORDER).where(ORDER.c.id == bindparam("key")))
_OF_PATIENT = Prepared(select(ORDER).where(ORDER.c.patient == bindparam("key")).order_by(ORDER.c.id))
_WITH_ACCESSION = Prepared(
    select(ORDER).where(ORDER.c.accession_number == bindparam("key")).order_by(ORDER.c.id)
)
_PROCEDURES = Prepared(
    select(PROCEDURE).where(PROCEDURE.c.order == bindparam("key")).order_by(PROCEDURE.c.id)
)
_OF_STUDY = Prepared(
    select(PROCEDURE).where(PROCEDURE.c.study_instance_uid == bindparam("uid")).order_by(PROCEDURE.c.id)
)
_BY_STEP = Prepared(
    select(ORDER)
    .where(
        ORDER.c.id.in_(
            select(STEP.c.order).where(
                STEP.c.study_instance_uid == bindparam("uid"),
                STEP.c.scheduled_procedure_step_id == bindparam("step_id"),
            )
        )
    )
    .order_by(ORDER.c.id)
)
_SAVE = Prepared(
    update(ORDER).where(ORDER.c.id == bindparam("key")),
    [column.name for column in ORDER.c if column.name not in ("id", "created_at")],
)
_COPY_TO_STEPS = Prepared(
    update(STEP)
    .where(
        STEP.c.order == bindparam("key"),
        or_(
            STEP.c.accession_number.is_distinct_from(bindparam("its_accession", type_=String())),
            STEP.c.patient != bindparam("its_patient"),
        ),
    )
    .values(accession_number=bindparam("its_accession", type_=String()), patient=bindparam("its_patient"))
)
_SET_STATUS = Prepared(
    update(ORDER)
    .where(ORDER.c.id == bindparam("key"))
    .values(status=bindparam("its_status"), updated_at=bindparam("now"))
)
_TOUCH = Prepared(update(ORDER).where(ORDER.c.id == bindparam("key")).values(updated_at=bindparam("now")))


class SqlOrders:
    """Implements the Orders port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def identify(self, details: OrderDetails, *, patient: int | None) -> list[ImagingOrder]:
        """Find the orders a message means; the first rule with a hit answers.

        Of several hits those of the patient the message names count, if there are any.
        """
        numbers, steps = number_values(details), _steps_of(details)
        study, step = next(iter(steps)) if len(steps) == 1 else (None, None)
        known = self._transaction.rows(
            NUMBERS_KNOWN,
            {name: numbers[name] for name in ("placer", "filler", "accession")}
            | {"study": study, "step": step},
        )[0]
        found: list[ImagingOrder] = []
        if known["step"] or len(steps) > 1:
            found = self._by_step(steps)
        if known["number"] and not found:
            found = self._by_number(details, numbers)
        return [order for order in found if order.patient == patient] or found

    def _by_step(self, steps: set[tuple[str, str]]) -> list[ImagingOrder]:
        if len(steps) == 1:
            [(uid, step_id)] = steps
            return self._orders(_BY_STEP, {"uid": uid, "step_id": step_id})
        same = tuple_(STEP.c.study_instance_uid, STEP.c.scheduled_procedure_step_id).in_(sorted(steps))
        return self._select(ORDER.c.id.in_(select(STEP.c.order).where(same)))

    def _by_number(self, details: OrderDetails, values: dict[str, Any]) -> list[ImagingOrder]:
        hits = self._transaction.rows(NUMBER_RULES, values)
        if not hits:
            return []
        first = min(hit["rule"] for hit in hits)
        found = {hit["id"] for hit in hits if hit["rule"] == first}
        if first == ACCESSION_RULE and (procedures := procedure_ids(details)):
            # Of the orders that share the number those that have a procedure of the message count.
            found = self._with_procedures(values, procedures) or found
        if len(found) == 1:
            return self._orders(_BY_ID, {"key": found.pop()})
        return self._select(ORDER.c.id.in_(sorted(found)))

    def _with_procedures(self, values: dict[str, Any], procedures: list[str]) -> set[int]:
        return set(
            self._transaction.execute(ACCESSION_AND_PROCEDURE, {**values, "procedures": procedures}).scalars()
        )

    def get(self, order: int) -> ImagingOrder:
        """Answer an order. Raises NotFound."""
        row = self._transaction.row(_BY_ID, {"key": order})
        if row is None:
            raise NotFound("There is no such order.")
        return order_of(row)

    def of_patient(self, patient: int) -> list[ImagingOrder]:
        """Answer the orders of a patient, oldest first."""
        return self._orders(_OF_PATIENT, {"key": patient})

    def with_accession(self, accession_number: str) -> list[ImagingOrder]:
        """Answer the orders with an accession number, oldest first."""
        return self._orders(_WITH_ACCESSION, {"key": accession_number})

    def add(self, order: ImagingOrder, *, now: datetime) -> ImagingOrder:
        """Store a new order (its `id` is ignored) and answer it with its id."""
        values = {**_order_values(order, now), "created_at": now}
        return replace(order, id=self._transaction.insert(ORDER, values))

    def save(self, order: ImagingOrder, *, now: datetime) -> None:
        """Store an order again, and the copy its steps are matched by."""
        if self._transaction.change(_SAVE, {**_order_values(order, now), "key": order.id}) != 1:
            raise NotFound("There is no such order.")
        self._transaction.change(
            _COPY_TO_STEPS,
            {"key": order.id, "its_accession": order.accession_number, "its_patient": order.patient},
        )

    def set_status(self, order: int, status: OrderStatus, *, now: datetime) -> None:
        """Store the roll-up of an order's steps."""
        changed = self._transaction.change(
            _SET_STATUS, {"key": order, "its_status": status.value, "now": now}
        )
        if changed != 1:
            raise NotFound("There is no such order.")

    def procedures(self, order: int) -> list[RequestedProcedure]:
        """Answer the requested procedures of an order, oldest first."""
        return [procedure_of(row) for row in self._transaction.rows(_PROCEDURES, {"key": order})]

    def procedures_with_study(self, study_instance_uid: str) -> list[RequestedProcedure]:
        """Answer the requested procedures that share a Study Instance UID."""
        rows = self._transaction.rows(_OF_STUDY, {"uid": study_instance_uid})
        return [procedure_of(row) for row in rows]

    def add_procedure(self, procedure: RequestedProcedure, *, now: datetime) -> RequestedProcedure:  # noqa: ARG002
        """Store a new procedure. Raises DuplicateKey when the order has one with this id."""
        return replace(procedure, id=self._transaction.insert(PROCEDURE, _procedure_values(procedure)))

    def save_procedure(self, procedure: RequestedProcedure, *, now: datetime) -> None:
        """Store a procedure again, and the copies its steps are matched by."""
        values = _procedure_values(procedure)
        changed = self._transaction.execute(
            update(PROCEDURE).where(PROCEDURE.c.id == bindparam("key")), {**values, "key": procedure.id}
        )
        if changed.rowcount != 1:
            raise NotFound("There is no such requested procedure.")
        copies = {name: values[name] for name in ("requested_procedure_id", "study_instance_uid")}
        self._transaction.execute(
            update(STEP)
            .where(
                STEP.c.procedure == procedure.id,
                or_(*(STEP.c[name] != value for name, value in copies.items())),
            )
            .values(copies)
        )
        self._touch(procedure.order, now)

    def _touch(self, order: int, now: datetime) -> None:
        self._transaction.change(_TOUCH, {"key": order, "now": now})

    def _orders(self, prepared: Prepared, values: dict[str, Any]) -> list[ImagingOrder]:
        return [order_of(row) for row in self._transaction.rows(prepared, values)]

    def _select(self, condition: ColumnElement[bool]) -> list[ImagingOrder]:
        rows = self._transaction.execute(select(ORDER).where(condition).order_by(ORDER.c.id))
        return [order_of(row) for row in rows.mappings()]


def _steps_of(details: OrderDetails) -> set[tuple[str, str]]:
    """Answer the steps a message names, by study and step id."""
    return {
        (procedure.study_instance_uid, step.scheduled_procedure_step_id)
        for procedure in details.procedures
        for step in procedure.steps
        if procedure.study_instance_uid and step.scheduled_procedure_step_id
    }


def _identifier_values(role: str, identifier: EntityIdentifier | None) -> Iterable[tuple[str, str | None]]:
    yield f"{role}_order_number", identifier.value if identifier else None
    for part in ("namespace", "universal_id", "universal_id_type"):
        yield f"{role}_{part}", getattr(identifier, part) if identifier else None


def _identifier(row: Any, role: str) -> EntityIdentifier | None:
    value = row[f"{role}_order_number"]
    if value is None:
        return None
    return EntityIdentifier(
        value,
        namespace=row[f"{role}_namespace"],
        universal_id=row[f"{role}_universal_id"],
        universal_id_type=row[f"{role}_universal_id_type"],
    )


def _order_values(order: ImagingOrder, now: datetime) -> dict[str, Any]:
    return {
        "patient": order.patient,
        **dict(_identifier_values("placer", order.placer_order_number)),
        **dict(_identifier_values("filler", order.filler_order_number)),
        "accession_number": order.accession_number,
        "issuer_of_accession_number": order.issuer_of_accession_number,
        "status": order.status.value,
        "attributes": encode_attributes(order.attributes),
        "sources": dict(order.sources),
        "sending_application": order.sending_application,
        "sending_facility": order.sending_facility,
        "last_event_at": order.last_event_at,
        "updated_at": now,
    }


def order_of(row: Any) -> ImagingOrder:
    """Read an order from the mapping of a row."""
    return ImagingOrder(
        id=row["id"],
        patient=row["patient"],
        placer_order_number=_identifier(row, "placer"),
        filler_order_number=_identifier(row, "filler"),
        accession_number=row["accession_number"],
        issuer_of_accession_number=row["issuer_of_accession_number"],
        status=OrderStatus(row["status"]),
        attributes=decode_attributes(row["attributes"]),
        sending_application=row["sending_application"],
        sending_facility=row["sending_facility"],
        last_event_at=row["last_event_at"],
        sources=row["sources"],
    )


def _procedure_values(procedure: RequestedProcedure) -> dict[str, Any]:
    return {
        "order": procedure.order,
        "requested_procedure_id": procedure.requested_procedure_id,
        "study_instance_uid": procedure.study_instance_uid,
        "attributes": encode_attributes(procedure.attributes),
        "sources": dict(procedure.sources),
    }


def procedure_of(row: Any) -> RequestedProcedure:
    """Read a requested procedure from the mapping of a row."""
    return RequestedProcedure(
        id=row["id"],
        order=row["order"],
        requested_procedure_id=row["requested_procedure_id"],
        study_instance_uid=row["study_instance_uid"],
        attributes=decode_attributes(row["attributes"]),
        sources=row["sources"],
    )
