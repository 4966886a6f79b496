"""Opening a database: durable, private, of one schema, and for one process at a time."""

import os
import subprocess
import sys
import threading
from uuid import UUID

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from broker.db.engine import DataDirectoryLock, assert_durable, database_url, open_engine, parse_url, reading
from broker.db.installation import uid_namespace
from broker.db.migrate import _config, _schema_transaction, differences, migrate
from broker.db.revisions import is_current, known_revisions
from broker.db.transaction import Transaction, Turn
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.errors import ConfigurationError, Conflict, DatabaseUnavailable, InvalidValue
from tests.builders import NOW, a_performed_step, an_identifier
from tests.postgres import postgres_server, restart


def test_without_an_address_the_database_is_a_file_in_the_data_directory(tmp_path):
    assert database_url(tmp_path) == f"sqlite:///{tmp_path}/broker.sqlite3"
    assert database_url(tmp_path, "postgresql://db/broker") == "postgresql://db/broker"


@pytest.mark.parametrize(
    "url", ["postgresql://u:p@h/d", "postgres://u:p@h/d", "postgresql+psycopg2://u:p@h/d"]
)
def test_postgresql_is_spoken_by_psycopg_3(url):
    assert parse_url(url).drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["", "secret", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:"])
def test_other_addresses_are_refused_without_being_repeated(url):
    with pytest.raises(ConfigurationError) as refused:
        open_engine(url)
    assert "secret" not in str(refused.value)


def test_both_databases_are_durable_as_opened(engine):
    assert assert_durable(engine) == []


def test_the_connection_that_was_used_last_is_used_next(engine):
    """Its cache is the one that holds what has just been written."""
    first, second = engine.connect(), engine.connect()
    drivers = [connection.connection.driver_connection for connection in (first, second)]
    second.close()
    first.close()
    for _ in range(3):
        with engine.connect() as connection:
            assert connection.connection.driver_connection is drivers[0]


@pytest.mark.parametrize(
    ("pragma", "named"),
    [
        ("synchronous=NORMAL", "synchronous"),
        ("synchronous=OFF", "synchronous"),
        ("foreign_keys=OFF", "foreign"),
    ],
)
def test_a_sqlite_that_would_lose_data_is_refused_by_name(sqlite_engine, pragma, named):
    connection = sqlite_engine.raw_connection()
    connection.driver_connection.execute(f"PRAGMA {pragma}")
    connection.close()
    with pytest.raises(ConfigurationError, match=named):
        assert_durable(sqlite_engine)
    assert len(assert_durable(sqlite_engine, accept_data_loss=True)) == 1


def test_a_sqlite_without_wal_is_refused(sqlite_engine):
    connection = sqlite_engine.raw_connection()
    connection.driver_connection.execute("PRAGMA journal_mode=MEMORY")
    connection.close()
    with pytest.raises(ConfigurationError, match="journal_mode is memory"):
        assert_durable(sqlite_engine)


@pytest.mark.postgres
def test_a_postgresql_that_would_lose_data_is_refused_by_name():
    with postgres_server("fsync=off", "full_page_writes=off", "synchronous_commit=off") as url:
        engine = open_engine(url)
        with pytest.raises(ConfigurationError) as refused:
            assert_durable(engine)
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert f"{setting} is off" in str(refused.value)
        assert len(assert_durable(engine, accept_data_loss=True)) == 3
        engine.dispose()


def test_the_sqlite_file_is_for_us_alone(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'b.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
        modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "new").iterdir()}
    engine.dispose()
    assert modes == {"b.sqlite3": 0o600, "b.sqlite3-wal": 0o600, "b.sqlite3-shm": 0o600}


# ---- transactions --------------------------------------------------------------------------------------


def test_a_reader_sees_one_state_and_cannot_write_on_postgresql(engine):
    with reading(engine) as connection:
        before = connection.execute(text("SELECT count(*) FROM patient")).scalar_one()
        with engine.begin() as writer:
            writer.execute(text("INSERT INTO seal_head VALUES (1, 0, :seal)"), {"seal": b""})
        assert connection.execute(text("SELECT count(*) FROM seal_head")).scalar_one() == before == 0
        if engine.dialect.name == "postgresql":
            with pytest.raises(DatabaseUnavailable):
                connection.execute(text("DELETE FROM seal_head"))


def test_readers_do_not_wait_for_a_writer(engine):
    with engine.begin() as writer:
        writer.execute(text("INSERT INTO seal_head VALUES (1, 0, :seal)"), {"seal": b""})
        with reading(engine) as connection:
            assert connection.execute(text("SELECT count(*) FROM seal_head")).scalar_one() == 0


