"""Whatever a RIS sends, in whatever order: what is stored stays consistent, and saying it twice changes nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.db.engine import open_engine
from broker.domain.attributes import missing_type_1
from broker.domain.orders import EntityIdentifier, OrderAction, PatientIdentifier
from broker.domain.steps import OFFERED_BY_DEFAULT, StepEvent, roll_up
from broker.errors import BrokerError, IllegalTransition
from tests.ris import HAYDN, MOZART, Ris, a_procedure, a_step, an_order

PEOPLE = (HAYDN, MOZART)
CONTROLS = ("NW", "XO", "CA", "DC", "HD", "RL", "SC", "RO")

steps = st.lists(
    st.builds(
        a_step,
        st.sampled_from([None, "S1", "S2", "S3-MUCH-LONGER-THAN-16"]),
        Modality=st.sampled_from(["CT", "MR", "absent", None]),
        ScheduledStationAETitle=st.sampled_from([("CT1",), "absent"]),
        ScheduledProcedureStepStartTime=st.sampled_from(["093000", "absent"]),
    ),
    max_size=3,
)
procedures = st.lists(
    st.builds(
        lambda number, uid, chosen: replace(a_procedure(number, uid), steps=tuple(chosen)),
        st.sampled_from([None, "RP1", "RP2"]),
        st.sampled_from([None, None, "1.2.3", "1.2.4"]),
        steps,
    ),
    max_size=2,
)
orders = st.builds(
    lambda action, control, chosen, placer, accession, complete: replace(
        an_order(action, control),
        procedures=tuple(chosen),
        placer_order_number=placer and EntityIdentifier(placer, "RIS"),
        filler_order_number=None,
        accession_number=accession,
        steps_are_complete=complete,
    ),
    st.sampled_from([action for action in OrderAction if action is not OrderAction.IGNORE]),
    st.sampled_from(CONTROLS),
    procedures,
    st.sampled_from([None, "PL1", "PL2"]),
    st.sampled_from([None, "A1", "A2"]),
    st.booleans(),
)
messages = st.tuples(
    st.just("order"),
    st.lists(orders, min_size=1, max_size=2),
    st.sampled_from(PEOPLE),
    st.integers(min_value=-3, max_value=3),
)
scans = st.tuples(
    st.just("scan"), st.sampled_from(StepEvent), st.sampled_from(["S1", "S2", "RP1"]), st.just(0)
)
merges = st.tuples(st.just("merge"), st.sampled_from(PEOPLE), st.sampled_from(["P1", "P2"]), st.just(0))


def check(ris):
    """See that what is stored fits together."""
    rows = {row["id"]: row for row in ris.snapshot()["scheduled_procedure_step"]}
    elements = ris.elements()
    for patient in PEOPLE:
        for order in ris.orders(patient):
            entries = [entry for entry in ris.entries(patient) if entry.order.id == order.id]
            if entries:
                assert order.status is roll_up([entry.step.status for entry in entries])
            ids = [(entry.procedure.id, entry.step.scheduled_procedure_step_id) for entry in entries]
            assert len(ids) == len(set(ids))
            for entry in entries:
                row = rows[entry.step.id]
                assert entry.step.missing == missing_type_1(entry)
                offered = entry.step.status in OFFERED_BY_DEFAULT and not entry.step.missing
                assert row["offered"] is offered
                assert row["accession_number"] == entry.order.accession_number
                assert row["patient_id"] == entry.patient.patient_id
                assert len(entry.step.scheduled_procedure_step_id) <= 16
                assert len(entry.procedure.requested_procedure_id) <= 16
                if offered:
                    # What a scanner is answered is what is stored.
                    assert ris.encoder.encode(entry).decode() in elements


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.one_of(messages, messages, messages, scans, merges), min_size=1, max_size=7))
def test_any_conversation_leaves_a_consistent_store(sqlite_template, conversation):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broker.sqlite3"
        shutil.copyfile(sqlite_template, path)
        ris = Ris(open_engine(f"sqlite:///{path}"))
        try:
            for kind, first, second, minutes in conversation:
                play(ris, kind, first, second, minutes)
                check(ris)
        finally:
            ris.engine.dispose()


def play(ris, kind, first, second, minutes):
    if kind == "scan":
        for patient in PEOPLE:
            with contextlib.suppress(IllegalTransition):
                ris.happen(first, second, patient)
        return
    before = ris.snapshot()
    ris.clock.advance(minutes=5)
    sent_at = ris.clock.now() + timedelta(minutes=minutes)
    try:
        if kind == "merge":
            ris.merge(first, PatientIdentifier(second, "HOSP"))
        else:
            ris.send(*first, patient=second, sent_at=sent_at)
    except BrokerError:
        assert ris.snapshot() == before
        return
    after = ris.snapshot()
    if kind == "order" and len(first) == 1 and not is_named_loosely(first[0]):
        with contextlib.suppress(BrokerError):
            ris.send(*first, patient=second, sent_at=sent_at)
        assert ris.snapshot() == after


def is_named_loosely(order):
    """Tell whether a message leaves open which steps it means, or says two things of one: repeating it may differ."""
    named = [step.scheduled_procedure_step_id for p in order.procedures for step in p.steps]
    names = [*named, *(procedure.requested_procedure_id for procedure in order.procedures)]
    return None in names or len(set(names)) < len(names)
