"""The Messages pages: in and out, taken apart beside what came, problems in place, and what a message says."""

import re

import pytest

from broker.web.pages import ROWS
from tests.builders import NOW, a_message, a_message_delivery
from tests.integration.hospital_pages import HOSTILE, Page
from tests.journeys.hl7_orders import orm

MESSAGE = orm(accession="A1", patient_id="PID1", name="HAYDN^JOSEPH", study_uid="1.2.3").encode()


@pytest.fixture
def refused(store):
    problems = ({"condition": "101", "severity": "error", "place": "PID-3.1", "text": "an id is needed"},)
    return store(lambda uow: uow.messages.add(a_message(1, raw=MESSAGE, problems=problems)).id)


def test_a_message_is_taken_apart_with_its_problems_in_place(client, refused):
    text = client.get(f"/messages/{refused}").text
    row = re.search(r'<tr class="wrong">(.*?)</tr>', text, re.DOTALL)[1]
    assert "PID-3" in row
    assert "an id is needed" in row
    assert "Patient Name" in text


def test_what_a_message_says_is_read_again_when_asked(client, refused):
    assert "OBR-18" not in client.get(f"/messages/{refused}").text.partition("What it says")[2]
    text = client.get(f"/messages/{refused}?again=true").text.partition("What it says")[2]
    assert re.search(r"PatientName.*?HAYDN\^JOSEPH.*?PID-5", text, re.DOTALL)
    body = client.get(f"/api/messages/{refused}").json()
    assert body["segments"][0]["place"] == "MSH"
    assert body["says"]["values"]


def test_a_message_can_be_kept_as_it_came(client, refused):
    answer = client.get(f"/messages/{refused}/raw")
    assert answer.content == MESSAGE
    assert answer.headers["content-disposition"] == f'attachment; filename="message-{refused}.hl7"'


def test_messages_out_are_listed_and_shown(client, store):
    key = store(lambda uow: uow.deliveries.add(a_message_delivery("k", payload=MESSAGE), now=NOW))
    assert f'href="/messages/out/{key}"' in client.get("/messages?way=out").text
    text = client.get(f"/messages/out/{key}").text
    assert "Patient Name" in text
    assert f'href="/deliveries/{key}"' in text
    assert client.get("/api/messages/sent").json()[0]["delivery"] == key
    assert client.get("/messages/out/999").status_code == 404


def test_a_long_list_is_turned_by_cursor_and_keeps_its_filters(client, store):
    store(lambda uow: [uow.messages.add(a_message(n)) for n in range(1, ROWS + 3)])
    first = client.get("/messages?outcome=accepted&sender=RIS").text
    older = re.search(r'rel="next" href="([^"]+)"', first)[1].replace("&amp;", "&")
    assert older.startswith("?outcome=accepted&sender=RIS&before=")
    assert '<option value="RIS" selected>RIS</option>' in first
    second = client.get(f"/messages{older}").text
    assert (first.count('data-l="Message"'), second.count('data-l="Message"')) == (ROWS, 2)


@pytest.mark.parametrize(
    "query", ["day=2026-13-45", "day=x", "way=up", "before=0", f"sender={'x' * 129}", "day=9999-12-31"]
)
def test_a_filter_that_cannot_be_read_is_422(client, query):
    assert client.get(f"/messages?{query}").status_code == 422


@pytest.mark.parametrize("name", [*HOSTILE, "M" * 65_536])
def test_whatever_a_message_holds_is_text(client, store, name):
    raw = MESSAGE.replace(b"HAYDN^JOSEPH", name.encode())
    key = store(lambda uow: uow.messages.add(a_message(1, raw=raw)).id)
    for path in (f"/messages/{key}", f"/messages/{key}?again=true", "/messages"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert len(answer.text) < 300_000
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert "\u202e" not in answer.text
        assert Page(answer.text).inline == []
