"""Finds the order an image belongs to, and says when the patient of the one is not the patient of the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from broker.domain.events import Event, EventName, Subject
from broker.domain.facts import FactValues, OrderView
from broker.domain.orders import Patient, PatientIdentifier
from broker.domain.values import PersonName, parse_date
from broker.errors import InvalidValue, NotFound
from broker.workflow.images_port import Instance
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp

IDENTITY = "identity"
"""Name of the conflict in a stored decision."""


class Agreement(Enum):
    """Whether the patient of an image is the patient of an order."""

    SAME = "same identifier"
    PROBABLE = "same name and birth date"
    UNKNOWN = "the image does not say"
    DIFFERENT = "another patient"


class JoinedBy(Enum):
    """What tied an image to its order."""

    STUDY = "Study Instance UID"
    ACCESSION = "accession number and patient ID"


@dataclass(frozen=True, slots=True)
class JoinedOrder:
    """What is known of the order behind an image."""

    order: int | None = None
    views: tuple[OrderView, ...] = ()
    by: JoinedBy | None = None
    agreement: Agreement | None = None
    conflicts: tuple[str, ...] = ()
    """Not empty: `suspected` is the order it claims, but its patient is another; nothing of it is used."""
    suspected: int | None = None


def join_key(instance: Instance) -> tuple[str, ...]:
    """Answer what joining depends on: instances with the same key join the same order."""
    first = tuple(
        (instance.facts.get(keyword) or ("",))[0]
        for keyword in (
            "PatientID",
            "IssuerOfPatientID",
            "PatientName",
            "PatientBirthDate",
            "AccessionNumber",
        )
    )
    return (instance.study_instance_uid, instance.patient_id or "", instance.accession_number or "", *first)


def join_order(uow: UnitOfWork, instance: Instance) -> JoinedOrder:
    """Find the order of an instance: by Study Instance UID, else by accession number and patient ID."""
    by_study = _by_study(uow, instance)
    return by_study if by_study is not None else _by_accession(uow, instance)


def join_late(uow: UnitOfWork, study_instance_uid: str) -> int:
    """Join the images that came before their order, and let routing look again at those no route took.

    For whoever stores an order: answers how many images have found it. What was routed stays routed.
    """
    joined = 0
    for instance in uow.instances.of_study(study_instance_uid):
        if instance.order is None:
            order = join_order(uow, instance).order
            if order is not None:
                uow.instances.set_order(instance.id, order)
                joined += 1
    if joined:
        if uow.instances.reconsider(study_instance_uid):
            for undecided in uow.instances.undecided(1):
                uow.wake(WakeUp(Task.ROUTE, undecided))
        uow.record(
            Event(
                EventName.INSTANCE_JOINED,
                Subject.STUDY,
                study_instance_uid=study_instance_uid,
                details={"instances": joined},
            )
        )
    return joined


def _by_study(uow: UnitOfWork, instance: Instance) -> JoinedOrder | None:
    procedures = uow.orders.procedures_with_study(instance.study_instance_uid)
    views: list[OrderView] = []
    for procedure in procedures:
        order = uow.orders.get(procedure.order)
        patient = uow.patients.get(order.patient)
        steps = tuple(uow.steps.of_procedure(procedure.id))
        views.append(OrderView(patient, order, procedure, steps))
    if not views:
        return None
    agreements = {view.patient.id: agreement_of(uow, view.patient, instance.facts) for view in views}
    agreeing = [view for view in views if agreements[view.patient.id] is not Agreement.DIFFERENT]
    if not agreeing:
        return JoinedOrder(
            by=JoinedBy.STUDY,
            agreement=Agreement.DIFFERENT,
            conflicts=(IDENTITY,),
            suspected=views[0].order.id,
        )
    # One study may serve several orders: the one whose accession number the image carries stands for it.
    first = min(agreeing, key=lambda view: view.order.accession_number != instance.accession_number)
    return JoinedOrder(
        order=first.order.id,
        views=tuple(agreeing),
        by=JoinedBy.STUDY,
        agreement=agreements[first.patient.id],
    )


def _by_accession(uow: UnitOfWork, instance: Instance) -> JoinedOrder:
    if not instance.accession_number or not instance.patient_id:
        return JoinedOrder()
    found: list[OrderView] = []
    orders: set[int] = set()
    for order in uow.orders.with_accession(instance.accession_number):
        patient = uow.patients.get(order.patient)
        if agreement_of(uow, patient, instance.facts) is not Agreement.SAME:
            continue
        orders.add(order.id)
        found.extend(
            OrderView(patient, order, procedure, tuple(uow.steps.of_procedure(procedure.id)))
            for procedure in uow.orders.procedures(order.id)
        )
    if len(orders) != 1:
        return JoinedOrder()  # none, or a number used twice: then a guess could be wrong
    return JoinedOrder(
        order=orders.pop(), views=tuple(found), by=JoinedBy.ACCESSION, agreement=Agreement.SAME
    )


def agreement_of(uow: UnitOfWork, patient: Patient, facts: FactValues) -> Agreement:
    """Compare the patient of an image with a stored one, merges followed."""
    value, issuer = _first(facts, "PatientID"), _first(facts, "IssuerOfPatientID")
    if value and _has_identifier(uow, patient, PatientIdentifier(value, issuer or None)):
        return Agreement.SAME
    same_name = _same_name(patient.name, _first(facts, "PatientName"))
    same_birth_date = _same_date(patient.birth_date, _first(facts, "PatientBirthDate"))
    if same_name and same_birth_date:
        return Agreement.PROBABLE
    if value or same_name is False:
        return Agreement.DIFFERENT
    return Agreement.UNKNOWN


def _has_identifier(uow: UnitOfWork, patient: Patient, identifier: PatientIdentifier) -> bool:
    own = (PatientIdentifier(patient.patient_id, patient.issuer), *patient.other_ids)
    for known in own:
        # The same number of two issuers is two people; a missing issuer says nothing.
        if known.value == identifier.value and (
            not known.issuer or not identifier.issuer or known.issuer == identifier.issuer
        ):
            return True
    try:
        merged = uow.patients.find(identifier)
    except NotFound:
        return False
    return merged is not None and merged.id == patient.id


def _first(facts: FactValues, keyword: str) -> str:
    values = facts.get(keyword)
    return values[0] if values else ""


def _same_name(stored: str, found: str) -> bool | None:
    """Compare family and given name; None where one of them is missing or no name."""
    try:
        return PersonName.parse(stored).is_same_as(PersonName.parse(found))
    except InvalidValue:
        return None


def _same_date(stored: str | None, found: str) -> bool | None:
    if not stored or not found:
        return None
    first, second = parse_date(stored), parse_date(found)
    return None if first is None or second is None else first == second
