"""Every page: it answers, its links lead somewhere, its filters hold, and a hostile name is text on it."""

import re
from urllib.parse import urlsplit

import pytest

from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.web.pages import ROWS
from tests.builders import NOW, a_delivery, a_message, a_patient, a_stored_entry, an_instance
from tests.integration.hospital_pages import HOSTILE, PAGES, STUDY, Page, pages_of


def test_every_page_answers_on_an_empty_database(client):
    for path in PAGES:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_an_empty_list_says_what_will_fill_it_and_an_empty_filter_how_to_leave_it(client):
    assert "Point the sender at the HL7 port" in client.get("/messages").text
    filtered = client.get("/messages?q=nobody").text
    assert "Nothing fits these filters" in filtered
    assert 'href="/messages">Show all' in filtered


def test_every_link_on_every_page_leads_to_a_page(client, hospital):
    seen, todo = set(), set(pages_of(hospital))
    while todo:
        path = todo.pop()
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, path
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        page = Page(answer.text)
        assert page.inline == [], path
        for link in page.links:
            where = urlsplit(link)
            assert not where.netloc, f"{path} leads out of the product: {link}"
            if where.path:
                target = f"{where.path}?{where.query}" if where.query else where.path
                todo |= {target} - seen
    assert len(seen) > 25


def test_every_form_on_every_page_is_served(client, hospital):
    forms = set().union(*(Page(client.get(path).text).forms for path in pages_of(hospital)))
    assert {"/deliveries/1/retry", "/deliveries/1/cancel", "/destinations/archive/pause"} <= forms
    assert {"/operations", "/destinations/archive/test"} <= forms
    for action in forms:
        assert client.post(action).status_code == 403, action  # served, and it wants a token


@pytest.mark.parametrize(
    ("path", "shown", "hidden"),
    [
        ("/deliveries?state=DEAD", "/deliveries/1", "/deliveries/2"),
        ("/deliveries?state=dead", "/deliveries/1", "/deliveries/2"),
        ("/deliveries?state=PENDING&destination=archive", "/deliveries/2", "/deliveries/1"),
        ("/orders?incomplete=true", "HAYDN2", "HAYDN1"),
        ("/messages?outcome=refused", "PID-3.1", "M3"),
        ("/images?state=UNROUTED", "1.2.826.0.1.9", f'title="{STUDY}"'),
    ],
)
def test_a_filter_shows_what_fits_and_nothing_else(client, hospital, path, shown, hidden):
    text = client.get(path).text
    assert shown in text
    assert hidden not in text


def test_a_filter_nobody_has_heard_of_is_shown_as_chosen(client, hospital):
    text = client.get("/deliveries?state=SLEEPING").text
    assert "Nothing fits these filters" in text
    assert '<option value="SLEEPING" selected>' in text


def test_a_long_list_is_turned_page_by_page_and_keeps_its_filter(client, store):
    store(lambda uow: [uow.deliveries.add(a_delivery(n), now=NOW) for n in range(1, ROWS + 3)])
    first = client.get("/deliveries?destination=archive")
    assert first.text.count('data-l="Delivery"') == ROWS
    older = re.search(r'rel="next" href="([^"]+)"', first.text)[1].replace("&amp;", "&")
    assert older == "?destination=archive&before=3"
    second = client.get(f"/deliveries{older}").text
    assert second.count('data-l="Delivery"') == 2
    assert 'rel="next"' not in second
    assert 'rel="prev"' in second


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_everywhere(client, store, name):
    def make(uow):
        patient = uow.patients.add(a_patient(1, patient_id=name, name=name), now=NOW)
        entry = a_stored_entry(uow, 1, patient=patient, order={"sending_application": name})
        uow.messages.add(
            a_message(1, sending_application=name, message_control_id=name, order=entry.order.id)
        )
        uow.instances.add_many([an_instance(1, calling_ae_title=name[:16], patient_id=name)])
        key = uow.deliveries.add(
            a_delivery(1, destination=name, route=name, reason=name, state=DeliveryState.DEAD), now=NOW
        )
        uow.record(
            Event(
                EventName.DELIVERY_DIED,
                Subject.DELIVERY,
                subject_id=key,
                study_instance_uid=STUDY,
                actor=name,
                details={"destination": name, "reason": name},
            )
        )
        return entry.order.id, key

    order, key = store(make)
    paths = [*PAGES, f"/orders/{order}", f"/deliveries/{key}", f"/studies/{STUDY}"]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert "\u202e" not in answer.text, "what follows would be read backwards"
        assert ">49" not in answer.text
        assert Page(answer.text).inline == []
