"""A prepared statement answers what Core answers, and fails as Core fails."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import bindparam, event, select, text, update

from broker.db.engine import open_engine
from broker.db.prepared import Prepared
from broker.db.repositories.events import SqlEvents
from broker.db.schema import EVENT, PATIENT
from broker.db.transaction import Transaction
from broker.domain.events import Event, EventName, Subject
from broker.errors import DatabaseUnavailable, DuplicateKey, InvalidValue
from tests.builders import NOW

ROW = {
    "patient_id": "P1",
    "issuer": "",
    "name": "GRÜN^ÉVA 100% ?",
    "name_key": "GRUN",
    "birth_date": None,
    "sex": None,
    "other_ids": [{"value": "X"}],
    "attributes": {"PatientComments": "50 % 'so' :key"},
    "sources": {},
    "merged_into": None,
    "created_at": NOW,
    "updated_at": NOW,
}
BY_ID = Prepared(select(PATIENT).where(PATIENT.c.id == bindparam("key")).limit(1))
RENAME = Prepared(update(PATIENT).where(PATIENT.c.id == bindparam("key")).values(name=bindparam("its_name")))


@pytest.fixture
def transaction(engine):
    transaction = Transaction(engine)
    yield transaction
    transaction.close()


def test_it_answers_the_same_values_as_core(transaction):
    key = transaction.insert(PATIENT, ROW)
    prepared = transaction.row(BY_ID, {"key": key})
    core = transaction.execute(select(PATIENT).where(PATIENT.c.id == key)).mappings().one()
    assert prepared == dict(core) == {**ROW, "id": key}


def test_two_instants_of_one_clock_set_back_stay_two(transaction):
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Vienna"))
    for number, instant in enumerate((first, first.replace(fold=1), first.astimezone(UTC))):
        row = {**ROW, "patient_id": f"P{number}", "updated_at": instant}
        found = transaction.row(BY_ID, {"key": transaction.insert(PATIENT, row)})
        assert found["updated_at"] == instant.astimezone(UTC)


def test_it_answers_the_same_to_somebody_who_listens(transaction, engine):
    key = transaction.insert(PATIENT, ROW)
    plain = transaction.row(BY_ID, {"key": key})
    heard = []

    def hear(_connection, _cursor, statement, *_):
        heard.append(statement)

    event.listen(engine, "before_cursor_execute", hear)
    try:
        assert transaction.row(BY_ID, {"key": key}) == plain
        transaction.insert_many(PATIENT, [{**ROW, "patient_id": "P2"}, {**ROW, "patient_id": "P3"}])
        assert transaction.change(RENAME, {"key": key, "its_name": "B"}) == 1
    finally:
        event.remove(engine, "before_cursor_execute", hear)
    assert [statement.split()[0] for statement in heard] == ["SELECT", "INSERT", "UPDATE"]
    assert transaction.execute(text("SELECT count(*) FROM patient")).scalar_one() == 3


def test_it_counts_what_it_changed(transaction):
    key = transaction.insert(PATIENT, ROW)
    assert transaction.change(RENAME, {"key": key, "its_name": "B"}) == 1
    assert transaction.change(RENAME, {"key": key + 1, "its_name": "C"}) == 0


def test_a_key_that_exists_is_told_and_repeats_no_value(transaction):
    transaction.insert(PATIENT, ROW)
    with pytest.raises(DuplicateKey) as refused:
        transaction.insert(PATIENT, ROW)
    told = f"{refused.value} {refused.value.__cause__!r}"
    assert "P1" not in told
    assert "ÉVA" not in told


def test_many_rows_leave_out_what_is_there(transaction):
    transaction.insert(PATIENT, ROW)
    rows = [{**ROW, "patient_id": f"P{number}"} for number in (1, 2, 3)]
    transaction.insert_many(PATIENT, rows, ignoring=True)
    transaction.insert_many(PATIENT, rows[:1], ignoring=True)
    transaction.insert_many(PATIENT, [])
    assert transaction.execute(text("SELECT count(*) FROM patient")).scalar_one() == 3


def test_half_a_character_is_refused(transaction):
    with pytest.raises(InvalidValue):
        transaction.insert(PATIENT, {**ROW, "name": "A\ud800"})


def test_a_statement_whose_text_depends_on_its_values_is_not_prepared(transaction):
    expanding = select(PATIENT).where(PATIENT.c.id.in_(bindparam("keys", expanding=True)))
    with pytest.raises(TypeError):
        transaction.rows(Prepared(expanding), {"keys": [1]})


@pytest.mark.postgres  # a file cannot be cut off
def test_a_connection_that_was_cut_is_unavailable_and_not_used_again(postgres_url):
    engine = open_engine(postgres_url)
    transaction = Transaction(engine)
    own = transaction.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with engine.begin() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": own})
    with pytest.raises(DatabaseUnavailable):
        transaction.rows(BY_ID, {"key": 1})
    with pytest.raises(DatabaseUnavailable):
        transaction.rows(BY_ID, {"key": 1})
    transaction.rollback()
    assert transaction.rows(BY_ID, {"key": 1}) == []
    transaction.close()
    engine.dispose()


def test_one_event_and_many_are_written_alike(transaction):
    happened = [
        (NOW, Event(EventName.PATIENT_CREATED, Subject.PATIENT, number, actor="RIS", details={"n": number}))
        for number in (1, 2, 3)
    ]
    events = SqlEvents(transaction)
    events.add_many(happened[:1])
    events.add_many(happened[1:])
    rows = transaction.execute(select(EVENT.c.subject_id, EVENT.c.details, EVENT.c.at).order_by(EVENT.c.id))
    assert [tuple(row) for row in rows] == [(n, {"n": n}, NOW) for n in (1, 2, 3)]
