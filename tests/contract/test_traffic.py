"""Who talks to us: counted from the rows once, learnt from, and forgotten, on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from broker.db import traffic
from broker.db.reports import SqlReports
from broker.db.schema import TRAFFIC_HOUR, TRAFFIC_MARK, TRAFFIC_SOURCE
from broker.db.traffic import count_traffic, learn_rhythms, measure_images
from broker.domain.events import Event, EventName, Subject
from broker.domain.rhythm import HISTORY, Silence
from broker.workflow.silence import judge_sources
from tests.builders import NOW, a_message, an_instance

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def send(store):
    """`send(*instants, name=…)`: an HL7 message arrived at each of them."""
    numbers = iter(range(1, 1_000_000))

    def run(*instants, name="RIS", port=50000):
        def add(uow):
            for at in instants:
                number = next(numbers)
                peer = f"10.0.0.7:{port + number % 1000}"
                uow.messages.add(a_message(number, received_at=at, sending_application=name, peer=peer))

        store(add)

    return run


def counted(engine):
    with engine.connect() as connection:
        columns = (
            TRAFFIC_SOURCE.c.name,
            TRAFFIC_HOUR.c.hour,
            TRAFFIC_HOUR.c["items"],
            TRAFFIC_HOUR.c.minutes,
        )
        rows = connection.execute(
            select(*columns)
            .join(TRAFFIC_SOURCE, TRAFFIC_SOURCE.c.id == TRAFFIC_HOUR.c.source)
            .order_by(TRAFFIC_SOURCE.c.name, TRAFFIC_HOUR.c.hour)
        )
        return [tuple(row) for row in rows]


def judged(engine, now):
    return judge_sources(SqlReports(engine).sources(), now=now, zone=NOW.tzinfo)


def test_messages_are_counted_by_hour_and_by_minutes_in_which_one_came(engine, send):
    send(NOW, NOW + timedelta(seconds=10), NOW + 30 * MINUTE, NOW + 61 * MINUTE)
    assert count_traffic(engine, now=NOW + 3 * HOUR) > 0
    assert counted(engine) == [("RIS", NOW, 3, 2), ("RIS", NOW + HOUR, 1, 1)]


def test_nothing_is_counted_twice_and_nothing_is_lost_between_two_counts(engine, send):
    for minute in range(0, 90, 3):
        send(NOW + minute * MINUTE, NOW + minute * MINUTE + timedelta(seconds=59))
        count_traffic(engine, now=NOW + minute * MINUTE + timedelta(seconds=30))
    assert count_traffic(engine, now=NOW + 5 * HOUR) > 0
    assert count_traffic(engine, now=NOW + 5 * HOUR) == 0
    assert counted(engine) == [("RIS", NOW, 40, 20), ("RIS", NOW + HOUR, 20, 10)]


def test_who_finds_the_mark_moved_leaves_what_another_has_counted(engine, send, monkeypatch):
    send(NOW)
    heard = traffic._heard

    def slower(connection, kind, start, end):
        monkeypatch.setattr(traffic, "_heard", heard)
        found = heard(connection, kind, start, end)
        connection.rollback()
        count_traffic(engine, now=NOW + 2 * HOUR)
        return found

    monkeypatch.setattr(traffic, "_heard", slower)
    count_traffic(engine, now=NOW + 2 * HOUR)
    assert counted(engine) == [("RIS", NOW, 1, 1)]


def test_a_minute_of_images_list_and_exam_is_one_minute_of_a_device(engine, store):
    def heard(uow):
        uow.instances.add_many([an_instance(n, received_at=NOW) for n in range(1, 4)])
        for name in (EventName.WORKLIST_QUERIED, EventName.MPPS_CREATED, EventName.DELIVERY_CLAIMED):
            uow.record(Event(name, Subject.DEVICE, actor="CT1"))  # at the time of the fake clock: NOW

    store(heard)
    count_traffic(engine, now=NOW + 2 * HOUR)
    assert counted(engine) == [("CT1", NOW, 5, 1)]


def test_what_images_add_a_day_and_what_they_take_is_known(engine, store):
    week = [an_instance(n, received_at=NOW - n * DAY, size_bytes=7_000) for n in range(1, 15)]
    store(lambda uow: uow.instances.add_many(week))
    count_traffic(engine, now=NOW)
    assert measure_images(engine, now=NOW) == 98_000
    assert measure_images(engine, now=NOW) == 98_000
    growth = SqlReports(engine).storage(now=NOW)
    assert (growth.image_bytes, growth.bytes_per_day) == (98_000, 7_000)


def test_the_last_word_is_known_before_it_is_counted(engine, send):
    send(NOW)
    (line,) = SqlReports(engine).sources()
    assert (line.kind, line.name, line.peer, line.last_at) == ("sender", "RIS", "10.0.0.7", NOW)
    count_traffic(engine, now=NOW + 10 * MINUTE)
    send(NOW + 11 * MINUTE)
    (line,) = SqlReports(engine).sources()
    assert line.last_at == NOW + 11 * MINUTE


def test_a_sender_that_usually_talks_is_silent_by_its_own_rhythm(engine, send):
    send(*(NOW - timedelta(days=day) + 10 * n * MINUTE for day in range(28) for n in range(12)))
    count_traffic(engine, now=NOW + 2 * HOUR)
    assert learn_rhythms(engine, now=NOW + 2 * HOUR, zone=NOW.tzinfo) == 1
    assert learn_rhythms(engine, now=NOW + 2 * HOUR, zone=NOW.tzinfo) == 0, "nothing new to learn from"
    send(NOW + 7 * DAY)
    (state,) = judged(engine, NOW + 7 * DAY + 20 * MINUTE)
    assert (state.silence, state.usual_gap) == (Silence.NORMAL, 10 * MINUTE)
    (state,) = judged(engine, NOW + 7 * DAY + 100 * MINUTE)
    assert state.silence is Silence.SILENT
    assert state.reason == "silent for 1 h 40 min, usually every 10 min at this hour on a Saturday"


def test_a_stranger_is_unknown_and_never_silent(engine, send):
    send(NOW)
    count_traffic(engine, now=NOW + 2 * DAY)
    learn_rhythms(engine, now=NOW + 2 * DAY, zone=NOW.tzinfo)
    (state,) = judged(engine, NOW + 2 * DAY)
    assert state.silence is Silence.UNKNOWN


def test_what_is_kept_is_bounded_and_forgotten(engine, send, monkeypatch):
    monkeypatch.setattr(traffic, "MAX_SOURCES", 3)
    for number in range(5):
        send(NOW + number * MINUTE, name=f"RIS{number}")
    count_traffic(engine, now=NOW + HOUR)
    assert len({row[0] for row in counted(engine)}) == 3
    later = NOW + HISTORY + 3 * DAY
    learn_rhythms(engine, now=later, zone=NOW.tzinfo)
    with engine.connect() as connection:
        for table in (TRAFFIC_SOURCE, TRAFFIC_HOUR):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0
        assert connection.execute(select(func.count()).select_from(TRAFFIC_MARK)).scalar_one() == 2
