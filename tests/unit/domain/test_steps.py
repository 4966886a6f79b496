"""The state tables, pair by pair: what is not listed here is refused, and nothing has changed."""

from __future__ import annotations

import copy
import itertools

import pytest

from broker.domain.steps import (
    FINAL_STEPS,
    OFFERED_BY_DEFAULT,
    PERFORMED_TRANSITIONS,
    STEP_TRANSITIONS,
    OrderStatus,
    PerformedStatus,
    StepEvent,
    StepStatus,
    advance,
    advance_performed,
    roll_up,
)
from broker.errors import IllegalTransition

S, E, P = StepStatus, StepEvent, PerformedStatus
PREVIOUS = S.ARRIVED

# Written out a second time on purpose: a slip in the table must not be able to move its own test.
LEGAL = {
    (S.SCHEDULED, E.ORDER_CANCELED): S.CANCELED,
    (S.SCHEDULED, E.ORDER_DISCONTINUED): S.DISCONTINUED,
    (S.SCHEDULED, E.ORDER_HELD): S.HELD,
    (S.SCHEDULED, E.ORDER_COMPLETED): S.COMPLETED,
    (S.SCHEDULED, E.ORDER_REINSTATED): S.SCHEDULED,
    (S.SCHEDULED, E.PATIENT_ARRIVED): S.ARRIVED,
    (S.SCHEDULED, E.MPPS_IN_PROGRESS): S.STARTED,
    (S.SCHEDULED, E.MPPS_COMPLETED): S.COMPLETED,
    (S.SCHEDULED, E.MPPS_DISCONTINUED): S.DISCONTINUED,
    (S.SCHEDULED, E.MPPS_DISCONTINUED_WITHOUT_IMAGES): S.SCHEDULED,
    **{
        (status, event): after
        for status in (S.ARRIVED, S.READY)
        for event, after in {
            E.ORDER_CANCELED: S.CANCELED,
            E.ORDER_DISCONTINUED: S.DISCONTINUED,
            E.ORDER_HELD: S.HELD,
            E.ORDER_COMPLETED: S.COMPLETED,
            E.ORDER_REINSTATED: S.SCHEDULED,
            E.MPPS_IN_PROGRESS: S.STARTED,
            E.MPPS_COMPLETED: S.COMPLETED,
            E.MPPS_DISCONTINUED: S.DISCONTINUED,
            E.MPPS_DISCONTINUED_WITHOUT_IMAGES: status,
        }.items()
    },
    (S.HELD, E.ORDER_CANCELED): S.CANCELED,
    (S.HELD, E.ORDER_DISCONTINUED): S.DISCONTINUED,
    (S.HELD, E.ORDER_RELEASED): PREVIOUS,
    (S.HELD, E.ORDER_COMPLETED): S.COMPLETED,
    (S.HELD, E.ORDER_REINSTATED): S.SCHEDULED,
    (S.HELD, E.MPPS_IN_PROGRESS): S.STARTED,
    (S.HELD, E.MPPS_COMPLETED): S.COMPLETED,
    (S.HELD, E.MPPS_DISCONTINUED): S.DISCONTINUED,
    (S.HELD, E.MPPS_DISCONTINUED_WITHOUT_IMAGES): S.HELD,
    (S.STARTED, E.ORDER_COMPLETED): S.COMPLETED,
    (S.STARTED, E.MPPS_IN_PROGRESS): S.STARTED,
    (S.STARTED, E.MPPS_COMPLETED): S.COMPLETED,
    (S.STARTED, E.MPPS_DISCONTINUED): S.DISCONTINUED,
    (S.STARTED, E.MPPS_DISCONTINUED_WITHOUT_IMAGES): PREVIOUS,
    (S.DEPARTED, E.ORDER_COMPLETED): S.COMPLETED,
    (S.DEPARTED, E.MPPS_COMPLETED): S.COMPLETED,
    (S.CANCELED, E.ORDER_REINSTATED): S.SCHEDULED,
    (S.CANCELED, E.MPPS_IN_PROGRESS): S.STARTED,
    (S.CANCELED, E.MPPS_COMPLETED): S.COMPLETED,
    (S.DISCONTINUED, E.ORDER_REINSTATED): S.SCHEDULED,
    (S.DISCONTINUED, E.ORDER_CANCELED): S.CANCELED,
    (S.DISCONTINUED, E.MPPS_IN_PROGRESS): S.STARTED,
    (S.DISCONTINUED, E.MPPS_COMPLETED): S.COMPLETED,
}
ALL_PAIRS = list(itertools.product(S, E))


