"""Find on its page and as JSON: what is typed travels in bodies only, and one exact hit opens at once."""

import html
import re

import pytest

from broker.web.security import FIELD, HEADER
from broker.workflow.find_port import FOUND_LIMIT
from tests.builders import NOW, a_patient, a_stored_entry
from tests.integration.hospital_pages import HOSTILE, Page, token


def look_for(client, text, **more):
    token = re.search(rf'name="{FIELD}" value="([^"]+)"', client.get("/find").text)[1]
    return client.post("/find", data={FIELD: token, "q": text, **more})


def test_what_is_named_exactly_opens_at_once(client, hospital):
    answer = look_for(client, "P1")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/orders/{hospital['order']}")


def test_what_begins_so_is_listed_under_an_address_that_does_not_say_it(client, hospital):
    answer = look_for(client, "haydn")
    assert answer.status_code == 200
    assert "HAYDN1, JOSEPH" in answer.text
    assert "HAYDN2, JOSEPH" in answer.text
    assert not [link for link in Page(answer.text).links if "haydn" in link.lower()]


def test_a_long_group_is_turned_by_a_form(client, store):
    def make(uow):
        for number in range(FOUND_LIMIT + 2):
            patient = uow.patients.add(a_patient(number, name="HAYDN"), now=NOW)
            a_stored_entry(uow, number, patient=patient)

    store(make)
    first = look_for(client, "haydn")
    after = html.unescape(re.search(r'name="after" value="([^"]+)"', first.text)[1])
    rest = look_for(client, "haydn", group="names", after=after)
    assert (first.text.count('data-l="Order"'), rest.text.count('data-l="Order"')) == (FOUND_LIMIT, 2)
    assert look_for(client, "haydn", group="names", after="[]").status_code == 422
    assert look_for(client, "haydn", group="nobody", after="[]").status_code == 422


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 129, "\x00"])
def test_whatever_is_typed_is_text(client, name):
    answer = look_for(client, name)
    assert answer.status_code == (422 if len(name) > 128 else 200)
    assert "<script>alert" not in answer.text
    assert "\u202e" not in answer.text
    assert Page(answer.text).inline == []


def test_looking_needs_the_token_of_a_page(client):
    assert client.post("/find", data={"q": "A1"}).status_code == 403


def test_programs_find_by_post(client, hospital):
    client.headers[HEADER] = token(client)
    answer = client.post("/api/find", json={"q": "P1"}).json()
    assert answer["only"] == f"/orders/{hospital['order']}"
    orders = next(found for found in answer["groups"] if found["group"] == "orders")
    assert orders["orders"][0]["accession_number"] == "A1"
    assert client.get("/api/find?q=A1").status_code in {404, 405}
    assert client.post("/api/find", json={"q": "x" * 129}).status_code == 422
    assert client.post("/api/find", json={"q": "x", "group": "names", "after": "{"}).status_code == 422
