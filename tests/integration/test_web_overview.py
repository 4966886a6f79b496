"""The overview, the rail and the handover: what is wrong comes first, and each line leads to it."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.events import Event, EventName, Subject
from broker.domain.knocks import KnockReason
from broker.web.app import create_app
from broker.workflow.destinations_port import DestinationHealth, DestinationState
from broker.workflow.devices_port import KnockKey, Knocks
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.overview_port import HealthPart
from tests.builders import NOW, a_message, a_stored_entry
from tests.doors import signed_in
from tests.integration.hospital_pages import STUDY


def test_the_overview_says_first_what_is_wrong_and_what_to_do(client, hospital, store):
    store(
        lambda uow: uow.destinations.save(
            DestinationState("archive", DestinationHealth.FAILING, since=NOW, reason="association rejected")
        )
    )
    text = client.get("/").text
    assert '<h1 data-count="6">6 things need you</h1>' in text
    first = re.search(r"<article.*?</article>", text, re.DOTALL)[0]
    assert "archive is failing: 1 delivery waits, the oldest 0 s</a>" in first
    assert "Association rejected. Check that the peer runs" in first
    for sentence in (
        "1 delivery to archive needs a person",
        "1 message is parked",
        "1 message was refused today",
        "1 order is incomplete",
        "1 study matched no route",
    ):
        assert sentence in text
    assert "(6) Overview" in text


def test_a_part_that_does_not_serve_comes_before_everything(board, hospital):
    down = replace(board, health=lambda: [HealthPart("dicom", False, "no sign of life")])
    text = signed_in(create_app(down)).get("/").text
    assert "The dicom role does not serve" in re.search(r"<article.*?</article>", text, re.DOTALL)[0]


def test_the_rail_counts_what_needs_a_person_on_every_page(client, hospital, store):
    store(
        lambda uow: [uow.messages.add(a_message(n, outcome=MessageOutcome.PARKED)) for n in range(10, 1020)]
    )
    for path in ("/worklist", f"/orders/{hospital['order']}"):
        text = client.get(path).text
        assert ' title="1 incomplete">1<' in text
        assert ' title="1 dead">1<' in text
        assert ' title="1,000+ parked">1,000+<' in text


def test_a_refused_device_is_counted_once_and_for_a_day(board, store, clock):
    def knock(name, address):
        key = KnockKey(name, "BROKER", address, KnockReason.UNKNOWN_TITLE)
        return Knocks(key, 1, clock.now(), clock.now())

    refused = [knock("CT9", "10.0.0.1"), knock("CT9", "10.0.0.2"), knock("MR7", "10.0.0.3")]
    store(lambda uow: uow.devices.note_knocks(refused))
    day = timedelta(hours=24)
    assert board.reports.needs_person(refused_since=clock.now() - day).refused_devices == 2
    assert board.reports.needs_person(refused_since=clock.now() + day).refused_devices == 0


@pytest.mark.parametrize(
    ("path", "place"),
    [("/", "Overview"), ("/orders", "Find"), (f"/studies/{STUDY}", "Find"), ("/deliveries/1", "Deliveries")],
)
def test_the_rail_says_where_one_is(client, hospital, path, place):
    assert re.findall(r'aria-current="page">(\w+)', client.get(path).text) == [place]


def test_the_overview_of_a_new_broker_says_what_comes_next(client):
    text = client.get("/").text
    assert ">Nothing has come yet</h1>" in text
    assert "All is flowing" not in text


def test_the_overview_is_calm_when_nothing_is_wrong(client, store):
    store(lambda uow: a_stored_entry(uow, 1))
    assert ">All is flowing. 1 order, 0 deliveries today.</h1>" in client.get("/").text


def test_the_handover_is_ten_lines_and_each_leads_somewhere(client, hospital, store):
    held = DestinationState(
        "archive", DestinationHealth.PAUSED, since=NOW - timedelta(minutes=41), reason="<b>"
    )
    store(lambda uow: uow.destinations.save(held))
    store(lambda uow: uow.record(Event(EventName.DELIVERY_RETRIED, Subject.DELIVERY, actor="<i>ruiz")))
    text = client.get("/handover").text
    assert text.count("<dt><a ") == 10
    for told in (
        "3 messages came: 1 accepted, 1 parked, 1 refused. 1 parked wait for a decision.",
        "2 orders placed. 1 incomplete: no scanner sees them.",
        "2 images of 2 new studies received. 1 study matched no route and went nowhere.",
        "1 delivery done, 3 planned. 1 waits, the oldest 0 s.",
        "1 died in this shift; dead now: archive 1.",
        "archive paused for 41 min (&lt;b&gt;).",
        "&lt;i&gt;ruiz: delivery retried.",
    ):
        assert told in text
    body = client.get("/api/handover?since=2026-11-20T20:00").json()
    assert [line["about"] for line in body["lines"]][:3] == ["Messages", "Orders", "Exams"]
    assert body["since"].startswith("2026-11-20T20:00:00")


@pytest.mark.parametrize(
    ("since", "says"),
    [
        ("yesterday", "is no date and time; write it as 2026-11-21T19:00"),
        ("2026-12-24T18:00", "cannot begin in the future"),
        ("2026-11-01T00:00", "looks back 7 days at most"),
        ("<script>alert(1)</script>", "&lt;script&gt;"),
    ],
)
def test_a_mistyped_shift_is_said_and_kept(client, since, says):
    answer = client.get("/handover", params={"since": since})
    assert answer.status_code == 422
    assert says in answer.text
    assert "<script>alert" not in answer.text
    assert client.get("/api/handover", params={"since": since}).status_code == 422
