"""Which stored order a message means, and whose it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.orders import EntityIdentifier
from broker.domain.orders import OrderAction as A
from broker.errors import AmbiguousOrder, DuplicateKey, WrongPatient
from tests.ris import CANCELED, HAYDN, MOZART, POLICY, SCHEDULED, a_procedure, a_status, a_step, an_order
from tests.unit.workflow.order_desk import refused


@pytest.mark.parametrize(
    "fields",
    [
        {"placer_order_number": None, "filler_order_number": None},
        {"placer_order_number": None, "accession_number": None},
        {"filler_order_number": None, "accession_number": None},
        {
            "placer_order_number": EntityIdentifier("PL1"),
            "filler_order_number": None,
            "accession_number": None,
        },
    ],
    ids=["accession", "filler", "placer", "placer without authority"],
)
def test_one_number_is_enough_to_cancel(ris, fields):
    ris.send()
    ris.send(a_status(A.CANCEL, "CA", **fields))
    assert ris.statuses() == {"S1": CANCELED}


def test_the_study_uid_with_the_step_id_is_enough(ris):
    ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3")))
    numbers = dict.fromkeys(("placer_order_number", "filler_order_number", "accession_number"))
    ris.send(an_order(A.CANCEL, "CA", a_procedure(None, "1.2.3", a_step("S1")), **numbers))
    assert ris.statuses() == {"S1": CANCELED}


def test_an_order_named_by_nothing_but_its_study_uid_is_not_doubled(ris):
    numbers = dict.fromkeys(("placer_order_number", "filler_order_number", "accession_number"))
    for _ in range(2):
        ris.send(an_order(A.PLACE, "NW", a_procedure("RP1", "1.2.3", a_step(None)), **numbers))
    assert len(ris.orders()) == 1
    ris.send(replace(an_order(A.CANCEL, "CA", a_procedure(None, "1.2.3")), **numbers))
    assert ris.statuses() == {"RP1": CANCELED}


def test_a_number_of_another_authority_is_another_order(ris):
    ris.send()
    other = {"filler_order_number": None, "accession_number": None}
    done = ris.send(a_status(A.CANCEL, "CA", placer_order_number=EntityIdentifier("PL1", "OTHER"), **other))
    assert ris.statuses() == {"S1": SCHEDULED}
    assert any("not known" in warning for warning in done.warnings)


def two_orders_under_one_filler_number(ris):
    for number in ("1", "2"):
        ris.send(
            an_order(
                A.PLACE,
                "NW",
                a_procedure(f"RP{number}", None, a_step(f"S{number}")),
                placer_order_number=None,
                filler_order_number=EntityIdentifier(f"F{number}"),
                accession_number=f"A{number}",
            )
        )
    for order in ris.orders():
        with ris.units() as uow:
            uow.orders.save(replace(order, filler_order_number=EntityIdentifier("F")), now=ris.clock.now())
            uow.commit()
    return {
        "placer_order_number": None,
        "filler_order_number": EntityIdentifier("F"),
        "accession_number": None,
    }


def test_more_than_one_order_that_fits_is_for_a_person(ris):
    numbers = two_orders_under_one_filler_number(ris)
    refused(ris, AmbiguousOrder, a_status(A.CHANGE, "XO", **numbers))
    refused(ris, AmbiguousOrder, a_status(A.CANCEL, "CA", **numbers))


def test_an_order_of_another_patient_is_not_changed(ris):
    ris.send()
    assert refused(ris, WrongPatient, an_order(A.CHANGE, "XO"), patient=MOZART).hl7_condition == "204"
    refused(ris, WrongPatient, a_status(A.CANCEL, "CA"), patient=MOZART)


def test_the_same_accession_for_another_patient_is_a_duplicate(ris):
    ris.send()
    order = an_order(placer_order_number=EntityIdentifier("PL2", "RIS"), filler_order_number=None)
    assert refused(ris, DuplicateKey, order, patient=MOZART).hl7_condition == "205"


def test_a_site_may_let_orders_move_to_another_patient(ris):
    ris.policy = replace(POLICY, move_order=True)
    ris.send()
    ris.send(an_order(A.CHANGE, "XO"), patient=MOZART)
    assert ris.entries() == []
    assert ris.entry(MOZART).order.accession_number == "A1"
    assert ris.elements()[0].startswith("MOZART^NANNERL|P2|")


def test_an_accession_in_use_cannot_be_given_to_another_order(ris):
    ris.send()
    ris.send(
        an_order(
            A.PLACE,
            "NW",
            a_procedure("RP2", None, a_step("S2")),
            accession_number="A2",
            placer_order_number=EntityIdentifier("PL2"),
            filler_order_number=None,
        )
    )
    moved = an_order(
        A.CHANGE,
        "XO",
        a_procedure("RP2", None, a_step("S2")),
        accession_number="A1",
        placer_order_number=EntityIdentifier("PL2"),
        filler_order_number=None,
    )
    refused(ris, DuplicateKey, moved)


@pytest.mark.parametrize("patient", [HAYDN, MOZART])
def test_an_accession_number_is_reused_after_ninety_days(ris, patient):
    ris.send(placer_free())
    ris.send(a_status(A.COMPLETE, "SC", placer_order_number=None, filler_order_number=None))
    ris.clock.advance(days=91)
    done = ris.send(placer_free(), patient=patient)
    assert len(done.created) == 1
    assert "derived Study Instance UID is in use" in done.warnings[0]
    assert len({e.procedure.study_instance_uid for e in [*ris.entries(HAYDN), *ris.entries(MOZART)]}) == 2


def placer_free():
    return an_order(placer_order_number=None, filler_order_number=None)


def test_an_accession_number_is_not_reused_while_a_trace_of_it_is_younger(ris):
    ris.send(placer_free())
    ris.send(a_status(A.COMPLETE, "SC", placer_order_number=None, filler_order_number=None))
    ris.clock.advance(days=89)
    refused(ris, DuplicateKey, placer_free(), patient=MOZART)


def test_a_late_correction_of_an_old_order_is_not_a_new_order(ris):
    ris.send()
    ris.send(a_status(A.COMPLETE, "SC"))
    ris.clock.advance(days=400)
    done = ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "NEW^NAME"}))
    assert done.created == ()
    assert len(ris.orders()) == 1
