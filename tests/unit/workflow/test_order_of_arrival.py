"""Messages that arrive late, twice or out of order, and which of them has the last word."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.orders import OrderAction as A
from broker.domain.steps import OrderStatus
from broker.errors import Conflict
from tests.ris import CANCELED, POLICY, SCHEDULED, a_procedure, a_status, a_step, an_order
from tests.unit.workflow.order_desk import refused


def test_within_one_source_what_arrives_last_counts(ris):
    early = ris.clock.now()
    ris.send()
    ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "LAST^ARRIVED"}), sent_at=early)
    assert ris.entry().order.attributes["RequestingPhysician"] == "LAST^ARRIVED"


def test_an_older_event_of_a_source_that_tells_the_time_is_for_a_person(ris):
    ris.policy = replace(POLICY, timestamp_sources=frozenset({"RIS"}))
    early = ris.clock.now()
    ris.send()
    refused(
        ris, Conflict, an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "OLD^NEWS"}), sent_at=early
    )


def test_an_older_event_of_another_source_is_for_a_person(ris):
    early = ris.clock.now()
    ris.send()
    ris.application = "SCHEDULER"
    refused(ris, Conflict, an_order(A.CHANGE, "XO"), sent_at=early)
    ris.clock.advance(seconds=5)
    ris.send(an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "NEWER^NEWS"}))
    assert ris.entry().order.attributes["RequestingPhysician"] == "NEWER^NEWS"


SCRIPT = [
    an_order(),
    an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledProcedureStepStartTime="100000"))
    ),
    an_order(A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledStationAETitle=("CT2",)))),
    an_order(
        A.CHANGE,
        "XO",
        a_procedure("RP1", None, a_step("S1", Modality="MR", ScheduledStationAETitle=("MR1",))),
    ),
    an_order(
        A.CHANGE, "XO", a_procedure("RP1", None, a_step("S1", ScheduledProcedureStepStartTime="110000"))
    ),
    an_order(A.CHANGE, "XO", changes={"RequestingPhysician": "LAST^WORD"}),
]


def played(ris, script):
    """Send (minute, order) pairs as they come; what is refused is kept for a person and changes nothing."""
    begin = ris.clock.now()
    ris.clock.advance(hours=1)
    for minute, order in script:
        with contextlib.suppress(Conflict):
            ris.send(order, sent_at=begin + timedelta(minutes=minute))
    step = ris.entry().step
    return step.modality, step.station_ae_titles, step.start_time, ris.entry().order.attributes


@pytest.mark.parametrize("seed", range(12))
def test_messages_of_a_source_that_tells_the_time_end_alike_in_any_order_and_number(ris, seed):
    """In whatever order and however often they arrive, the newest message has the last word."""
    ris.policy = replace(POLICY, timestamp_sources=frozenset({"RIS"}))
    dice = random.Random(seed)
    script = list(enumerate(SCRIPT)) * dice.choice([1, 2])
    dice.shuffle(script)
    last = ("CT", ("CT1",), "093000", {"RequestingPhysician": "LAST^WORD"})
    assert played(ris, script) == last


@pytest.mark.parametrize("seed", range(12))
def test_a_cancellation_is_final_in_any_order_of_a_source_that_tells_the_time(ris, seed):
    ris.policy = replace(POLICY, timestamp_sources=frozenset({"RIS"}))
    script = [*enumerate(SCRIPT), (9, a_status(A.CANCEL, "CA"))]
    random.Random(seed).shuffle(script)
    begin = ris.clock.now()
    ris.clock.advance(hours=1)
    for minute, order in script:
        with contextlib.suppress(Conflict):
            ris.send(order, sent_at=begin + timedelta(minutes=minute))
    assert [order.status for order in ris.orders()] == [OrderStatus.CANCELED]
    assert not any(row["offered"] for row in ris.snapshot()["scheduled_procedure_step"])


@pytest.mark.parametrize(
    ("arrival", "after"),
    [
        (("place", "cancel", "again"), SCHEDULED),
        (("place", "again", "cancel"), CANCELED),
        (("cancel", "place", "again"), SCHEDULED),
        (("cancel", "again", "place"), SCHEDULED),
        (("again", "cancel", "place"), CANCELED),
        (("again", "place", "cancel"), CANCELED),
    ],
)
def test_what_each_order_of_arrival_leads_to(ris, arrival, after):
    """One source, arrival counts, but a placement written before the cancellation does not undo it."""
    begin = ris.clock.now()
    ris.clock.advance(hours=1)
    written = {"place": (0, an_order()), "cancel": (1, a_status(A.CANCEL, "CA")), "again": (2, an_order())}
    for name in arrival:
        minute, order = written[name]
        ris.send(order, sent_at=begin + timedelta(minutes=minute))
    assert ris.statuses() == {"S1": after}
