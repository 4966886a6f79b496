"""Requested procedures of an order, brought to what a message says of them."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.attributes import apply_changes, merge_sources, shown
from broker.domain.events import EventName, Subject
from broker.domain.orders import OrderDetails, ProcedureDetails, RequestedProcedure
from broker.domain.steps import StepStatus
from broker.domain.uids import ORIGINAL_SUFFIX, derive_study_instance_uid, short_id, uid_of
from broker.domain.values import UID
from broker.errors import DuplicateKey, InvalidValue, MissingValue
from broker.workflow.message_work import MessageWork
from broker.workflow.order_policy import MissingStudyUid
from broker.workflow.order_tree import GENERATED, OrderTree, refuse_after_start, told_sources, without
from broker.workflow.step_records import apply_steps

DERIVED = "derived"
"""The source of a Study Instance UID made of accession number and procedure id."""

_LOCKED_PROCEDURE = ("RequestedProcedureCodeSequence", "StudyInstanceUID", "RequestedProcedureID")
_PROCEDURE_KEYS = frozenset({"StudyInstanceUID", "RequestedProcedureID"})


def apply_procedures(
    work: MessageWork, tree: OrderTree, details: OrderDetails, status: StepStatus
) -> set[int]:
    """Create or change what the message says of procedures and steps; answer the ids of new or changed steps.

    `status` is what new steps begin with. An order without any step would silently be on no worklist: there is
    always one.
    """
    spoken: tuple[ProcedureDetails, ...] = details.procedures
    if not spoken and not tree.procedures:
        spoken = (ProcedureDetails(None, None, ()),)
    dirty: set[int] = set()
    taken: set[int] = set()
    for position, wanted in enumerate(spoken, start=1):
        known = _match_procedure(tree, details, wanted, taken)
        if known is None:
            procedure = _add_procedure(work, tree, details, wanted, position)
        else:
            procedure, changed = _change_procedure(work, tree, details, wanted, known)
            if changed:
                dirty |= {step.id for step in tree.steps_of(procedure.id)}
        taken.add(procedure.id)
        dirty |= apply_steps(work, tree, details, procedure, wanted.steps, status)
    return dirty


# ---- requested procedures ------------------------------------------------------------------------------


def _match_procedure(
    tree: OrderTree, details: OrderDetails, wanted: ProcedureDetails, taken: set[int]
) -> RequestedProcedure | None:
    """Find the stored procedure a message means: by id, else by Study Instance UID, else by position."""
    free = [procedure for procedure in tree.procedures if procedure.id not in taken]
    if wanted.requested_procedure_id:
        own = short_id(wanted.requested_procedure_id, issuer=details.issuer_of_accession_number)
        for procedure in free:
            if procedure.requested_procedure_id == own:
                return procedure
        # An id we made up gives way to the sender's own, once it comes.
        return next((p for p in free if p.sources.get("RequestedProcedureID") == GENERATED), None)
    if wanted.study_instance_uid:
        for procedure in free:
            if procedure.study_instance_uid == wanted.study_instance_uid:
                return procedure
    return free[0] if free else None


def _add_procedure(
    work: MessageWork, tree: OrderTree, details: OrderDetails, wanted: ProcedureDetails, position: int
) -> RequestedProcedure:
    own_id, sources = _procedure_id(work, tree, details, wanted, position)
    uid, uid_source = _study_uid(work, tree, details, wanted)
    sources["StudyInstanceUID"] = uid_source
    attributes, _ = apply_changes({}, without(wanted.changes, _PROCEDURE_KEYS))
    procedure = work.uow.orders.add_procedure(
        RequestedProcedure(
            id=0,
            order=tree.order.id,
            requested_procedure_id=own_id,
            study_instance_uid=uid,
            attributes=attributes,
            sources={**wanted.sources, **sources},
        ),
        now=work.now,
    )
    tree.procedures.append(procedure)
    return procedure


def _procedure_id(
    work: MessageWork, tree: OrderTree, details: OrderDetails, wanted: ProcedureDetails, position: int
) -> tuple[str, dict[str, str]]:
    """Answer the id of a new procedure: the sender's, else accession number and position, else one of ours."""
    issuer = details.issuer_of_accession_number
    if given := wanted.requested_procedure_id:
        own = short_id(given, issuer=issuer)
        kept = {"RequestedProcedureID" + ORIGINAL_SUFFIX: given} if own != given else {}
        return own, {"RequestedProcedureID": wanted.sources.get("RequestedProcedureID", "message"), **kept}
    used = {procedure.requested_procedure_id for procedure in tree.procedures}
    stem = tree.order.accession_number or f"{work.policy.mint().hex}"
    number = max(position, len(used) + 1)
    while (own := short_id(f"{stem}-{number}", issuer=issuer)) in used:
        number += 1
    return own, {"RequestedProcedureID": GENERATED}


