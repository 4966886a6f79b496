"""The worklist board's pages: today unless told, states in place, and a list for paper."""

import pytest

from broker.domain.steps import StepStatus
from broker.web.app import create_app
from broker.web.pages import ROWS
from tests.builders import a_stored_entry
from tests.dashboard_of_devices import a_dashboard_of_devices
from tests.doors import signed_in


@pytest.fixture
def board(sqlite_engine, sqlite_uow_factory, clock, tmp_path, store):
    entry = store(lambda uow: a_stored_entry(uow, 1))
    return a_dashboard_of_devices(sqlite_engine, sqlite_uow_factory, clock, tmp_path, step_id=entry.step.id)


@pytest.fixture
def client(board):
    return signed_in(create_app(board), "viewer")


def test_without_filters_today_is_shown_and_all_days_are_one_press_away(client, board, store):
    store(lambda uow: a_stored_entry(uow, 7, step={"start_date": "20261225"}))
    page = client.get("/worklist").text
    assert "2026-11-21" in page
    assert "/orders/1" in page
    assert "/orders/2" not in page
    assert "/orders/2" in client.get("/worklist?date=all").text
    assert "/orders/2" in client.get("/worklist?date=2026-12-25").text
    assert client.get("/worklist?date=2026-13-40").status_code == 422


def test_an_empty_today_says_what_yesterday_left(client, store):
    for number, status in ((7, StepStatus.SCHEDULED), (8, StepStatus.ARRIVED), (9, StepStatus.COMPLETED)):
        step = {"start_date": "20261120", "status": status}
        store(lambda uow, number=number, step=step: a_stored_entry(uow, number, step=step))
    page = client.get("/worklist").text
    assert '<a href="?date=2026-11-20">2 steps of yesterday have not begun</a>' in page
    assert "of yesterday" not in client.get("/worklist?date=2026-11-22").text
    empty = client.get("/worklist?date=2026-11-22").text
    assert "Nothing is scheduled that day" in empty
    assert "Nothing fits" not in empty
    assert "Nothing fits" in client.get("/worklist?date=2026-11-22&modality=CT").text


def test_overdue_and_stat_are_marked_with_words_and_states_are_renewed_in_place(client, store):
    step = store(
        lambda uow: a_stored_entry(
            uow,
            7,
            procedure={"attributes": {"RequestedProcedurePriority": "STAT"}},
            step={"start_time": "070000"},
        )
    ).step
    page = client.get("/worklist").text
    assert '<small class="state failing">stat</small>' in page
    assert '<small class="state attention">overdue</small>' in page
    states = client.get(f"/worklist/states?steps={step.id}").text
    assert f'<span id="state-{step.id}" hx-swap-oob="true">' in states
    assert "overdue" in states
    assert client.get("/worklist/states?steps=1;2").status_code == 422


def test_the_next_slice_begins_behind_the_last_step(client, store):
    store(lambda uow: [a_stored_entry(uow, 100 + n) for n in range(ROWS + 5)])
    page = client.get("/worklist?date=2026-11-21").text
    assert 'rel="next"' in page
    after = page.split("after=")[1].split('"')[0]
    rest = client.get(f"/worklist?date=2026-11-21&after={after}").text
    assert rest.count('<td data-l="Start">') == 6
    assert 'rel="next"' not in rest
    api = client.get(f"/api/worklist?date=2026-11-21&after={after}&limit=3").json()
    assert len(api) == 3


def test_a_day_for_paper_is_by_station_and_its_views_are_on_record(client, board, store):
    store(lambda uow: a_stored_entry(uow, 8, step={"status": StepStatus.ARRIVED, "station_ae_titles": ()}))
    page = client.get("/worklist/print?date=2026-11-21").text
    assert "2 steps by station" in page
    assert page.index("no station") > page.index("<h2>")
    with board.reports._reading() as connection:
        viewed = connection.exec_driver_sql("SELECT count(*) FROM event WHERE name = 'viewed'").scalar_one()
    assert viewed == 2
