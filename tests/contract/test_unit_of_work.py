"""One transaction: everything or nothing, wake-ups after the commit, on both databases."""

import threading
import traceback
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from broker.db.engine import open_engine, reading
from broker.db.schema import EVENT, PATIENT
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.events import Event, EventName, Subject
from broker.domain.orders import Code
from broker.errors import DatabaseUnavailable, DuplicateKey, InvalidValue
from broker.workflow.wake_ups import Task, WakeUp
from tests.builders import NOW, a_patient, an_identifier, an_instance

ROUTED = Event(EventName.ROUTED, Subject.INSTANCE, 1, details={"routes": ["a"], "ok": True})


def rows(engine, table):
    with reading(engine) as connection:
        return list(connection.execute(select(table).order_by(table.c.id)).mappings())


def test_what_is_committed_is_there_for_the_next(uow_factory):
    with uow_factory() as uow:
        stored = uow.patients.add(a_patient(), now=NOW)
        uow.commit()
    with uow_factory() as uow:
        assert uow.patients.get(stored.id) == stored == replace(a_patient(), id=stored.id)


def test_leaving_without_commit_undoes_everything(uow_factory, engine, queue):
    with uow_factory() as uow:
        uow.patients.add(a_patient(), now=NOW)
        uow.record(ROUTED)
        uow.wake(WakeUp(Task.ROUTE, 1))
    assert rows(engine, PATIENT) == rows(engine, EVENT) == queue.wake_ups == []


def test_an_error_undoes_everything_and_is_seen_by_the_caller(uow_factory, engine):
    with pytest.raises(ZeroDivisionError), uow_factory() as uow:  # noqa: PT012
        uow.patients.add(a_patient(), now=NOW)
        raise ZeroDivisionError
    assert rows(engine, PATIENT) == []


def test_wake_ups_go_out_once_each_and_only_after_the_commit(engine, clock):
    seen = []

    class Queue:
        def wake(self, wake_ups):
            seen.append((list(wake_ups), len(rows(engine, PATIENT))))

    with SqlUnitsOfWork(engine, Queue(), clock)() as uow:
        uow.patients.add(a_patient(), now=NOW)
        uow.wake(WakeUp(Task.ROUTE, 7))
        uow.wake(WakeUp(Task.DELIVER, 8, "dicom"))
        uow.wake(WakeUp(Task.ROUTE, 7))
        assert seen == []
        uow.commit()
    assert seen == [([WakeUp(Task.ROUTE, 7), WakeUp(Task.DELIVER, 8, "dicom")], 1)]


def test_events_are_written_with_the_change_in_their_order(uow_factory, engine, clock):
    with uow_factory() as uow:
        uow.record(ROUTED)
        clock.advance(2)
        uow.record(replace(ROUTED, name=EventName.UNROUTED, actor="somebody"))
        uow.commit()
    first, second = rows(engine, EVENT)
    assert (first["name"], first["at"], first["details"]) == ("routed", NOW, {"routes": ["a"], "ok": True})
    assert (second["name"], second["at"]) == ("unrouted", NOW + timedelta(seconds=2))


def test_a_block_may_commit_more_than_once(uow_factory, engine, queue):
    with uow_factory() as uow:
        uow.patients.add(a_patient(1), now=NOW)
        uow.wake(WakeUp(Task.ROUTE, 1))
        uow.commit()
        uow.patients.add(a_patient(2), now=NOW)
        uow.wake(WakeUp(Task.ROUTE, 2))
        uow.commit()
        uow.patients.add(a_patient(3), now=NOW)
    assert [row["patient_id"] for row in rows(engine, PATIENT)] == ["PID1", "PID2"]
    assert queue.ids(Task.ROUTE) == [1, 2]