def _study_uid(
    work: MessageWork, tree: OrderTree, details: OrderDetails, wanted: ProcedureDetails
) -> tuple[str, str]:
    """Answer the Study Instance UID of a new procedure and where it came from."""
    if wanted.study_instance_uid:
        _check_sent_uid(work, tree, wanted.study_instance_uid)
        return wanted.study_instance_uid, wanted.sources.get("StudyInstanceUID", "message")
    if work.policy.study_uid_missing is MissingStudyUid.REJECT:
        raise MissingValue("The Study Instance UID is missing.", field="StudyInstanceUID")
    derived = derive_study_instance_uid(
        work.policy.uid_namespace,
        issuer=details.issuer_of_accession_number,
        accession_number=details.accession_number,
        requested_procedure_id=wanted.requested_procedure_id,
    )
    if derived is None:
        return uid_of(work.policy.mint()), GENERATED
    if work.uow.orders.procedures_with_study(derived):
        # A reused accession number, or a second procedure without an id: its images must not mix with the other's.
        work.warn("the derived Study Instance UID is in use; the procedure has a new one")
        return uid_of(work.policy.mint()), GENERATED
    return derived, DERIVED


def _check_sent_uid(work: MessageWork, tree: OrderTree, uid: str) -> None:
    if not UID.is_valid(uid):
        raise InvalidValue("The Study Instance UID is malformed.", field="StudyInstanceUID")
    for other in work.uow.orders.procedures_with_study(uid):
        if work.uow.orders.get(other.order).patient != tree.order.patient:
            raise DuplicateKey("The Study Instance UID belongs to another patient.", field="StudyInstanceUID")


def _change_procedure(
    work: MessageWork,
    tree: OrderTree,
    details: OrderDetails,
    wanted: ProcedureDetails,
    known: RequestedProcedure,
) -> tuple[RequestedProcedure, list[str]]:
    attributes, changed = apply_changes(known.attributes, without(wanted.changes, _PROCEDURE_KEYS))
    own_id, uid = known.requested_procedure_id, known.study_instance_uid
    originals: dict[str, str] = {}
    if given := wanted.requested_procedure_id:
        own_id = short_id(given, issuer=details.issuer_of_accession_number)
        if own_id != known.requested_procedure_id:
            changed.append("RequestedProcedureID")
        if own_id != given:
            originals["RequestedProcedureID" + ORIGINAL_SUFFIX] = given
    if wanted.study_instance_uid and wanted.study_instance_uid != uid:
        _check_sent_uid(work, tree, wanted.study_instance_uid)
        uid = wanted.study_instance_uid
        changed.append("StudyInstanceUID")
    if not changed:
        return known, []
    refuse_after_start(work, tree.steps_of(known.id), changed, _LOCKED_PROCEDURE)
    sources = merge_sources(known.sources, {"RequestedProcedureID": "message", **wanted.sources}, changed)
    updated = replace(
        known,
        requested_procedure_id=own_id,
        study_instance_uid=uid,
        attributes=attributes,
        sources={**sources, **originals},
    )
    work.uow.orders.save_procedure(updated, now=work.now)
    tree.procedures = [updated if procedure.id == known.id else procedure for procedure in tree.procedures]
    told = [
        f"{key}: {shown(known.attributes.get(key))} -> {shown(attributes.get(key))}"
        for key in changed
        if key not in _PROCEDURE_KEYS
    ]
    work.record(
        EventName.ORDER_CHANGED,
        Subject.ORDER,
        tree.order.id,
        order=tree.order.id,
        study_instance_uid=uid,
        requested_procedure_id=own_id,
        keywords=changed,
        changed=told,
        sources=told_sources(wanted.sources, changed),
    )
    return updated, changed