def test_many_threads_write_without_being_told_that_the_database_is_locked(sqlite_engine):
    turn, errors = Turn(), []

    def write(number, turn):
        try:
            for place in range(20):
                transaction = Transaction(sqlite_engine, turn=turn)
                transaction.execute(text("SELECT count(*) FROM event"))
                transaction.execute(
                    text(
                        "INSERT INTO received_study (study_instance_uid, received_at) VALUES (:uid, '2026')"
                    ),
                    {"uid": f"1.{number}.{place}"},
                )
                transaction.commit()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n, turn if n < 6 else None)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    with reading(sqlite_engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM received_study")).scalar_one() == 160


def test_a_writer_that_never_ends_is_reported_and_its_turn_is_not_lost(sqlite_engine):
    turn, answers = Turn(timeout_s=0.05), []
    first = Transaction(sqlite_engine, turn=turn)
    first.begin()

    def second():
        transaction = Transaction(sqlite_engine, turn=turn)
        try:
            transaction.begin()
        except DatabaseUnavailable as error:
            answers.append(error)
        else:
            answers.append("began")
        transaction.close()

    for _ in range(2):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(10)
        first.close()
    assert isinstance(answers[0], DatabaseUnavailable)
    assert answers[1] == "began"


def test_a_commit_that_fails_leaves_neither_its_lock_nor_its_rows_behind(sqlite_engine):
    turn = Turn(timeout_s=1)
    refused = Transaction(sqlite_engine, turn=turn)
    refused.execute(text("PRAGMA defer_foreign_keys=ON"))  # SQLite then refuses COMMIT, and stays in BEGIN
    refused.execute(text("INSERT INTO seal_head VALUES (1, 0, :seal)"), {"seal": b""})
    refused.execute(
        text("INSERT INTO delivery_item (delivery, instance, state, sends) VALUES (7, 7, 'PENDING', 0)")
    )
    with pytest.raises(Conflict):
        refused.commit()
    refused.close()
    following = Transaction(sqlite_engine, turn=turn)
    assert following.execute(text("SELECT count(*) FROM seal_head")).scalar_one() == 0
    following.commit()
    assert following.execute(text("SELECT count(*) FROM seal_head")).scalar_one() == 0
    following.close()


def test_a_writer_of_another_process_is_waited_for_and_not_for_ever(sqlite_url):
    engine, other = open_engine(sqlite_url, busy_timeout_s=0.05), open_engine(sqlite_url)
    with other.begin(), pytest.raises(DatabaseUnavailable):
        Transaction(engine).begin()
    transaction = Transaction(engine)
    transaction.begin()
    assert transaction.connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 50
    transaction.close()
    assert engine.pool.checkedout() == 0
    engine.dispose()
    other.dispose()


def test_a_file_that_is_no_database_is_unavailable_and_said_to_be_corrupt(tmp_path):
    path = tmp_path / "b.sqlite3"
    path.write_bytes(b"not a database" * 100)
    engine = open_engine(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailable, match="corrupt"):
        Transaction(engine).begin()
    with pytest.raises(DatabaseUnavailable, match="corrupt"), reading(engine):
        pass
    assert engine.pool.checkedout() == 0
    engine.dispose()


def test_a_thread_that_would_wait_for_itself_is_told_at_once(sqlite_engine):
    turn = Turn()
    first, second = Transaction(sqlite_engine, turn=turn), Transaction(sqlite_engine, turn=turn)
    first.begin()
    with pytest.raises(RuntimeError, match="already"):
        second.begin()
    first.close()
    second.begin()
    second.close()


def test_an_order_of_magnitude_too_large_is_refused(engine):
    transaction = Transaction(engine)
    with pytest.raises(InvalidValue):
        transaction.execute(
            text("SELECT :x + 1"), {"x": 2**200} if engine.dialect.name == "sqlite" else {"x": "a\x00"}
        )
    transaction.close()


FORKING = """
import os, sys
from sqlalchemy import text
from broker.db.engine import open_engine, reading

engine = open_engine(sys.argv[1])
with reading(engine) as connection:
    connection.execute(text("SELECT 1"))
    child = os.fork()
    if child == 0:
        try:
            with reading(engine) as own:
                ok = own.execute(text("SELECT 41 + 1")).scalar_one() == 42 and engine.pool.checkedout() == 1
            os._exit(0 if ok else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert connection.execute(text("SELECT 1")).scalar_one() == 1
"""


def test_a_forked_child_opens_connections_of_its_own(database_url):
    # In a process without threads: a lock that one holds at the fork would stay locked in the child.
    command = [sys.executable, "-c", FORKING, database_url]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr


@pytest.mark.postgres
def test_a_connection_lost_in_a_transaction_is_unavailable_to_its_end(queue, clock):
    with postgres_server() as url:
        engine = open_engine(url)
        migrate(engine)
        units_of_work = SqlUnitsOfWork(engine, queue, clock)
        with units_of_work() as uow:
            uow.patients.find(an_identifier("1"))
            restart(url)
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable), uow.savepoint():
                    uow.patients.find(an_identifier("1"))
                with pytest.raises(DatabaseUnavailable):
                    uow.patients.find(an_identifier("1"))
            with pytest.raises(DatabaseUnavailable):
                uow.commit()
        with units_of_work() as uow:
            assert uow.patients.find(an_identifier("1")) is None
        assert engine.pool.checkedout() == 0
        engine.dispose()


