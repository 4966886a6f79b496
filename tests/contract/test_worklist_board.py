"""The worklist board on both databases: slices that join without a gap, a day's counts, and what is overdue."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.db.reports import SqlReports
from broker.domain.steps import StepStatus
from broker.workflow.worklist_board import BoardFilters, by_station, is_overdue, is_urgent
from tests.builders import NOW, a_patient, a_stored_entry

DAY = "20261121"


@pytest.fixture
def reports(engine, uow_factory):
    """Steps of three days and of none, with equal starts, without times, and of one name."""
    with uow_factory() as uow:
        patient = uow.patients.add(a_patient(9, name="Müller^Eva"), now=NOW)
        number = 0
        for date in ("20261120", DAY, "20261122", None):
            for time in ("080000", "080000", "093000", None):
                number += 1
                step = {"start_date": date, "start_time": time, "time_unspecified": time is None}
                if number % 3 == 0:
                    step |= {"station_ae_titles": ("MR1", "MR2"), "modality": "MR"}
                if number % 5 == 0:
                    step["status"] = StepStatus.ARRIVED
                a_stored_entry(uow, number, patient=patient, step=step)
        uow.commit()
    return SqlReports(engine)


@pytest.mark.parametrize("date", [DAY, "", "20261201"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_slices_join_to_the_whole_list(reports, date, size):
    filters = BoardFilters(date)
    whole = [line.step for line in reports.board(filters, limit=500)]
    joined, after = [], None
    while part := reports.board(filters, after=after, limit=size):
        joined += [line.step for line in part]
        after = joined[-1]
    assert joined == whole
    assert len(set(whole)) == len(whole) == {DAY: 4, "": 16, "20261201": 0}[date]


def test_a_day_is_in_the_order_of_its_starts_and_all_days_latest_first(reports):
    day = [line.start for line in reports.board(BoardFilters(DAY))]
    assert day == [f"2026-11-21 {time}" for time in ("08:00", "08:00", "09:30")] + ["2026-11-21"]
    dates = [(line.start or "")[:10] for line in reports.board(BoardFilters())]
    assert dates == sorted(dates, reverse=True)
    assert dates[-1] == ""


def test_filters_narrow_every_slice(reports):
    found = reports.board(BoardFilters(station="mr2", modality="mr"), limit=2)
    rest = reports.board(BoardFilters(station="mr2", modality="mr"), after=found[-1].step)
    assert len(found) + len(rest) == 5
    assert {line.modality for line in (*found, *rest)} == {"MR"}
    assert reports.board(BoardFilters(text="nobody")) == []


def test_behind_a_step_that_is_not_there_is_nothing(reports):
    assert reports.board(BoardFilters(), after=4711) == []


def test_a_day_is_counted_by_status_and_names_its_stations(reports):
    day = reports.board_day(DAY)
    assert day.counts == {"SCHEDULED": 3, "ARRIVED": 1}
    assert {"MR1", "MR2"} <= set(day.stations)
    assert reports.board_day("20300101").stations == ()


def test_what_has_not_begun_half_an_hour_after_its_start_is_overdue(reports):
    first = reports.board(BoardFilters(DAY))[0]
    at_start = NOW.replace(hour=8, minute=0, second=0)
    assert not is_overdue(first, now=at_start + timedelta(minutes=30))
    assert is_overdue(first, now=at_start + timedelta(minutes=31))
    for changes in ({"status": "STARTED"}, {"start": "2026-11-21"}, {"start": None}):
        assert not is_overdue(replace(first, **changes), now=at_start + timedelta(days=1))
    assert is_urgent(replace(first, priority="stat"))
    assert not is_urgent(replace(first, priority="ROUTINE"))


def test_a_step_of_two_stations_stands_under_both_and_one_of_none_last(reports):
    lines = reports.board(BoardFilters(), limit=500)
    groups = by_station([*lines, replace(lines[0], station_ae_titles=())])
    names = [name for name, _ in groups]
    assert names[-1] == "no station"
    assert dict(groups)["MR1"] == dict(groups)["MR2"]
