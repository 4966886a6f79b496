"""Several groups of one message: steps, procedures, and lists that are complete."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.orders import EntityIdentifier
from broker.domain.orders import OrderAction as A
from broker.domain.steps import StepEvent
from broker.errors import RecordLocked
from tests.ris import CANCELED, SCHEDULED, a_procedure, a_status, a_step, an_order
from tests.unit.workflow.order_desk import refused


def test_groups_of_one_procedure_become_its_steps(ris):
    """IHE RAD-4: all groups of a message are steps of one requested procedure."""
    groups = [an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step(f"S{n}"))) for n in (1, 2, 3)]
    done = ris.send(*groups)
    assert len(done.created) == 1
    assert ris.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED, "S3": SCHEDULED}
    assert len({entry.procedure.id for entry in ris.entries()}) == 1


def test_groups_without_step_ids_are_steps_of_their_own_and_stay_so(ris):
    groups = [an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step(None))) for _ in range(2)]
    ris.send(*groups)
    assert ris.statuses() == {"RP1": SCHEDULED, "RP1.2": SCHEDULED}
    ris.send(*groups)
    assert ris.statuses() == {"RP1": SCHEDULED, "RP1.2": SCHEDULED}


def test_another_procedure_id_under_one_accession_is_a_second_procedure_with_its_own_study(ris):
    ris.send()
    ris.send(
        an_order(
            A.PLACE,
            "NW",
            a_procedure("RP2", None, a_step("S2")),
            placer_order_number=None,
            filler_order_number=None,
        )
    )
    assert len(ris.orders()) == 1
    assert len({entry.procedure.study_instance_uid for entry in ris.entries()}) == 2


def test_later_groups_do_not_take_the_orders_number_away(ris):
    first = an_order()
    second = an_order(
        A.PLACE,
        "NW",
        a_procedure("RP1", None, a_step("S2")),
        filler_order_number=None,
        placer_order_number=EntityIdentifier("PL1-2", "RIS"),
    )
    ris.send(first, second)
    assert ris.entries()[0].order.placer_order_number == EntityIdentifier("PL1", "RIS")


def test_one_bad_group_undoes_the_whole_message(ris):
    ris.send()
    ris.happen(StepEvent.MPPS_IN_PROGRESS)
    new = an_order(
        A.PLACE,
        "NW",
        a_procedure("RP2", None, a_step("S2")),
        accession_number="A2",
        placer_order_number=None,
        filler_order_number=None,
    )
    refused(ris, RecordLocked, new, a_status(A.CANCEL, "CA"))


def test_a_complete_list_cancels_what_it_leaves_out_and_brings_back_what_it_has_again(two_steps):
    one = an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1")), steps_are_complete=True)
    two_steps.send(one)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": CANCELED}
    both = an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1"), a_step("S2")), steps_are_complete=True
    )
    two_steps.send(both)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_a_procedure_named_without_steps_keeps_those_it_has(ris):
    bare = replace(a_procedure("RP2"), steps=())
    listed = an_order(A.PLACE, "NW", a_procedure("RP1", None, a_step("S1")), bare, steps_are_complete=True)
    ris.send(listed)
    ris.send(listed)
    assert ris.statuses() == {"S1": SCHEDULED, "RP2": SCHEDULED}
    ris.send(a_status(A.CANCEL, "CA"))
    ris.send(listed)
    assert ris.statuses() == {"S1": SCHEDULED, "RP2": SCHEDULED}


def test_an_empty_list_is_no_list(two_steps):
    two_steps.send(replace(an_order(A.CHANGE, "XO"), procedures=(), steps_are_complete=True))
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_a_complete_list_leaves_a_step_in_progress_alone(two_steps):
    two_steps.happen(StepEvent.MPPS_IN_PROGRESS, "S2")
    one = an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1")), steps_are_complete=True)
    done = two_steps.send(one)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": "STARTED"}
    assert any("in progress" in warning for warning in done.warnings)


def test_a_list_that_is_not_complete_cancels_nothing(two_steps):
    two_steps.send(an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1"))))
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}


def test_a_complete_list_in_several_groups_is_taken_together(two_steps):
    groups = [
        an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step(f"S{n}")), steps_are_complete=True)
        for n in (1, 2)
    ]
    two_steps.send(*groups)
    assert two_steps.statuses() == {"S1": SCHEDULED, "S2": SCHEDULED}
