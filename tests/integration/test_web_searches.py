"""Searches in lists: by the body of a form, turned page by page, refused in an address, and never in a title."""

import re

import pytest
from fastapi.testclient import TestClient

from broker.web.app import create_app
from broker.web.pages import ROWS
from broker.web.security import FIELD, HEADER
from tests.builders import a_stored_entry, an_instance
from tests.doors import a_browser, form_token, sign_in, signed_in
from tests.integration.hospital_pages import STUDY

LISTS = ("/orders", "/images", "/worklist")


@pytest.fixture
def viewer(board):
    return signed_in(create_app(board), "viewer")


def search(browser, path, **fields):
    return browser.post(path, data={FIELD: form_token(browser.get("/find").text), **fields})


@pytest.mark.parametrize(
    ("path", "text", "shown", "hidden"),
    [
        ("/worklist", "HAYDN2", "HAYDN2", "HAYDN1"),
        ("/worklist", "A1", "HAYDN1", "HAYDN2"),
        ("/orders", "HAYDN2", "HAYDN2", "HAYDN1"),
        ("/orders", "PID1", "HAYDN1", "HAYDN2"),
        ("/images", STUDY, f'title="{STUDY}"', "1.2.826.0.1.9"),
    ],
)
def test_a_search_lists_what_fits_and_keeps_what_was_typed(viewer, hospital, path, text, shown, hidden):
    answer = search(viewer, path, q=text)
    assert answer.status_code == 200
    assert shown in answer.text
    assert hidden not in answer.text
    assert f'name="q" maxlength="128" value="{text}"' in answer.text


def test_a_filter_without_a_search_is_an_address_to_be_sent_to_a_colleague(viewer):
    answer = search(viewer, "/worklist", date="2026-11-21", modality="CT", q=" ")
    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist?date=2026-11-21&modality=CT")
    assert search(viewer, "/orders", incomplete="false").headers["location"] == "/orders"
    kept = search(viewer, "/images", state="UNROUTED").headers["location"]
    assert kept == "/images?state=UNROUTED"
    assert "selected>unrouted" in viewer.get(kept).text


@pytest.mark.parametrize("path", [*LISTS, "/api/orders", "/api/studies", "/api/worklist"])
def test_a_search_by_address_is_refused_and_says_where_it_belongs(viewer, hospital, path):
    answer = viewer.get(f"{path}?q=HAYDN1")
    assert answer.status_code == 422
    assert "the body of a POST" in answer.text
    assert "HAYDN1" not in answer.text


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "fields",
    [{"q": "x" * 129}, {"q": "x", "page": "0"}, {"q": "x", "page": "-1"}, {"q": "x", "page": "9" * 30}],
)
def test_what_cannot_be_searched_for_is_422(viewer, path, fields):
    if path == "/worklist" and "page" in fields:
        fields = {"q": "x", "after": fields["page"]}
    assert search(viewer, path, **fields).status_code == 422


@pytest.mark.parametrize(
    "text", ["\x00", "'; DROP TABLE person", "%", "<script>alert(1)</script>", "\u202egnp"]
)
@pytest.mark.parametrize("path", LISTS)
def test_hostile_text_finds_nothing_and_harms_nothing(viewer, path, text):
    answer = search(viewer, path, q=text)
    assert answer.status_code in {200, 303}
    assert "<script>alert" not in answer.text
    assert "\u202e" not in answer.text


@pytest.mark.parametrize("path", LISTS)
def test_a_search_needs_the_token_of_the_form(viewer, path):
    assert viewer.post(path, data={"q": "x"}).status_code == 403


def test_a_long_search_is_turned_by_buttons_that_carry_it_in_their_form(viewer, store):
    store(lambda uow: [a_stored_entry(uow, number) and None for number in range(1, ROWS + 4)])
    for path, turn, rows in (("/orders", "page", "Order"), ("/worklist", "after", "Accession")):
        first = search(viewer, path, q="HAYDN")
        assert first.text.count(f'data-l="{rows}"') == ROWS
        assert 'rel="next"' not in first.text, "a link would put the search into an address"
        further = re.search(rf'<button name="{turn}" value="(\d+)">', first.text)[1]
        pager = first.text[first.text.index('<form class="pager"') :]
        assert 'name="q" value="HAYDN"' in pager
        second = search(viewer, path, q="HAYDN", **{turn: further})
        assert second.text.count(f'data-l="{rows}"') == 3


def test_a_program_searches_by_body(board, hospital, viewer):
    secret = {HEADER: form_token(viewer.get("/find").text)}

    def ask(noun, **body):
        return viewer.post(f"/api/{noun}/search", json=body, headers=secret)

    assert [line["accession_number"] for line in ask("orders", q="HAYDN2").json()] == ["A2"]
    assert [line["accession_number"] for line in ask("worklist", q="HAYDN1").json()] == ["A1"]
    assert [line["study_instance_uid"] for line in ask("studies", q=STUDY).json()] == [STUDY]
    assert ask("orders", q="HAYDN", incomplete=True).json()[0]["missing"] == ["Modality"]
    for wrong in ({}, {"q": ""}, {"q": "x" * 129}, {"q": "x", "limit": 1}, {"q": "x", "page": 1}):
        assert ask("orders", **wrong).status_code == 422, wrong


@pytest.mark.parametrize(
    ("noun", "sought", "key"),
    [
        ("orders", "HAYDN", "order_id"),
        ("worklist", "HAYDN", "step"),
        ("studies", "PID1", "study_instance_uid"),
    ],
)
def test_a_program_turns_a_search_without_a_name_in_the_address(board, hospital, store, noun, sought, key):
    def more(uow):
        for number in range(10, 13):
            a_stored_entry(uow, number)
            told = {"study_instance_uid": f"1.2.77.{number}", "patient_id": "PID1"}
            uow.instances.add_many([an_instance(number, **told)])

    store(more)
    viewer = signed_in(create_app(board), "viewer")
    secret = {HEADER: form_token(viewer.get("/find").text)}

    def ask(address):
        answer = viewer.post(address, json={"q": sought}, headers=secret)
        assert answer.status_code == 200, answer.text
        return answer

    whole = [line[key] for line in ask(f"/api/{noun}/search").json()]
    assert len(whole) >= 3
    parts, following = [], f"/api/{noun}/search?limit=2"
    while following:
        answer = ask(following)
        parts += [line[key] for line in answer.json()]
        link = answer.headers.get("link", "")
        assert sought not in link
        following = link.partition(">")[0].removeprefix("<")
    assert parts == whole


def test_titles_name_nobody(viewer, hospital):
    for path in (*LISTS, "/orders/1", f"/studies/{STUDY}", "/messages/1", "/deliveries/1", "/worklist/print"):
        title = re.search(r"<title>(.*?)</title>", viewer.get(path).text)[1]
        assert not re.search("HAYDN|JOSEPH|PID1|A1", title), path


def test_who_is_asked_to_sign_in_brings_no_search_along(board):
    browser = a_browser(create_app(board))
    assert browser.get("/orders?q=HAYDN").headers["location"] == "/sign-in?next=%2Forders"
    assert sign_in(browser, "viewer", next="/orders").headers["location"] == "/orders"


def test_the_address_of_a_program_is_refused_before_anything_is_read(board):
    nobody = TestClient(create_app(board))
    assert nobody.get("/api/orders?q=HAYDN").status_code == 401