@pytest.mark.parametrize(("status", "event"), [pair for pair in ALL_PAIRS if pair in LEGAL])
def test_a_legal_event_leads_to_its_status(status, event):
    assert advance(status, event, previous=PREVIOUS) is LEGAL[(status, event)]


@pytest.mark.parametrize(("status", "event"), [pair for pair in ALL_PAIRS if pair not in LEGAL])
def test_an_illegal_event_is_refused_and_changes_nothing(status, event):
    before = copy.deepcopy(STEP_TRANSITIONS)
    with pytest.raises(IllegalTransition) as refused:
        advance(status, event, previous=PREVIOUS)
    assert status.value in str(refused.value)
    assert event.value in str(refused.value)
    assert before == STEP_TRANSITIONS


@pytest.mark.parametrize(
    ("status", "event"), [(S.HELD, E.ORDER_RELEASED), (S.STARTED, E.MPPS_DISCONTINUED_WITHOUT_IMAGES)]
)
def test_going_back_without_a_remembered_status_means_scheduled(status, event):
    assert advance(status, event) is S.SCHEDULED


def test_every_status_has_a_row():
    assert set(STEP_TRANSITIONS) == set(S)


def test_completed_is_the_end():
    assert STEP_TRANSITIONS[S.COMPLETED] == {}


def test_what_is_offered_is_neither_final_nor_held_nor_started():
    assert not OFFERED_BY_DEFAULT & (FINAL_STEPS | {S.HELD, S.STARTED, S.DEPARTED})


@pytest.mark.parametrize("to", P)
def test_a_performed_step_in_progress_may_become_anything(to):
    assert advance_performed(P.IN_PROGRESS, to) is to


@pytest.mark.parametrize(("status", "to"), list(itertools.product((P.COMPLETED, P.DISCONTINUED), P)))
def test_a_final_performed_step_may_no_longer_be_updated(status, to):
    with pytest.raises(IllegalTransition, match="may no longer be updated") as refused:
        advance_performed(status, to)
    assert refused.value.dimse_status == 0x0110
    assert PERFORMED_TRANSITIONS[status] == frozenset()


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([], OrderStatus.SCHEDULED),
        ([S.SCHEDULED], OrderStatus.SCHEDULED),
        ([S.ARRIVED, S.READY], OrderStatus.SCHEDULED),
        ([S.STARTED, S.SCHEDULED], OrderStatus.IN_PROGRESS),
        ([S.STARTED, S.COMPLETED], OrderStatus.IN_PROGRESS),
        ([S.COMPLETED, S.SCHEDULED], OrderStatus.IN_PROGRESS),
        ([S.COMPLETED, S.CANCELED], OrderStatus.COMPLETED),
        ([S.COMPLETED, S.DISCONTINUED], OrderStatus.COMPLETED),
        ([S.CANCELED, S.CANCELED], OrderStatus.CANCELED),
        ([S.CANCELED, S.DISCONTINUED], OrderStatus.DISCONTINUED),
        ([S.CANCELED, S.SCHEDULED], OrderStatus.SCHEDULED),
        ([S.HELD], OrderStatus.HELD),
        ([S.HELD, S.CANCELED], OrderStatus.HELD),
        ([S.HELD, S.SCHEDULED], OrderStatus.SCHEDULED),
    ],
)
def test_the_order_shows_what_its_steps_are(steps, status):
    assert roll_up(steps) is status
    assert roll_up(list(reversed(steps))) is status
