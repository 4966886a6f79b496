"""Narrowing in SQL never loses what matches: on SQLite and on PostgreSQL, against domain matching."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from broker.db.worklist_query import SqlWorklistReader
from broker.domain.devices import DeviceProfile
from broker.domain.matching import (
    CODE_KEYS,
    NAME_KEYS,
    CodeCriterion,
    Key,
    NameCriterion,
    StartCriterion,
    TextCriterion,
    WorklistQuery,
    matches,
    parse_date_key,
    parse_time_key,
    view_of,
)
from broker.domain.steps import StepStatus
from broker.workflow.worklist import Exclusion, TooManyAnswers, Worklist, is_visible
from tests.worklist_database import StillClock, clear, postgresql_engine, sqlite_engine, store
from tests.worklist_entries import an_entry, with_patient

CT1 = DeviceProfile(ae_title="CT1", modalities=("CT",))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    with sqlite_engine(tmp_path_factory.mktemp("worklist")) as engine:
        yield engine


@pytest.fixture(scope="module")
def postgresql():
    with postgresql_engine() as engine:
        yield engine


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request):
    engine = request.getfixturevalue(request.param)
    if engine is None:
        pytest.skip("no PostgreSQL server to start here")
    clear(engine)
    return engine


def worklist(engine, clock=None):
    return Worklist(SqlWorklistReader(engine), clock or StillClock())


def query(*criteria, statuses=None):
    return WorklistQuery(tuple(c for c in criteria if c is not None), statuses)


def start(day="", moment=""):
    days, times = parse_date_key(day), parse_time_key(moment)
    return None if days is None and times is None else StartCriterion(days, times, day, moment)


def found(engine, asked, device=CT1, clock=None):
    return [answer.step for answer in worklist(engine, clock).find(asked, device)]


# Few values, so that queries hit; with every character that means something to SQL, LIKE or DICOM.
ALPHABET = "AB%_\\*?='^ é山\U0010ffff"
words = st.text(alphabet="AB%_='é山\U0010ffff", min_size=1, max_size=4)
names = st.lists(st.lists(words, min_size=1, max_size=3).map("^".join), min_size=1, max_size=3).map("=".join)
patterns = st.text(alphabet=ALPHABET, max_size=6)
days = st.sampled_from(["20261120", "20261121", "20261122"])
times = st.sampled_from(["000000", "080000", "093015", "1200", "235959.5"])
day_keys = st.sampled_from(
    [
        "",
        "20261121",
        "20261120-20261121",
        "20261121-",
        "-20261121",
        "20261122-20261120",
        "*",
        "20261120-20261122",
    ]
)
time_keys = st.sampled_from(["", "08", "0800-1200", "0930-", "-0900", "2200-0200", "080000-093014"])
TEXT_KEYS = [
    Key.PATIENT_ID,
    Key.ACCESSION_NUMBER,
    Key.MODALITY,
    Key.STATION_AE_TITLE,
    Key.SPS_ID,
    Key.RP_ID,
    Key.SEX,
    Key.SPS_DESCRIPTION,
    Key.RP_PRIORITY,
    Key.PLACER_ORDER_NUMBER,
    Key.ADMISSION_ID,
    Key.ISSUER_OF_PATIENT_ID,
]


@st.composite
def entries(draw):
    made = []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        entry = an_entry(
            number,
            modality=draw(st.sampled_from(["CT", "MR"])),
            stations=tuple(draw(st.lists(st.sampled_from(["CT1", "ct2", "MR1"]), max_size=2, unique=True))),
            start=(draw(days), draw(times)),
            status=draw(st.sampled_from(list(StepStatus))),
            time_unspecified=draw(st.booleans()),
            ScheduledProcedureStepDescription=draw(words),
        )
        made.append(with_patient(entry, name=draw(names), patient_id=draw(words) + str(number)))
    return made


@st.composite
def queries(draw):
    criteria = [start(draw(day_keys), draw(time_keys))]
    for key in draw(st.lists(st.sampled_from(TEXT_KEYS), max_size=3, unique=True)):
        asked = draw(
            patterns | words | st.sampled_from(["CT", "CT1", "A1", "A1\\A2", "S1*", "A?", "CT\\MR", "M"])
        )
        criteria.append(TextCriterion.parse(key, asked))
    if draw(st.booleans()):
        key = draw(st.sampled_from(sorted(NAME_KEYS, key=str)))
        criteria.append(NameCriterion.parse(key, draw(patterns | names | st.sampled_from(["S*", "SAL"]))))
    if draw(st.booleans()):
        key = draw(st.sampled_from(sorted(CODE_KEYS, key=str)))
        criteria.append(CodeCriterion.parse(key, value=draw(st.sampled_from(["CTCH", "CT*", "X2", "NO"]))))
    if draw(st.booleans()):
        uids = draw(st.sampled_from(["1.2.826.0.1.1", "1.2.826.0.1.1\\1.2.826.0.1.2", "9.9"]))
        criteria.append(TextCriterion.parse(Key.STUDY_INSTANCE_UID, uids, wildcards=False))
    statuses = draw(st.none() | st.frozensets(st.sampled_from(list(StepStatus)), max_size=4))
    return query(*criteria, statuses=statuses)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(entries(), st.lists(queries(), min_size=1, max_size=6))
def test_sql_and_matching_find_the_same_steps(engine, made, asked):
    clear(engine)
    stored = store(engine, *made)
    lists = worklist(engine)
    now = StillClock().now()
    for one in asked:
        visibility = lists.visibility(one, CT1)
        expected = {
            entry.step.id
            for entry in stored
            if matches(one, view_of(entry)) and is_visible(entry, now, visibility) and not entry.step.missing
        }
        assert set(found(engine, one)) == expected


def test_answers_come_by_date_time_priority_and_name(engine):
    first = an_entry(1, start=("20261121", "0800"))
    later = an_entry(2, start=("20261121", "0900"))
    tomorrow = an_entry(3, start=("20261122", "0700"))
    stored = store(engine, tomorrow, later, first)
    assert found(engine, query()) == [stored[2].step.id, stored[1].step.id, stored[0].step.id]


def test_every_answer_of_a_long_list_is_given_once_and_in_order(engine):
    stored = store(
        engine, *(an_entry(n, start=("20261121", f"{n % 24:02d}{n % 60:02d}")) for n in range(1, 500))
    )
    expected = [e.step.id for e in sorted(stored, key=lambda e: (e.step.start_time, e.step.id))]
    assert found(engine, query(start("20261121"))) == expected


def test_what_is_cancelled_while_answers_are_taken_is_not_answered_any_more(engine):
    stored = store(engine, *(an_entry(n, start=("20261121", f"{n % 24:02d}00")) for n in range(1, 200)))
    answers = worklist(engine).find(query(), CT1)
    first = next(answers).step
    with engine.begin() as connection:
        connection.execute(text("UPDATE scheduled_procedure_step SET status = 'CANCELED', offered = false"))
    rest = [answer.step for answer in answers]
    assert first not in rest
    assert len(rest) <= 64 < len(stored)


def test_a_started_step_stays_visible_to_its_modality_for_a_while(engine):
    clock = StillClock()
    (entry,) = store(engine, an_entry(1, status=StepStatus.STARTED), clock=clock)
    mr = DeviceProfile(modalities=("MR",))
    assert found(engine, query(), CT1, clock) == [entry.step.id]
    assert found(engine, query(), mr, clock) == []
    assert found(engine, query(), DeviceProfile(), clock) == []
    clock.instant += timedelta(hours=4, seconds=1)
    assert found(engine, query(), CT1, clock) == []


def test_a_held_or_incomplete_step_is_never_answered(engine):
    incomplete = an_entry(2)
    incomplete = replace(incomplete, step=replace(incomplete.step, missing=("Modality",)))
    store(engine, an_entry(1, status=StepStatus.HELD), incomplete)
    assert found(engine, query()) == []
    assert found(engine, query(statuses=frozenset(StepStatus))) == []


def test_named_statuses_are_answered_exactly(engine):
    stored = store(engine, an_entry(1), an_entry(2, status=StepStatus.CANCELED))
    assert found(engine, query(statuses=frozenset({StepStatus.CANCELED}))) == [stored[1].step.id]
    assert found(engine, query(statuses=frozenset())) == []


def test_a_device_that_takes_few_answers_gets_the_first_or_a_refusal(engine):
    store(engine, *(an_entry(n) for n in range(1, 6)))
    assert len(found(engine, query(), DeviceProfile(max_results=3))) == 3
    assert len(found(engine, query(), DeviceProfile(max_results=5, refuses_over_limit=True))) == 5
    with pytest.raises(TooManyAnswers):
        found(engine, query(), DeviceProfile(max_results=3, refuses_over_limit=True))


def test_a_broad_query_of_a_guarded_device_means_these_days(engine):
    stored = store(engine, an_entry(1, start=("20261122", "0900")), an_entry(2, start=("20261124", "0900")))
    assert found(engine, query(), DeviceProfile(guards_broad_queries=True)) == [stored[0].step.id]


def test_near_misses_say_what_excluded_them(engine):
    stored = store(
        engine, an_entry(1), an_entry(2, status=StepStatus.COMPLETED), an_entry(3, start=("20261125", "0900"))
    )
    asked = query(
        TextCriterion.parse(Key.STATION_AE_TITLE, "CT1"),
        start("20261121"),
        TextCriterion.parse(Key.MODALITY, "MR"),
    )
    misses = {miss.entry.step.id: miss for miss in worklist(engine).explain(asked, CT1)}
    assert misses[stored[0].step.id].reasons == ((Exclusion.KEY, "Modality is CT, asked for MR"),)
    assert (Exclusion.STATUS, "the step is COMPLETED") in misses[stored[1].step.id].reasons
    assert len(misses[stored[2].step.id].reasons) == 2


def test_hostile_values_find_nothing_and_break_nothing(engine):
    store(engine, an_entry(1))
    for asked in ("A\x00B", "'; DROP TABLE patient; --", "%", "_", "\\%", "%s", ":x", "{}", "A" * 100_000):
        for key in (Key.PATIENT_ID, Key.ACCESSION_NUMBER, Key.MODALITY, Key.STATION_AE_TITLE):
            assert found(engine, query(TextCriterion.parse(key, asked))) == []
        assert found(engine, query(NameCriterion.parse(Key.PATIENT_NAME, asked + "*"))) == []
    many = "\\".join(f"1.2.{n}" for n in range(50_000)) + "\\1.2.826.0.1.1"
    assert len(found(engine, query(TextCriterion.parse(Key.STUDY_INSTANCE_UID, many, wildcards=False)))) == 1


@pytest.mark.parametrize(
    "criteria",
    [
        (TextCriterion.parse(Key.STATION_AE_TITLE, "CT1"), start("20261121")),
        (
            TextCriterion.parse(Key.STATION_AE_TITLE, "CT1"),
            start("20261121"),
            TextCriterion.parse(Key.MODALITY, "CT"),
        ),
        (TextCriterion.parse(Key.MODALITY, "CT"), start("20261120-20261122")),
        (start("20261121"),),
        (TextCriterion.parse(Key.ACCESSION_NUMBER, "A1"),),
        (TextCriterion.parse(Key.PATIENT_ID, "P*"),),
        (NameCriterion.parse(Key.PATIENT_NAME, "HAY*"),),
        (TextCriterion.parse(Key.STUDY_INSTANCE_UID, "1.2"), start("20261121")),
    ],
    ids=["station", "station+modality", "modality", "date", "accession", "patient", "name", "study"],
)
def test_every_usual_query_is_driven_by_an_index(sqlite, criteria):
    statements = []

    def keep(conn, cursor, statement, parameters, context, executemany):
        statements.append((statement, parameters))

    event.listen(sqlite, "before_cursor_execute", keep)
    try:
        found(sqlite, query(*criteria))
    finally:
        event.remove(sqlite, "before_cursor_execute", keep)
    statement, parameters = next(s for s in statements if s[0].startswith("SELECT"))
    with sqlite.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]
    assert not [step for step in plan if step.startswith("SCAN ") and "name_groups" not in step], plan
    assert any("USING INTEGER PRIMARY KEY (rowid=?)" in step for step in plan), plan
