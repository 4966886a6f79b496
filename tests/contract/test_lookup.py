"""A lookup answers what was committed before it began, and leaves a connection as it found it."""

import sqlite3

import psycopg
import pytest
from sqlalchemy import Boolean, bindparam, event, func, literal_column, select, text

from broker.db.engine import open_engine
from broker.db.lookup import Lookup
from broker.db.prepared import Prepared
from broker.db.schema import PATIENT
from broker.db.transaction import Transaction
from broker.errors import DatabaseUnavailable
from tests.builders import NOW

ROW = {
    "patient_id": "P1",
    "issuer": "",
    "name": "GRÜN^ÉVA 100% ?",
    "name_key": "GRUN",
    "birth_date": None,
    "sex": None,
    "other_ids": [],
    "attributes": {"PatientComments": "50 % 'so' :key"},
    "sources": {},
    "merged_into": None,
    "created_at": NOW,
    "updated_at": NOW,
}

BY_NUMBER = Prepared(
    select(PATIENT.c.id, PATIENT.c.attributes, PATIENT.c.name).where(
        PATIENT.c.patient_id == bindparam("number")
    )
)
BROKEN = Prepared(select(literal_column("no_such_column", Boolean)).select_from(PATIENT))


def add(engine, number):
    transaction = Transaction(engine)
    key = transaction.insert(PATIENT, {**ROW, "patient_id": number})
    transaction.commit()
    return key


def test_it_sees_what_was_committed_and_nothing_else(engine):
    lookup = Lookup(engine)
    assert lookup.rows(BY_NUMBER, {"number": "P1"}) == []
    key = add(engine, "P1")
    found = (key, ROW["attributes"], ROW["name"])
    assert lookup.rows(BY_NUMBER, {"number": "P1"}) == [found]
    open_one = Transaction(engine)
    open_one.insert(PATIENT, {**ROW, "patient_id": "P2"})
    assert lookup.rows(BY_NUMBER, {"number": "P2"}) == []
    open_one.rollback()


def test_it_answers_the_same_to_somebody_who_listens(engine):
    add(engine, "P1")
    plain = Lookup(engine).rows(BY_NUMBER, {"number": "P1"})
    heard = []

    def hear(_connection, _cursor, statement, *_):
        heard.append(statement)

    event.listen(engine, "before_cursor_execute", hear)
    try:
        assert Lookup(engine).rows(BY_NUMBER, {"number": "P1"}) == plain
    finally:
        event.remove(engine, "before_cursor_execute", hear)
    assert [statement.split()[0] for statement in heard if statement != "BEGIN"] == ["SELECT"]


def test_its_connection_still_rolls_back_afterwards(engine):
    Lookup(engine).rows(BY_NUMBER, {"number": "P1"})
    for _ in range(2):  # the pool gives the same connection again
        transaction = Transaction(engine)
        transaction.insert(PATIENT, {**ROW, "patient_id": "P1"})
        transaction.rollback()
    assert Lookup(engine).rows(BY_NUMBER, {"number": "P1"}) == []


def test_a_statement_that_fails_harms_nothing(engine):
    with pytest.raises((sqlite3.OperationalError, psycopg.errors.UndefinedColumn)):
        Lookup(engine).rows(BROKEN, {})
    key = add(engine, "P1")
    assert Lookup(engine).rows(BY_NUMBER, {"number": "P1"})[0][0] == key


@pytest.mark.postgres  # a file cannot be cut off
def test_a_connection_that_died_in_the_pool_is_replaced(postgres_url):
    engine, other = open_engine(postgres_url), open_engine(postgres_url)
    lookup = Lookup(engine)
    own = lookup.rows(Prepared(select(func.pg_backend_pid().label("pid"))), {})[0][0]
    with other.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": own})
    key = add(other, "P1")
    assert lookup.rows(BY_NUMBER, {"number": "P1"})[0][0] == key
    engine.dispose()
    other.dispose()


def test_a_database_that_is_away_is_unavailable(tmp_path):
    away = open_engine(f"postgresql://nobody@127.0.0.1:1/none?application_name={tmp_path.name}")
    with pytest.raises(DatabaseUnavailable):
        Lookup(away).rows(BY_NUMBER, {"number": "P1"})
