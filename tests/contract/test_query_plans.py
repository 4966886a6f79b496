"""What runs often looks through an index of open work, however long the history grows."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import text

from broker.db.reports import SqlReports
from broker.db.seal import seal_events
from broker.db.traffic import count_traffic
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.orders import EntityIdentifier
from broker.workflow.audit_port import AuditQuestion
from broker.workflow.images_port import InstanceState
from broker.workflow.worklist_board import BoardFilters
from tests.builders import NOW, a_message, a_message_delivery, a_stored_entry, an_instance, order_details
from tests.query_plans import plans_of

LEASE = timedelta(seconds=90)
NUMBERS = order_details(
    placer_order_number=EntityIdentifier("P1"),
    filler_order_number=EntityIdentifier("F1"),
    accession_number="A1",
)
STUDY = "1.2.826.0.1.1"

ONE_ROW = ("destination_state", "CONSTANT ROW")
OFTEN = {
    "claim": (
        lambda uow: uow.deliveries.claim(1, worker="w", now=NOW, lease=LEASE),
        {"ix_delivery_ordering"},
    ),
    "due": (lambda uow: uow.deliveries.due(now=NOW, limit=9), {"ix_delivery_next", "ix_delivery_ordering"}),
    "next due": (lambda uow: uow.deliveries.next_due("ris", now=NOW), {"ix_delivery_next"}),
    "quiet": (lambda uow: uow.deliveries.quiet(now=NOW, limit=9), {"ix_delivery_quiet"}),
    "held": (lambda uow: uow.deliveries.held(limit=9), {"ix_delivery_in_progress"}),
    "open": (
        lambda uow: uow.deliveries.open_for(destination="d", route="r", unit_uid="1"),
        {"uq_delivery_open"},
    ),
    "in progress": (lambda uow: uow.deliveries.in_progress("ris"), {"ix_delivery_in_progress"}),
    "operator": (
        lambda uow: uow.deliveries.find_ids(state=DeliveryState.DEAD, after=3),
        {"ix_delivery_dead"},
    ),
    "items": (lambda uow: uow.deliveries.waiting_items(1, after=0, limit=9), {"ix_delivery_item_state"}),
    "count": (lambda uow: uow.deliveries.count_waiting(1), {"ix_delivery_item_state"}),
    "of instance": (lambda uow: uow.deliveries.of_instance(1), {"ix_delivery_item_instance"}),
    "undecided": (lambda uow: uow.instances.undecided(9), {"ix_instance_undecided"}),
    "unrouted": (lambda uow: uow.instances.unrouted(9), {"ix_instance_unrouted"}),
    "versions": (lambda uow: uow.instances.versions("1"), set()),
    "decide": (lambda uow: uow.instances.decide(1, InstanceState.ROUTED, order=None), set()),
    "message key": (lambda uow: uow.messages.find("RIS", "HOSP", "M7"), {"ix_hl7_message"}),
    "order numbers": (
        lambda uow: uow.orders.identify(NUMBERS, patient=None),
        {
            "ix_imaging_order_placer_order_number",
            "ix_imaging_order_filler_order_number",
            "ix_imaging_order_accession_number",
        },
    ),
    "exams of a study": (lambda uow: uow.performed.of_study(STUDY), {"performed_study"}),
    "mpps": (
        lambda uow: uow.performed.find("1", lock=True),
        set(),
    ),
}


def test_the_sealer_finds_what_is_new_by_an_index(sqlite_engine):
    (plan,) = plans_of(sqlite_engine, lambda: seal_events(sqlite_engine))
    assert plan.startswith("SEARCH event USING INDEX")


def test_the_urgent_among_the_dead_are_counted_by_an_index_of_their_own(sqlite_engine):
    plans = plans_of(sqlite_engine, lambda: SqlReports(sqlite_engine).destinations(now=NOW))
    assert any("ix_delivery_dead_urgent" in plan for plan in plans), plans


def test_what_listeners_ask_every_second_reads_what_is_in_force_by_an_index(sqlite_engine):
    plans = plans_of(sqlite_engine, lambda: SqlReports(sqlite_engine).standing_orders(now=NOW))
    assert any("ix_wire_capture_open" in plan for plan in plans)
    assert any("ix_device_admission_open" in plan for plan in plans)
    assert not [plan for plan in plans if "SCAN" in plan and "both" not in plan and "anon" not in plan], plans


@pytest.mark.parametrize(
    "report",
    [
        lambda reports: reports.destinations(now=NOW),
        lambda reports: reports.day(since=NOW),
        lambda reports: reports.needs_person(refused_since=NOW),
        lambda reports: reports.trends(now=NOW),
        lambda reports: reports.urgent(now_local=NOW, late=LEASE),
        lambda reports: reports.sources(),
        lambda reports: reports.shift(since=NOW, until=NOW + LEASE),
        lambda reports: reports.orders(incomplete=True),
        lambda reports: reports.orders(text="x"),
        lambda reports: reports.worklist(date="20261121", text="x"),
        lambda reports: reports.worklist(),
        lambda reports: reports.board(BoardFilters("20261121")),
        lambda reports: reports.board_day("20261121"),
        lambda reports: reports.exam_starts(["CT1", "MR1"]),
        lambda reports: reports.deliveries(state="dead"),
        lambda reports: reports.studies(state="unrouted"),
        lambda reports: reports.orders(before=(NOW, 5)),
        lambda reports: reports.studies(before="1.2.3"),
        lambda reports: reports.items_behind(1, item=5),
    ],
    ids=[
        "destinations",
        "day",
        "badges",
        "trends",
        "urgent",
        "sources",
        "shift",
        "incomplete",
        "orders",
        "a day",
        "all days",
        "board",
        "board of a day",
        "clocks",
        "dead",
        "unrouted",
        "orders behind one",
        "studies behind one",
        "images behind one",
    ],
)
def test_pages_that_are_looked_at_all_day_read_no_table_from_end_to_end(sqlite_engine, report):
    plans = plans_of(sqlite_engine, lambda: report(SqlReports(sqlite_engine)))
    whole = (
        "SCAN delivery",
        "SCAN instance",
        "SCAN imaging_order",
        "SCAN scheduled_procedure_step",
        "SCAN event",
    )
    assert plans
    assert not [p for p in plans if p in whole or ("SCAN" in p and "ix_delivery_destination" in p)], plans


@pytest.mark.parametrize(
    "question",
    [
        AuditQuestion(),
        AuditQuestion(actor="ada"),
        AuditQuestion(actor="broker", what="backup written", since=NOW, until=NOW + LEASE),
        AuditQuestion(what="viewed"),
        AuditQuestion(until=NOW),
        AuditQuestion(patient="PID1", actor="broker", what="viewed"),
        AuditQuestion(order=1, actor="broker"),
        AuditQuestion(study_instance_uid="1.2", what="viewed"),
    ],
    ids=repr,
)
def test_the_audit_trail_is_searched_by_its_indexes_whatever_is_asked(engine, uow_factory, question):
    with uow_factory() as uow:
        a_stored_entry(uow, 1)
        for actor in ("ada", "broker"):
            uow.record(Event(EventName.VIEWED, Subject.ORDER, 1, "1.2", 1, actor=actor))
        uow.commit()
    reports = SqlReports(engine)
    plans = plans_of(engine, lambda: reports.audit(question, before=2))
    on_events = [plan for plan in plans if re.search(r"\bevent\b|ix_event", plan)]
    assert on_events
    if engine.dialect.name == "sqlite":
        assert not [plan for plan in on_events if "SCAN event" in plan], plans
        about = bool(question.patient or question.order or question.study_instance_uid)
        assert about or not [plan for plan in plans if "TEMP B-TREE" in plan], plans
        assert not about or not [plan for plan in plans if "ix_event_actor" in plan], plans
    else:
        assert not [plan for plan in plans if "Seq Scan on event" in plan], plans


def test_counting_who_talks_reads_what_is_new_by_an_index(sqlite_engine, sqlite_uow_factory):
    with sqlite_uow_factory() as uow:
        uow.messages.add(a_message())
        uow.instances.add_many([an_instance()])
        uow.commit()
    plans = plans_of(sqlite_engine, lambda: count_traffic(sqlite_engine, now=NOW + timedelta(hours=2)))
    assert plans
    assert not [p for p in plans if p in {"SCAN hl7_message", "SCAN instance", "SCAN event"}], plans


@pytest.mark.parametrize(("action", "indexes"), OFTEN.values(), ids=OFTEN.keys())
def test_what_runs_often_reads_no_table_from_end_to_end(engine, uow_factory, action, indexes):
    with uow_factory() as uow:
        uow.deliveries.add(a_message_delivery("k"), now=NOW)
        uow.instances.add_many([an_instance()])
        for number in range(50):
            # One sender's: an index by sender alone would find them all.
            uow.messages.add(a_message(number))
        uow.commit()
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("ANALYZE hl7_message"))

    def run():
        with uow_factory() as uow:
            action(uow)

    plans = plans_of(engine, run)
    assert plans
    assert not [
        p for p in plans if "SCAN" in p and "USING" not in p and not any(one in p for one in ONE_ROW)
    ], plans
    assert not [p for p in plans if "Seq Scan" in p and "destination_state" not in p], plans
    for index in indexes:
        assert any(index in plan for plan in plans), plans