@pytest.mark.postgres
def test_a_restarted_postgresql_is_found_again():
    with postgres_server() as url:
        engine = open_engine(url)
        with reading(engine) as connection:
            connection.execute(text("SELECT 1"))
        restart(url)
        with reading(engine) as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        with reading(engine) as connection:
            restart(url)
            with pytest.raises(DatabaseUnavailable):
                connection.execute(text("SELECT 1"))
        with reading(engine) as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        engine.dispose()


# ---- schema --------------------------------------------------------------------------------------------


def test_the_migrated_schema_is_that_of_the_tables(engine):
    assert differences(engine) == []
    assert is_current(engine)


def test_the_revisions_named_by_their_files_are_those_alembic_reads_in_them(engine):
    with engine.connect() as connection:
        scripts = ScriptDirectory.from_config(_config(connection)).walk_revisions()
    assert known_revisions() == tuple(reversed([script.revision for script in scripts]))


def test_migrating_again_changes_nothing(engine):
    assert migrate(engine) == migrate(engine)


def test_processes_that_migrate_at_once_do_it_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'broker.sqlite3'}"
    script = "import sys; from broker.db.migrate import *; print(migrate(open_engine(sys.argv[1])))"
    running = [
        subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1


def test_a_newer_schema_is_refused(engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'f999'"))
    for check in (migrate, is_current):
        with pytest.raises(ConfigurationError, match="newer than the program"):
            check(engine)


def test_an_empty_database_is_not_current(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'b.sqlite3'}")
    assert not is_current(engine)
    engine.dispose()


def test_a_failed_migration_leaves_nothing_behind(tmp_path, monkeypatch):
    engine = open_engine(f"sqlite:///{tmp_path / 'b.sqlite3'}")
    monkeypatch.setattr("broker.db.migrate.newest_revision", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        migrate(engine)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one() == 0
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
    engine.dispose()


def test_exams_from_before_are_found_by_their_study(engine, uow_factory):
    with uow_factory() as uow:
        step = uow.performed.add(a_performed_step(study_instance_uids=("1.7", "1.8")), now=NOW)
        uow.commit()
    with _schema_transaction(engine) as connection:
        command.downgrade(_config(connection), "0010")
    migrate(engine)
    with uow_factory() as uow:
        assert [one.id for one in uow.performed.of_study("1.8")] == [step.id]
        assert uow.performed.of_study("1.9") == []


def test_the_installation_is_itself_for_ever_whoever_asks_first(engine):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(uid_namespace(engine, now=NOW))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 4
    assert len({*answers, uid_namespace(engine, now=NOW)}) == 1
    assert isinstance(answers[0], UUID)


# ---- one broker per data directory ----------------------------------------------------------------------


def test_a_second_broker_on_the_same_directory_is_refused_until_the_first_ends(tmp_path):
    with DataDirectoryLock(tmp_path):
        with pytest.raises(ConfigurationError, match=str(os.getpid())), DataDirectoryLock(tmp_path):
            pass
        # The command line takes no lock, and works beside it.
        engine = open_engine(database_url(tmp_path))
        assert not is_current(engine)
        engine.dispose()
    with DataDirectoryLock(tmp_path):
        pass


def test_the_lock_of_a_killed_broker_is_free(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from broker.db.engine import DataDirectoryLock\n"
        "with DataDirectoryLock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(ConfigurationError), DataDirectoryLock(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with DataDirectoryLock(tmp_path):
        pass
