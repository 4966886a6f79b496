"""What is offered, and what is remembered."""

import pytest
from pynetdicom import sop_class as reference

from broker.dicom.network.negotiation import Negotiator, Offers, any_storage, is_storage_sop_class
from broker.dicom.network.pdu import MalformedPdu, parse_associate_accept
from broker.dicom.network.verification import verification_offer
from tests.dicom_conversation import CT_IMAGE, EXPLICIT, IMPLICIT, Shelf, request, storage_offer

STORAGE = [*reference._STORAGE_CLASSES.values(), *reference._NON_PATIENT_OBJECT_CLASSES.values()]
OTHERS = [
    *reference._QR_CLASSES.values(),
    *reference._BASIC_WORKLIST_CLASSES.values(),
    *reference._PROCEDURE_STEP_CLASSES.values(),
    *reference._VERIFICATION_CLASSES.values(),
    *reference._PRINT_MANAGEMENT_CLASSES.values(),
    *reference._STORAGE_COMMITMENT_CLASSES.values(),
]


def test_every_storage_class_of_the_standard_is_known_and_no_other():
    assert [uid for uid in STORAGE if not is_storage_sop_class(uid)] == []
    assert [uid for uid in OTHERS if is_storage_sop_class(uid, accept_unknown=True)] == []
    assert len(STORAGE) > 150


def negotiator(offers=None):
    return Negotiator(offers or Offers([verification_offer()]), advertised_pdu_bytes=131072)


def test_the_same_request_gets_the_same_agreement_without_negotiating_again():
    asked = []
    offers = Offers([], otherwise=lambda uid: asked.append(uid) or storage_offer(Shelf()))
    memory = negotiator(offers)
    first = memory.agree(request(CT_IMAGE))
    assert memory.agree(request(CT_IMAGE)) is first
    assert asked == [CT_IMAGE]


def test_what_is_remembered_is_bounded():
    memory = negotiator()
    for number in range(200):
        memory.agree(request(calling=f"CT{number}"))
    assert len(memory._known) == 64
    wide = request(*[(f"1.2.{n}", tuple(f"1.3.{n}.{m}" for m in range(60))) for n in range(120)])
    assert len(wide) > 32 * 1024
    memory.agree(wide)
    assert wide not in memory._known


def test_a_malformed_request_is_not_remembered():
    memory = negotiator()
    with pytest.raises(MalformedPdu):
        memory.agree(request()[:50])
    assert not memory._known


def test_a_hundred_and_twenty_eight_contexts_are_all_answered():
    offers = Offers([], otherwise=any_storage(storage_offer(Shelf())))
    proposed = [(uid, (IMPLICIT, EXPLICIT)) for uid in STORAGE[:128]]
    agreement = negotiator(offers).agree(request(*proposed))
    answered = parse_associate_accept(agreement.encoded_accept).contexts
    assert [context.id for context in answered] == list(range(1, 256, 2))
    assert {(context.result, context.transfer_syntax) for context in answered} == {(0, EXPLICIT)}
    assert agreement.contexts[255].context.abstract_syntax == STORAGE[127]
