"""Alerts on both databases: from what is wrong to what channels carry, and what people do about it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from broker.db.engine import reading
from broker.db.reports import SqlReports
from broker.db.schema import ALERT, EVENT
from broker.db.seal import seal_events
from broker.db.seal_watch import SealWatch
from broker.domain.alerts import AlertKind, AlertState, Finding, Notice, Severity
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.errors import IllegalTransition, InvalidValue, NotFound
from broker.workflow.alert_operations import AlertOperations, Planned
from broker.workflow.alerting import GIVE_UP, KEPT, Alerting, DatabaseWatch, Telling
from broker.workflow.alerts_port import ChannelFailed
from tests.builders import NOW, a_delivery

DEAD = Finding(
    AlertKind.DEAD,
    "archive",
    Severity.WARNING,
    "3 deliveries need a person",
    "Read.",
    "/deliveries?state=DEAD",
)
SLOW = Finding(AlertKind.BACKLOG, "film", Severity.CRITICAL, "film is slow", "See.", "/destinations/film")


class Pager:
    """A channel that remembers what it carried, or does not answer."""

    def __init__(self, name="pager"):
        self.name, self.messages, self.works = name, [], True

    def send(self, message):
        if not self.works:
            raise ChannelFailed("pager:1: ConnectionRefusedError")
        self.messages.append(message)

    @property
    def lines(self):
        return [(line.notice, line.headline) for message in self.messages for line in message.lines]


class Watch:
    """Alerting on a database, with two channels."""

    def __init__(self, units_of_work, clock, engine):
        self.clock, self.engine, self.reports = clock, engine, SqlReports(engine)
        self.units_of_work = units_of_work
        self.pager, self.mail = Pager(), Pager("mail")
        self.channels = {"pager": self.pager, "mail": self.mail}
        self.telling = Telling(self.channels, timedelta(hours=4), "Hospital", "https://broker.example/")
        self.alerting = Alerting(units_of_work, self.reports, clock, self.telling)
        self.operations = AlertOperations(units_of_work, clock, self.channels, "Hospital")

    def look(self, *found, after=0):
        self.clock.advance(after)
        self.alerting.look(found)
        return self.alerting.carry().sent

    def events(self):
        with reading(self.engine) as connection:
            return [tuple(row) for row in connection.execute(select(EVENT.c.name, EVENT.c.actor))]


@pytest.fixture
def watch(uow_factory, clock, engine):
    return Watch(uow_factory, clock, engine)


def test_an_alert_is_told_on_every_channel_and_over_again(watch):
    assert watch.look(DEAD, SLOW) == 4
    (message,) = watch.pager.messages
    assert [line.headline for line in message.lines] == [SLOW.headline, DEAD.headline]  # the worst first
    assert message.lines[1].link == "https://broker.example/deliveries?state=DEAD"
    assert watch.mail.lines == watch.pager.lines
    assert watch.look(DEAD, SLOW, after=600) == 0
    watch.look(SLOW, after=10)
    assert watch.look(SLOW, after=60) == 2
    assert watch.pager.lines[2:] == [(Notice.RECOVERED, DEAD.headline)]
    (still,) = watch.reports.open_alerts()
    assert still.kind is AlertKind.BACKLOG
    (over,) = watch.reports.recent_alerts()
    assert [line.notice for line in watch.reports.notices([over.id])[over.id]] == ["raised"] * 2 + [
        "over"
    ] * 2
    assert watch.events().count(("alert raised", "broker")) == 2
    assert watch.events().count(("alert over", "broker")) == 1


def test_it_can_happen_again(watch):
    watch.look(DEAD)
    watch.look(after=10)
    watch.look(after=60)
    watch.look(DEAD, after=10)
    assert [notice for notice, _ in watch.pager.lines] == [Notice.RAISED, Notice.RECOVERED, Notice.RAISED]
    assert len(watch.reports.open_alerts()) == len(watch.reports.recent_alerts()) == 1


def test_what_did_not_last_leaves_no_row(watch):
    watch.look(replace(DEAD, kind=AlertKind.ROLE))
    assert [alert.state for alert in watch.reports.open_alerts()] == [AlertState.PENDING]
    watch.look(after=20)
    with reading(watch.engine) as connection:
        assert connection.execute(select(ALERT.c.id)).all() == []
    assert watch.pager.messages == []


def test_a_channel_that_does_not_answer_is_tried_again_and_the_others_carry(watch):
    watch.pager.works = False
    watch.look(DEAD)
    assert len(watch.mail.messages) == 1
    watch.look(DEAD, after=20)
    alert = watch.reports.open_alerts()[0]
    line = next(one for one in watch.reports.notices([alert.id])[alert.id] if one.channel == "pager")
    assert (line.state, line.attempts, line.said) == ("WAITING", 1, "pager:1: ConnectionRefusedError")
    watch.pager.works = True
    assert watch.look(DEAD, after=15) == 1
    assert watch.pager.lines == [(Notice.RAISED, DEAD.headline)]
    assert len(watch.mail.messages) == 1


def test_a_notice_nobody_takes_is_given_up_after_a_day(watch):
    watch.pager.works = False
    watch.look(DEAD)
    alert = watch.reports.open_alerts()[0]
    watch.operations.acknowledge(alert.id, actor="anna")
    for _ in range(200):
        watch.look(DEAD, after=900)
    states = {line.channel: line.state for line in watch.reports.notices([alert.id])[alert.id]}
    assert states == {"mail": "SENT", "pager": "FAILED"}
    assert watch.clock.now() - NOW > GIVE_UP


def test_a_channel_that_was_taken_out_holds_nothing_up(watch):
    watch.pager.works = False
    watch.look(DEAD)
    del watch.channels["pager"]
    watch.look(DEAD, after=60)
    assert watch.reports.due_notices(now=watch.clock.now() + timedelta(days=1)) == []


def test_reminders_end_when_somebody_has_it(watch):
    watch.look(DEAD)
    watch.look(DEAD, after=4 * 3600)
    assert [notice for notice, _ in watch.pager.lines] == [Notice.RAISED, Notice.REMINDER]
    alert = watch.reports.open_alerts()[0]
    assert watch.operations.acknowledge(alert.id, actor="anna")
    assert not watch.operations.acknowledge(alert.id, actor="ito")
    assert watch.reports.alert(alert.id).acknowledged_by == "anna"
    watch.look(DEAD, after=24 * 3600)
    assert len(watch.pager.messages) == 2
    assert ("alert taken in hand by a person", "anna") in watch.events()
    watch.look(after=1)
    watch.look(after=60)
    assert watch.pager.lines[-1][0] is Notice.RECOVERED
    with pytest.raises(IllegalTransition):
        watch.operations.acknowledge(alert.id, actor="ito")
    with pytest.raises(NotFound):
        watch.operations.acknowledge(999, actor="ito")


def test_a_maintenance_keeps_it_quiet_and_tells_what_outlasts_it(watch):
    end = NOW + timedelta(hours=1)
    key = watch.operations.plan(Planned(end, "new disks", "anna", "archive"))
    watch.look(DEAD, SLOW)
    assert watch.pager.lines == [(Notice.RAISED, SLOW.headline)]
    assert len(watch.reports.open_alerts()) == 2
    (window,) = watch.reports.maintenance_windows(now=watch.clock.now())
    assert (window.id, window.subject, window.reason, window.actor) == (key, "archive", "new disks", "anna")
    watch.look(DEAD, SLOW, after=3600)
    assert watch.pager.lines[1:] == [(Notice.RAISED, DEAD.headline)]
    assert not watch.operations.end(key, actor="ito")
    assert ("maintenance planned by a person", "anna") in watch.events()


def test_a_maintenance_is_ended_early(watch):
    key = watch.operations.plan(Planned(NOW + timedelta(hours=1), "new disks", "anna"))
    watch.look(DEAD)
    assert watch.pager.messages == []
    assert watch.operations.end(key, actor="ito")
    watch.look(DEAD)
    assert len(watch.pager.messages) == 1
    assert watch.reports.maintenance_windows(now=watch.clock.now()) == []
    with pytest.raises(NotFound):
        watch.operations.end(999, actor="ito")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"subject": "x" * 201}, "subject"),
        ({"subject": "a\x00b"}, "subject"),
        ({"ends_at": NOW}, "until"),
        ({"ends_at": NOW + timedelta(days=32)}, "until"),
        ({"starts_at": NOW + timedelta(hours=2)}, "until"),
    ],
)
def test_a_maintenance_that_makes_no_sense_is_refused(watch, changes, field):
    planned = replace(Planned(NOW + timedelta(hours=1), "new disks", "anna"), **changes)
    with pytest.raises(InvalidValue) as refused:
        watch.operations.plan(planned)
    assert refused.value.field == field
    assert watch.events() == []


def test_a_test_says_which_channel_does_not_take_it(watch):
    watch.pager.works = False
    assert watch.operations.test() == {"pager": "pager:1: ConnectionRefusedError", "mail": ""}
    assert watch.operations.test("mail") == {"mail": ""}
    with pytest.raises(NotFound):
        watch.operations.test("fax")


def test_a_database_that_is_away_is_told_without_it(watch):
    guard = DatabaseWatch(watch.telling, watch.clock)
    guard.away()
    watch.clock.advance(30)
    guard.back()
    assert watch.pager.messages == []
    for _ in range(4):
        guard.away()
        watch.clock.advance(30)
    assert [notice for notice, _ in watch.pager.lines] == [Notice.RAISED]
    watch.clock.advance(4 * 3600)
    guard.away()
    guard.back()
    assert [notice for notice, _ in watch.pager.lines] == [Notice.RAISED, Notice.REMINDER, Notice.RECOVERED]


def test_old_alerts_are_forgotten_and_open_ones_are_not(watch):
    watch.look(DEAD, SLOW)
    watch.look(SLOW, after=10)
    watch.look(SLOW, after=60)
    watch.clock.advance(KEPT)
    assert watch.alerting.forget() == 0
    watch.clock.advance(1)
    assert watch.alerting.forget() == 1
    assert watch.reports.recent_alerts() == []
    assert len(watch.reports.open_alerts()) == 1


def test_only_what_could_be_sent_is_overdue(watch):
    early = NOW - timedelta(hours=2)
    with watch.units_of_work() as uow:
        add = uow.deliveries.add
        add(a_delivery(1, state=DeliveryState.COLLECTING, created_at=early), now=early)
        # Waited for images until just now.
        add(a_delivery(2, created_at=early, due_at=NOW), now=early)
        add(a_delivery(3, destination="film", created_at=early, attempt=3, due_at=NOW), now=early)
        add(a_delivery(4, destination="film", priority=1, due_at=NOW - timedelta(minutes=20)), now=early)
        uow.commit()
    archive, film = watch.reports.overdue()
    assert (archive.destination, archive.waiting, archive.oldest, archive.urgent) == ("archive", 1, NOW, 0)
    assert (film.waiting, film.oldest, film.urgent) == (2, early, 1)
    assert film.oldest_urgent == NOW - timedelta(minutes=20)
    assert archive.oldest_urgent is None


def test_the_chain_is_verified_part_by_part_and_a_change_is_found(watch):
    with watch.units_of_work() as uow:
        for number in range(25):
            uow.record(Event(EventName.BACKUP_WRITTEN, Subject.SYSTEM, number))
        uow.commit()
    seal_events(watch.engine)
    guard = SealWatch(watch.engine, part=10)
    for _ in range(6):
        guard.step()
    assert guard.problems == []
    with watch.engine.connect() as connection, connection.begin():
        connection.execute(EVENT.update().where(EVENT.c.subject_id == 14).values(actor="mallory"))
    for _ in range(3):
        guard.step()
    assert len(guard.problems) == 1
    assert "is not what was sealed" in guard.problems[0]
    for _ in range(2):
        guard.step()
    assert len(guard.problems) == 1  # on the next walk, too, and until it has come to the end
    with watch.engine.connect() as connection, connection.begin():
        connection.execute(EVENT.update().where(EVENT.c.subject_id == 14).values(actor="broker"))
        connection.execute(EVENT.delete().where(EVENT.c.subject_id > 22))
    for _ in range(6):
        guard.step()
    assert guard.problems == ["the chain ends with seal 23, it was sealed up to 25"]
