import fnmatch
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.matching import (
    CodeCriterion,
    DateCriterion,
    Key,
    MatchingPolicy,
    NameCriterion,
    StartCriterion,
    StepView,
    TextCriterion,
    Wildcard,
    WorklistQuery,
    attribute_of,
    attributes_of,
    explain,
    matches,
    parse_date_key,
    parse_time_key,
)
from broker.domain.orders import Code, WorklistEntry
from tests.worklist_entries import an_entry


def text_holds(key, asked, *stored, policy=None):
    criterion = TextCriterion.parse(key, asked, policy=policy or MatchingPolicy())
    return criterion is None or criterion.holds(StepView({key: stored}))


def name_holds(asked, stored, policy=None):
    criterion = NameCriterion.parse(Key.PATIENT_NAME, asked, policy=policy or MatchingPolicy())
    return criterion is None or criterion.holds(StepView({Key.PATIENT_NAME: (stored,)}))


def start_holds(day, moment, stored_day, stored_time, *, wrap_time=False, time_unspecified=False):
    criterion = StartCriterion(parse_date_key(day), parse_time_key(moment), day, moment, wrap_time)
    values = {Key.START_DATE: (stored_day,), Key.START_TIME: (stored_time,)}
    return criterion.holds(StepView(values, time_unspecified=time_unspecified))


# PS3.4 C.2.2.2.1 to C.2.2.2.4
@pytest.mark.parametrize(
    ("key", "asked", "stored", "expected"),
    [
        (Key.PATIENT_ID, "12345", "12345", True),
        (Key.PATIENT_ID, " 12345 \x00", "12345", True),
        (Key.PATIENT_ID, "123", "12345", False),
        (Key.PATIENT_ID, "123*", "12345", True),
        (Key.PATIENT_ID, "1?345", "12345", True),
        (Key.PATIENT_ID, "*", "", True),
        (Key.PATIENT_ID, "***", "", True),
        (Key.PATIENT_ID, "   ", "", True),
        (Key.PATIENT_ID, "", "", True),
        (Key.PATIENT_ID, "?", "", False),
        (Key.PATIENT_ID, "a1", "A1", False),
        (Key.PATIENT_ID, "100%", "1000", False),
        (Key.PATIENT_ID, "1_3", "123", False),
        (Key.PATIENT_ID, "[1-9]", "5", False),
        (Key.MODALITY, "ct", "CT", True),
        (Key.MODALITY, "CR\\DX", "DX", True),
        (Key.MODALITY, "CR\\DX", "CT", False),
        (Key.MODALITY, "CR\\", "CT", False),
        (Key.MODALITY, "CR\\*", "CT", True),
        (Key.MODALITY, "\\", "CT", True),
        (Key.SEX, "m", "M", True),
        (Key.ACCESSION_NUMBER, "A1\\A2", "A2", True),
        (Key.SPS_DESCRIPTION, "CHEST*", "CHEST PA", True),
        (Key.SPS_DESCRIPTION, "chest*", "CHEST PA", False),
    ],
)
def test_text_keys_match_as_the_standard_says(key, asked, stored, expected):
    assert text_holds(key, asked, stored) is expected


def test_any_ae_title_of_a_step_may_match():
    assert text_holds(Key.STATION_AE_TITLE, "CT2", "CT1", "CT2")
    assert not text_holds(Key.STATION_AE_TITLE, "CT3", "CT1", "CT2")
    assert text_holds(Key.STATION_AE_TITLE, "CT?", "MR1", "CT2")


def test_ae_title_case_counts_only_where_the_device_wants_it():
    assert text_holds(Key.STATION_AE_TITLE, "ct1", "CT1")
    strict = MatchingPolicy(ignore_ae_title_case=False)
    assert not text_holds(Key.STATION_AE_TITLE, "ct1", "CT1", policy=strict)


def test_an_empty_stored_value_fails_a_matching_key():  # PS3.4 K.2.2.1.1.1
    assert not text_holds(Key.ACCESSION_NUMBER, "A*", "")
    assert not text_holds(Key.ACCESSION_NUMBER, "A")
    assert not name_holds("DOE", "")
    assert not start_holds("20261121", "", "", "")
    assert not start_holds("", "1000-1200", "20261121", "")


