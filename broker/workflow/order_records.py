"""The imaging service request itself, brought to what a message says of it."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.attributes import apply_changes, merge_sources, shown
from broker.domain.events import EventName, Subject
from broker.domain.orders import EntityIdentifier, ImagingOrder, OrderDetails
from broker.errors import DuplicateKey
from broker.workflow.message_work import MessageWork
from broker.workflow.order_tree import OrderTree, refuse_after_start, told_sources


def update_order(work: MessageWork, tree: OrderTree, details: OrderDetails, *, keep_numbers: bool) -> bool:
    """Bring the order itself to what the message says; `keep_numbers` where they are already this message's own."""
    known = tree.order
    attributes, changed = apply_changes(known.attributes, details.changes)
    updated = replace(known, attributes=attributes, patient=tree.patient.id)
    if known.patient != tree.patient.id:
        changed.append("PatientID")
    if details.accession_number and details.accession_number != known.accession_number:
        _check_accession_free(work, details, known)
        updated = replace(updated, accession_number=details.accession_number)
        changed.append("AccessionNumber")
    if (
        details.issuer_of_accession_number
        and details.issuer_of_accession_number != known.issuer_of_accession_number
    ):
        updated = replace(updated, issuer_of_accession_number=details.issuer_of_accession_number)
        changed.append("IssuerOfAccessionNumberSequence")
    if not keep_numbers:
        updated = replace(
            updated,
            placer_order_number=_fuller(known.placer_order_number, details.placer_order_number),
            filler_order_number=_fuller(known.filler_order_number, details.filler_order_number),
        )
    if updated.placer_order_number != known.placer_order_number:
        changed.append("PlacerOrderNumberImagingServiceRequest")
    if updated.filler_order_number != known.filler_order_number:
        changed.append("FillerOrderNumberImagingServiceRequest")
    if not changed:
        return False
    refuse_after_start(work, tree.steps, changed, ("AccessionNumber", "PatientID"))
    updated = replace(updated, sources=merge_sources(known.sources, details.sources, changed))
    work.uow.orders.save(updated, now=work.now)
    tree.order = updated
    work.record(
        EventName.ORDER_CHANGED,
        Subject.ORDER,
        known.id,
        order=known.id,
        keywords=changed,
        changed=[
            f"{key}: {shown(known.attributes.get(key))} -> {shown(attributes.get(key))}"
            for key in changed
            if key in known.attributes or key in attributes
        ],
        sources=told_sources(details.sources, changed),
    )
    return True


def _fuller(known: EntityIdentifier | None, sent: EntityIdentifier | None) -> EntityIdentifier | None:
    """Answer the number as sent, unless the message merely leaves out the authority of the one known."""
    if sent is None or (known is not None and sent.value == known.value and not sent.namespace):
        return known
    return sent


def _check_accession_free(work: MessageWork, details: OrderDetails, known: ImagingOrder) -> None:
    for other in work.uow.orders.with_accession(details.accession_number or ""):
        issuers = (other.issuer_of_accession_number, details.issuer_of_accession_number)
        if other.id != known.id and (None in issuers or issuers[0] == issuers[1]):
            raise DuplicateKey("The accession number belongs to another order.", field="AccessionNumber")
