"""The chain of events: whatever is changed afterwards is found."""

import threading

import pytest
from sqlalchemy import text

from broker.db.seal import seal_events, verify_events
from broker.domain.events import Event, EventName, Subject

STATEMENTS = {
    "details changed": "UPDATE event SET details = '{\"x\": 2}' WHERE seal_no = 3",
    "actor changed": "UPDATE event SET actor = 'nobody' WHERE seal_no = 3",
    "taken out": "DELETE FROM event WHERE seal_no = 3",
    "first taken out": "DELETE FROM event WHERE seal_no = 1",
    "cut off": "DELETE FROM event WHERE seal_no > 7",
    "all gone": "DELETE FROM event",
    "moved": "UPDATE event SET at = (SELECT at FROM event WHERE seal_no = 9) WHERE seal_no = 3",
    "unsealed": "UPDATE event SET seal_no = NULL, seal = NULL WHERE seal_no = 10",
}


def record(uow_factory, clock, count):
    with uow_factory() as uow:
        for number in range(count):
            clock.advance(0.000001)
            details = {"x": 1, "é": [str(number)], "f": 1.5, "n": None}
            uow.record(Event(EventName.ROUTED, Subject.INSTANCE, number, "1.2", details=details))
        uow.commit()


def test_events_are_sealed_once_and_in_order(engine, uow_factory, clock):
    assert seal_events(engine) == 0
    assert verify_events(engine).problems == ()
    record(uow_factory, clock, 7)
    assert verify_events(engine).unsealed == 7
    assert seal_events(engine, batch=3) == 7
    record(uow_factory, clock, 2)
    assert seal_events(engine) == 2
    assert seal_events(engine) == 0
    heard = []
    found = verify_events(engine, batch=4, told=lambda done, of: heard.append((done, of)))
    assert (found.sealed, found.unsealed, found.problems) == (9, 0, ())
    assert heard == [(4, 9), (8, 9)]


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_what_is_changed_after_sealing_is_found(engine, uow_factory, clock, statement):
    record(uow_factory, clock, 10)
    seal_events(engine)
    with engine.begin() as connection:
        connection.execute(text(statement.replace(":", "\\:")))
    assert len(verify_events(engine).problems) == 1


def test_two_sealers_make_one_chain(engine, uow_factory, clock):
    record(uow_factory, clock, 200)
    threads = [threading.Thread(target=seal_events, args=(engine,), kwargs={"batch": 7}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = verify_events(engine)
    assert (found.sealed, found.unsealed, found.problems) == (200, 0, ())