def test_an_empty_performing_physician_hides_nothing_where_the_device_says_so():
    lenient = MatchingPolicy(empty_matches=frozenset({Key.PERFORMING_PHYSICIAN}))
    criterion = NameCriterion.parse(Key.PERFORMING_PHYSICIAN, "SMITH*", policy=lenient)
    assert criterion is not None
    assert criterion.holds(StepView({}))
    assert not criterion.holds(StepView({Key.PERFORMING_PHYSICIAN: ("JONES",)}))


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        ("DOE^JOHN", "DOE^JOHN", True),
        ("doe^john", "DOE^JOHN", True),
        ("DOE", "DOE^JOHN", True),
        ("DOE^", "DOE^JOHN", True),
        ("DO", "DOE^JOHN", False),
        ("DO*", "DOE^JOHN", True),
        ("*^JOHN", "DOE^JOHN^M", True),
        ("D?E", "DOE^JOHN", True),
        ("*DOE*", "DOE^JOHN", True),
        ("DOE, JOHN", "DOE^JOHN", True),
        ("DOE,J*", "DOE^JOHN", True),
        ("^JOHN", "DOE^JOHN", True),
        ("DOE^JOHN^M", "DOE^JOHN", False),
        ("DOE^JANE", "DOE^JOHN", False),
        ("MULLER", "Müller^Eva", True),
        ("müller*", "MULLER^EVA", True),
        ("DOE  ^ JOHN", "DOE^JOHN", True),
        ("山田*", "YAMADA^TARO=山田^太郎", True),
        ("YAMADA", "YAMADA^TARO=山田^太郎", True),
        ("=山田", "YAMADA^TARO=山田^太郎", True),
        ("YAMADA=鈴木", "YAMADA^TARO=山田^太郎", False),
        ("YAMADA=*", "YAMADA^TARO", True),
        ("^^^", "DOE", True),
        ("*", "DOE", True),
        ("", "", True),
    ],
)
def test_names_match_as_people_write_them(asked, stored, expected):
    assert name_holds(asked, stored) is expected


def test_a_shorter_name_key_is_exact_where_the_device_wants_it():
    assert not name_holds("DOE", "DOE^JOHN", MatchingPolicy(prefix_names=False))
    assert name_holds("DOE*", "DOE^JOHN", MatchingPolicy(prefix_names=False))


D, T = "20260706", "120000"


# PS3.4 C.2.2.2.5, K.2.2.1.1: every row of date and time combined
@pytest.mark.parametrize(
    ("day", "moment", "stored_day", "stored_time", "expected"),
    [
        ("20260706", "", D, T, True),
        ("20260705", "", D, T, False),
        ("20260706", "12", D, "125959", True),
        ("20260706", "1200", D, "120059", True),
        ("20260706", "1200", D, "120100", False),
        ("20260706", "120000", D, "1200", True),
        ("20260706", "1000-1800", D, T, True),
        ("20260706", "1000-1800", D, "180030", True),
        ("20260706", "1000-1800", D, "1801", False),
        ("20260706", "1000-", D, "0959", False),
        ("20260706", "-1000", D, "1000", True),
        # both closed: one span from the first date and time to the last
        ("20260705-20260707", "1000-1800", "20260705", "0959", False),
        ("20260705-20260707", "1000-1800", "20260705", "1000", True),
        ("20260705-20260707", "1000-1800", "20260706", "0300", True),
        ("20260705-20260707", "1000-1800", "20260706", "2300", True),
        ("20260705-20260707", "1000-1800", "20260707", "180059.999", True),
        ("20260705-20260707", "1000-1800", "20260707", "1801", False),
        ("20260705-20260707", "2200-0200", "20260705", "2200", True),
        ("20260705-20260707", "2200-0200", "20260707", "0300", False),
        ("20260705-20260707", "", "20260707", "235959", True),
        ("20260705-20260707", "*", "20260704", T, False),
        # same open form: one span
        ("20260705-", "1000-", "20260705", "0900", False),
        ("20260705-", "1000-", "20260706", "0900", True),
        ("-20260707", "-1000", "20260707", "1100", False),
        ("-20260707", "-1000", "20260706", "1100", True),
        # forms differ: apart
        ("20260705-20260707", "1000-", "20260706", "0900", False),
        ("20260705-20260707", "1000-", "20260706", "1100", True),
        ("20260705-", "-1000", "20260706", "1100", False),
        ("20260705-20260707", "1200", "20260706", "1200", True),
        ("20260705-20260707", "1200", "20260706", "1300", False),
        # time alone
        ("", "1000-1400", D, T, True),
        ("", "1300-1400", D, T, False),
        ("", "2200-0200", D, "2300", False),
        ("20260706", "000000-235959", D, "", True),
        ("20260706", "0000-2359", D, "235959", True),
        # the other way round matches nothing
        ("20260707-20260705", "", D, T, False),
        # universal forms
        ("*", "*", D, T, True),
        ("-", "-", D, T, True),
        ("00000000-99999999", "", D, T, True),
        ("?", "?", D, T, True),
    ],
)
def test_start_date_and_time_match_together(day, moment, stored_day, stored_time, expected):
    assert start_holds(day, moment, stored_day, stored_time) is expected


def test_a_time_range_over_midnight_wraps_only_where_the_device_wants_it():
    assert start_holds("", "2200-0200", D, "2300", wrap_time=True)
    assert start_holds("", "2200-0200", D, "0100", wrap_time=True)
    assert not start_holds("", "2200-0200", D, "1200", wrap_time=True)


