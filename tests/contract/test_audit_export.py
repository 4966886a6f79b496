"""The trail as the spool of audit messages: nothing left out, in order, by one process, on both databases."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from sqlalchemy import update

from broker.db.reports import SqlReports
from broker.db.schema import EVENT
from broker.db.seal import seal_events
from broker.domain.events import Event, EventName, Subject
from broker.workflow.audit_collectors import ConfiguredCollector, collector_lines
from broker.workflow.audit_export import ExportLimits, TrailExport
from broker.workflow.audit_participants import Ourselves
from broker.workflow.audit_port import CollectorAway, CollectorState, PatientNamed
from tests.builders import NOW, a_message_delivery, a_stored_entry, an_instance

US = Ourselves("here", "BROKER")
CONFIGURED = [ConfiguredCollector("siem", "siem.hospital:6514", "tls")]


@dataclass
class Repository:
    """A collector that keeps what it is sent, and goes away when told to."""

    name: str = "siem"
    settle_s: float = 2.0
    received: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    fails_after: int | None = None
    """So many messages from now the connection ends, and with it what was on the way."""
    has_left: bool = False
    is_slow: bool = False
    lost: int = 0
    closed: int = 0

    def hand_over(self, number, message):
        if self.fails_after == 0:
            self.has_left = True
            if self.lost:
                del self.received[-self.lost :]
        if self.has_left:
            raise CollectorAway("siem: ConnectionResetError")
        if self.fails_after is not None:
            self.fails_after -= 1
        self.received.append(number)
        self.messages.append(message)

    def has_arrived(self, *, wait_s=0.0):
        if self.has_left:
            raise CollectorAway("siem: it has closed the connection")
        return not self.is_slow

    def close(self):
        self.closed += 1

    def come_back(self):
        self.fails_after, self.has_left, self.lost = None, False, 0


@pytest.fixture
def happen(engine, uow_factory):
    """Let things happen: each is an event that is reported, and sealed."""

    def happen(count, name=EventName.SIGNED_IN):
        with uow_factory() as uow:
            for number in range(count):
                uow.record(Event(name, Subject.ACCOUNT, number, actor="ada"))
            uow.commit()
        seal_events(engine)

    return happen


@pytest.fixture
def an_export(uow_factory, reports, clock):
    def an_export(collector, owner="one", **limits):
        return TrailExport(
            uow_factory, reports, clock, collector, US, owner=owner, limits=ExportLimits(**limits)
        )

    return an_export


@pytest.fixture
def started(an_export, happen):
    """A collector that is known, with two events before its time."""
    collector = Repository()
    happen(2)
    export = an_export(collector)
    assert export.turn() == 0
    return collector, export


def place(reports):
    (state,) = reports.collectors()
    return state.number


def test_a_new_collector_is_told_what_happens_from_then_on_in_order(started, happen, reports, clock):
    collector, export = started
    assert (export.turn(), collector.received) == (0, [])
    happen(5)
    assert export.turn() == 5
    assert collector.received == [3, 4, 5, 6, 7]
    assert place(reports) == 2, "nothing counts before the connection has lived on"
    clock.advance(2)
    assert export.turn() == 0
    assert reports.collectors() == [CollectorState("siem", 7, clock.now())]
    assert collector.received == [3, 4, 5, 6, 7]


def test_what_is_not_reported_is_passed_by_without_a_connection(started, happen, reports):
    collector, export = started
    happen(3, EventName.ROUTED)
    collector.has_left = True
    assert export.turn() == 0
    assert reports.collectors() == [CollectorState("siem", 5)]


def test_a_broken_connection_is_followed_by_all_that_was_not_settled(started, happen, reports, clock):
    collector, export = started
    happen(3)
    export.turn()
    clock.advance(2)
    happen(4)
    collector.fails_after, collector.lost = 2, 2  # 6 and 7 are handed over and never arrive
    export.turn()
    assert (collector.received, place(reports)) == ([3, 4, 5], 5)
    (state,) = reports.collectors()
    assert (state.failing_since, state.problem) == (clock.now(), "siem: ConnectionResetError")
    collector.come_back()
    assert export.turn() == 0, "it rests"
    clock.advance(5)
    assert export.turn() == 4
    clock.advance(2)
    export.turn()
    assert collector.received == [3, 4, 5, 6, 7, 8, 9]
    assert reports.collectors() == [CollectorState("siem", 9, clock.now())]


def test_a_connection_that_ends_before_it_counts_means_a_second_copy_and_no_gap(started, happen, clock):
    collector, export = started
    happen(3)
    export.turn()
    collector.has_left = True
    clock.advance(2)
    export.turn()
    collector.come_back()
    clock.advance(5)
    export.turn()
    assert collector.received == [3, 4, 5, 3, 4, 5]


def test_a_collector_that_stays_away_is_tried_more_and_more_rarely_and_keeps_its_day(
    started, happen, reports, clock
):
    collector, export = started
    happen(1)
    collector.has_left = True
    tries, away_since = 0, clock.now()
    for _ in range(600):
        before = collector.closed
        export.turn()
        tries += collector.closed > before
        clock.advance(1)
    assert 15 <= tries <= 25
    (state,) = reports.collectors()
    assert state.failing_since == away_since
    (line,) = collector_lines(reports, CONFIGURED)
    assert (line.state, line.waiting, line.failing_since) == ("failing", 1, away_since)
    assert line.is_away(timedelta(minutes=9), now=clock.now())
    assert not line.is_away(timedelta(minutes=11), now=clock.now())


def test_a_slow_collector_is_sent_a_window_and_no_more(started, happen, reports, clock):
    collector, export = started
    happen(60)
    collector.is_slow = True
    export._limits = ExportLimits(batch=10, window=20, slice_s=0.5)

    class Ticking:
        """Time goes by while it is asked for."""

        def __init__(self, clock):
            self._clock = clock

        def __getattr__(self, name):
            return getattr(self._clock, name)

        def monotonic(self):
            self._clock.elapsed_s += 0.05
            return self._clock.elapsed_s

    export._clock = Ticking(clock)
    export.turn()
    assert len(collector.received) == 20
    export.turn()
    assert len(collector.received) == 20
    assert place(reports) == 2
    collector.is_slow = False
    clock.advance(3)
    for _ in range(100):
        export.turn()
    assert collector.received == list(range(3, 63))
    assert place(reports) == 62


def test_one_process_sends_and_another_takes_over_when_its_lease_is_over(
    started, an_export, happen, reports, clock
):
    collector, export = started
    happen(2)
    assert export.turn() == 2
    other_collector = Repository()
    other = an_export(other_collector, owner="two")
    assert other.turn() == 0
    clock.advance(61)  # the first one is frozen; what it has not seen settle is sent again
    happen(1)
    assert other.turn() == 3
    clock.advance(2)
    other.turn()
    assert other_collector.received == [3, 4, 5]
    assert place(reports) == 5
    happen(1)
    assert export.turn() == 0, "it is thawed, and not its turn"
    assert export._run is None
    assert collector.received == [3, 4]


def test_a_frozen_process_moves_nothing_when_it_wakes_in_the_middle(
    started, an_export, happen, reports, clock
):
    _, export = started
    happen(2)
    export.turn()
    run = export._run
    clock.advance(61)
    happen(2)
    other = an_export(Repository(), owner="two")
    other.turn()
    clock.advance(2)
    other.turn()
    assert place(reports) == 6
    export._settle(run, wait_s=0.0)
    assert place(reports) == 6
    assert export._run is None


def test_a_process_that_starts_anew_goes_on_where_it_is_stored(started, an_export, happen, clock):
    collector, export = started
    happen(3)
    export.turn()
    clock.advance(2)
    export.turn()
    happen(2)
    export.turn()
    clock.advance(61)
    again = an_export(collector, owner="after the crash")
    again.turn()
    assert collector.received == [3, 4, 5, 6, 7, 6, 7]


def test_nothing_is_written_while_nothing_happens(started, happen, engine, clock):
    from sqlalchemy import event

    _, export = started
    happen(1)
    export.turn()
    clock.advance(2)
    export.turn()
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for _ in range(5):
        clock.advance(5)
        export.turn()
    assert statements
    assert not [one for one in statements if one.startswith(("UPDATE", "INSERT"))]


def test_a_datagram_counts_at_once(an_export, happen, reports):
    collector = Repository(settle_s=0.0)
    export = an_export(collector)
    export.turn()
    happen(2)
    export.turn()
    export.turn()
    assert place(reports) == 2


def test_an_event_nobody_can_translate_does_not_stop_the_others(started, happen, monkeypatch):
    from broker.workflow import audit_export

    collector, export = started
    real = audit_export.message_of

    def broken(event, us):
        if event.number == 4:
            raise RuntimeError("HAYDN^JOSEPH")
        return real(event, us)

    monkeypatch.setattr(audit_export, "message_of", broken)
    happen(3)
    export.turn()
    assert collector.received == [3, 4, 5]
    assert "HAYDN" not in repr(collector.messages)
    assert "RuntimeError" in repr(collector.messages[1])


def test_a_collector_without_news_is_up_and_one_nobody_has_sent_to_is_new(started, reports):
    lines = collector_lines(reports, [*CONFIGURED, ConfiguredCollector("other", "o:514", "udp")])
    assert [(one.name, one.state, one.waiting) for one in lines] == [("siem", "up", 0), ("other", "new", 0)]
    assert collector_lines(reports, []) == ()


def test_events_are_told_with_the_objects_they_are_about(engine, uow_factory, reports):
    with uow_factory() as uow:
        entry = a_stored_entry(uow, 1)
        delivery = uow.deliveries.add(a_message_delivery("k"), now=NOW)
        (instance,) = uow.instances.add_many([an_instance(9, study_instance_uid="1.2.9", patient_id="PID9")])
        uow.record(Event(EventName.VIEWED, Subject.ORDER, entry.order.id, order=entry.order.id))
        uow.record(
            Event(
                EventName.STEP_CHANGED,
                Subject.STEP,
                entry.step.id,
                study_instance_uid=entry.procedure.study_instance_uid,
            )
        )
        uow.record(Event(EventName.PATIENT_UPDATED, Subject.PATIENT, entry.patient.id))
        uow.record(Event(EventName.DELIVERY_CLAIMED, Subject.DELIVERY, delivery))
        uow.record(Event(EventName.INSTANCE_REPEATED, Subject.INSTANCE, instance, "1.2.9"))
        uow.record(Event(EventName.VIEWED, Subject.ORDER, 4711, order=4711))
        uow.commit()
    seal_events(engine)
    order, step, patient, sent, image, gone = reports.trail(after=0, limit=10)
    named = PatientNamed(entry.patient.patient_id, entry.patient.issuer, entry.patient.name)
    assert order.patient == step.patient == patient.patient == named
    assert order.accession_number == step.accession_number == entry.order.accession_number
    assert (sent.destination, sent.destination_kind) == ("ris", "mllp")
    assert image.sop_class_uid
    assert image.patient == PatientNamed("PID9")
    assert (gone.patient, gone.accession_number) == (None, "")
    assert [one.number for one in reports.trail(after=2, limit=2)] == [3, 4]
    assert reports.trail_end() == 6
    assert reports.unsent_since(6) is None


def test_a_batch_is_found_by_the_index_of_the_chain(sqlite_engine):
    from tests.query_plans import plans_of

    reports = SqlReports(sqlite_engine)
    plans = plans_of(sqlite_engine, lambda: (reports.trail(after=5, limit=9), reports.unsent_since(5)))
    assert not [plan for plan in plans if "SCAN event" in plan or "TEMP B-TREE" in plan], plans


def test_the_clock_of_an_event_is_told_with_its_zone(engine, happen, reports):
    happen(1)
    with engine.begin() as connection:
        connection.execute(update(EVENT).values(at=NOW))
    (event,) = reports.trail(after=0, limit=1)
    assert event.at == NOW
    assert event.at.tzinfo is not None