def test_a_savepoint_is_undone_alone_with_its_events_and_wake_ups(uow_factory, engine, queue):
    with uow_factory() as uow:
        uow.patients.add(a_patient(1), now=NOW)
        uow.record(ROUTED)
        with pytest.raises(DuplicateKey), uow.savepoint():  # noqa: PT012
            uow.patients.add(a_patient(2), now=NOW)
            uow.record(ROUTED)
            uow.wake(WakeUp(Task.ROUTE, 2))
            uow.instances.add_many([an_instance(1), an_instance(1)])
        with uow.savepoint():
            uow.patients.add(a_patient(3), now=NOW)
            uow.wake(WakeUp(Task.ROUTE, 3))
        uow.commit()
    assert [row["patient_id"] for row in rows(engine, PATIENT)] == ["PID1", "PID3"]
    assert len(rows(engine, EVENT)) == 1
    assert queue.ids(Task.ROUTE) == [3]


def test_transactions_that_name_the_same_key_follow_each_other(uow_factory):
    holding, order = threading.Event(), []

    def second():
        holding.wait(10)
        with uow_factory() as uow:
            uow.lock("order:2", "order:1")
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with uow_factory() as uow:
        uow.lock("order:1", "order:2")
        holding.set()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_unit_of_work_that_does_nothing_touches_no_connection(uow_factory, engine):
    with uow_factory() as uow:
        uow.commit()
    assert engine.pool.checkedin() == engine.pool.checkedout() == 0


def test_every_connection_goes_back_after_trouble(uow_factory, engine):
    for _ in range(30):
        with pytest.raises(InvalidValue), uow_factory() as uow:
            uow.instances.add_many([an_instance(1, size_bytes=2**70)])
    assert engine.pool.checkedout() == 0


@pytest.mark.postgres
def test_text_with_nul_is_refused_without_being_repeated(postgres_url, queue, clock):
    engine = open_engine(postgres_url)
    with pytest.raises(InvalidValue) as refused, SqlUnitsOfWork(engine, queue, clock)() as uow:
        uow.patients.add(a_patient(name="\x00".join(["SEC" + "RET", "X"])), now=NOW)
    assert_hides(refused.value, "SECRET", "PID1")
    engine.dispose()


def test_an_error_of_the_database_repeats_no_value_of_a_patient(uow_factory):
    twice = [an_instance(1, patient_id="SEC" + "RET")] * 2
    with pytest.raises(DuplicateKey) as refused, uow_factory() as uow:
        uow.instances.add_many(twice)
    assert_hides(refused.value, "SECRET", "1.2.826.0.2.1")


def assert_hides(error, *secrets):
    text = "".join(traceback.format_exception(error))
    for secret in secrets:
        assert secret not in text, text


def test_a_database_that_is_gone_is_unavailable_and_not_a_crash(postgres_free_url, queue, clock):
    engine = open_engine(postgres_free_url, connect_timeout_s=1)
    with pytest.raises(DatabaseUnavailable), SqlUnitsOfWork(engine, queue, clock)() as uow:
        uow.patients.find(an_identifier("PID1"))


@pytest.fixture
def postgres_free_url(tmp_path):
    return f"postgresql://broker:secret@/nobody?host={tmp_path}"


def test_a_pool_with_no_connection_left_is_unavailable(database_url, queue, clock):
    engine = open_engine(database_url, pool_size=1, max_overflow=0, pool_timeout_s=0.05)
    with reading(engine), pytest.raises(DatabaseUnavailable), SqlUnitsOfWork(engine, queue, clock)() as uow:
        uow.patients.find(an_identifier("PID1"))
    engine.dispose()


def test_attributes_come_back_as_they_went(uow_factory):
    attributes = {
        "Allergies": ("NUTS", "JOD ä"),
        "EthnicGroup": "Ελλάδα",
        "ProcedureCodeSequence": (Code("1", "99L", "ä"), Code("2", "99L", "b", "3")),
        "Empty": (),
    }
    with uow_factory() as uow:
        stored = uow.patients.add(a_patient(attributes=attributes, other_ids=(an_identifier("9"),)), now=NOW)
        found = uow.patients.get(stored.id)
    assert found.attributes == attributes
    assert found.other_ids == (an_identifier("9"),)