@pytest.mark.parametrize("moment", ["1300-1400", "13", "-1000", "2200-0200"])
def test_an_order_without_a_time_matches_every_time_of_its_day(moment):
    assert start_holds("20260706", moment, D, "000000", time_unspecified=True)
    assert start_holds("20260706-20260707", moment, D, "000000", time_unspecified=True)
    assert not start_holds("20260707", moment, D, "000000", time_unspecified=True)


def test_birth_dates_match_by_range():
    criterion = DateCriterion.parse(Key.BIRTH_DATE, "19700101-19791231")
    assert criterion is not None
    assert criterion.holds(StepView({Key.BIRTH_DATE: ("19750606",)}))
    assert not criterion.holds(StepView({Key.BIRTH_DATE: ("19850606",)}))
    assert not criterion.holds(StepView({Key.BIRTH_DATE: ("",)}))


@pytest.mark.parametrize("text", ["tomorrow", "20261399", "2026"])
def test_a_date_key_that_is_no_date_is_said(text):
    with pytest.raises(ValueError, match="date"):
        parse_date_key(text)


def test_a_code_matches_when_one_item_has_all_wanted_parts():  # PS3.4 C.2.2.2.6
    view = StepView({}, {Key.RP_CODE: (Code("CT1", "99A", "Head"), Code("CT2", "99B", "Chest"))})
    assert CodeCriterion.parse(Key.RP_CODE, value="CT2").holds(view)
    assert CodeCriterion.parse(Key.RP_CODE, value="CT1", scheme="99A").holds(view)
    assert not CodeCriterion.parse(Key.RP_CODE, value="CT1", scheme="99B").holds(view)
    assert not CodeCriterion.parse(Key.RP_CODE, value="CT3").holds(view)
    assert CodeCriterion.parse(Key.RP_CODE, value="*") is None


def test_near_misses_name_the_key_that_excluded_them():
    query = WorklistQuery(
        (
            TextCriterion.parse(Key.MODALITY, "CT"),
            StartCriterion(parse_date_key("20260706"), parse_time_key("1000-1100"), "20260706", "1000-1100"),
            TextCriterion.parse(Key.ACCESSION_NUMBER, "A1"),
        )
    )
    view = StepView({Key.MODALITY: ("MR",), Key.START_DATE: (D,), Key.START_TIME: (T,)})
    assert not matches(query, view)
    verdicts = {verdict.key: verdict for verdict in explain(query, view)}
    assert {key: verdict.holds for key, verdict in verdicts.items()} == {
        Key.MODALITY: False,
        Key.START_DATE: True,
        Key.START_TIME: False,
        Key.ACCESSION_NUMBER: False,
    }
    assert verdicts[Key.MODALITY].reason == "Modality is MR, asked for CT"
    assert "empty" in verdicts[Key.ACCESSION_NUMBER].reason


@given(st.text(alphabet="AB*?", max_size=12), st.text(alphabet="AB", max_size=12))
def test_wildcards_agree_with_a_reference_matcher(pattern, value):
    assert Wildcard(pattern).matches(value) is fnmatch.fnmatchcase(value, pattern)


def test_a_hostile_pattern_costs_no_more_than_its_length():
    started = time.thread_time()
    assert not Wildcard("*A" * 5_000 + "B").matches("A" * 5_000)
    assert not Wildcard("*" + "?" * 2_000 + "B").matches("A" * 2_000)
    assert time.thread_time() - started < 2.0


@given(st.sampled_from(list(Key)), st.text(max_size=30), st.text(max_size=30))
def test_matching_and_its_explanation_never_disagree(key, asked, stored):
    criterion = TextCriterion.parse(key, asked)
    query = WorklistQuery((criterion,) if criterion else ())
    view = StepView({key: (stored,)})
    assert matches(query, view) is all(verdict.holds for verdict in explain(query, view))


KEYWORDS = ("PatientName", "Modality", "AccessionNumber", "PatientSex", "MedicalAlerts", "StudyInstanceUID")
attributes = st.dictionaries(
    st.sampled_from(KEYWORDS), st.sampled_from(["", (), "A", ("A", "B"), (Code("C", "S", "M"),)])
)


@given(attributes, attributes, attributes, attributes)
def test_all_attributes_of_an_entry_are_what_it_answers_for_each(patient, order, procedure, step):
    entry = an_entry(1)
    entry = WorklistEntry(
        replace(entry.patient, attributes=patient, sex=None),
        replace(entry.order, attributes=order, accession_number=None),
        replace(entry.procedure, attributes=procedure),
        replace(entry.step, attributes=step),
    )
    found = attributes_of(entry)
    assert all(found.values())
    for keyword in {*KEYWORDS, *found}:
        assert attribute_of(entry, keyword) == found.get(keyword, "")
