"""What the page of one study, delivery, message or order says, and in which words."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.events import Event, EventName, Subject
from broker.web.app import create_app
from broker.web.timeline import tell
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.reports_port import TimelineEntry
from tests.builders import NOW, a_delivery, a_message
from tests.doors import signed_in
from tests.integration.hospital_pages import STUDY, WHY


def test_a_study_tells_why_a_route_did_not_take_it_by_depth(client, hospital):
    text = client.get(f"/studies/{STUDY}").text
    assert "did not take 2 images" in text
    assert re.search(r'class="no d0">.*one of these holds', text)
    assert re.search(r'class="no d1">.*Modality is MR.*found <bdi>CT \(image header\)', text)


def test_a_timeline_is_told_in_words(client, hospital):
    text = client.get(f"/deliveries/{hospital['dead']}").text
    assert "→ archive: dead, needs a person" in text
    assert "reason=" not in text


def test_tries_that_failed_alike_are_one_line(client, store):
    def make(uow):
        key = uow.deliveries.add(a_delivery(1), now=NOW)
        for attempt in range(1, 5):
            for name in (EventName.DELIVERY_CLAIMED, EventName.DELIVERY_RETRY):
                details = {"destination": "archive", "attempt": attempt, "reason": "the peer is silent"}
                uow.record(Event(name, Subject.DELIVERY, subject_id=key, details=details))
        return key

    text = client.get(f"/deliveries/{store(make)}").text
    assert "4 attempts failed since" in text
    assert text.count("<bdi>the peer is silent</bdi>") == 1
    assert "runs" not in text


def test_a_raw_message_is_shown_segment_by_segment_whatever_its_bytes(client, store):
    raw = "MSH|^~\\&|RIS\rPID|1||<b>Müller</b>\r".encode("latin-1")
    store(lambda uow: uow.messages.add(a_message(1, raw=raw, answer=None, outcome=MessageOutcome.FAILED)))
    text = client.get("/messages/1").text
    assert "MSH|^~\\&amp;|RIS\nPID|1||&lt;b&gt;Müller&lt;/b&gt;" in text
    assert "left to send it again" in text


def test_a_message_says_first_who_sent_what_and_what_was_answered(client, store):
    raw, answer = b"MSH|^~\\&|RIS|H|||1||ORM^O01|M77|P\rPID|1", b"MSH|^~\\&|B\rMSA|AE|M77\rERR|"
    told = {"message_control_id": "M77", "acknowledgement_code": "AE", "outcome": MessageOutcome.REFUSED}
    store(lambda uow: [uow.messages.add(a_message(1, raw=raw, answer=answer, **told)), None])
    text = client.get("/messages/1").text
    assert "<h1>Message <bdi>M77</bdi>" in text
    assert "ORM^O01" in text
    assert '<span class="state failing">AE</span> refused' in text


@pytest.mark.parametrize("raw", [b"", b"\r", b"MSH", b"\xff\xfe", b"MSH|\rMSA|", b"GET / HTTP/1.1\r\n"])
def test_bytes_that_are_no_message_are_shown_as_they_came(client, store, raw):
    store(lambda uow: uow.messages.add(a_message(1, raw=raw, answer=raw)))
    assert client.get("/messages/1").status_code == 200


def test_a_study_with_a_conflict_says_so_first(board, hospital):
    doubtful = replace(board, explain=lambda study: [replace(WHY[0], conflicts=("identity",))])
    text = signed_in(create_app(doubtful)).get(f"/studies/{STUDY}").text
    assert "Not all images fit the order" in text
    assert text.index("Not all images fit the order") < text.index("Deliveries</h2>")


@pytest.mark.parametrize("name", EventName)
def test_every_event_is_told_as_a_sentence_whatever_details_it_has(name):
    bare = TimelineEntry(NOW, name.value, "CT1", "delivery", 7)
    strange = replace(
        bare,
        details={"destination": None, "instances": "x", "due_at": "soon", "attempt": [1, True], "x": {}},
    )
    for entry in (bare, strange):
        (line,) = tell([entry], clock=str)
        assert re.match(r"(→ |[A-Z0-9])", line.sentence)
        assert "None" not in line.sentence
        assert line.link == "/deliveries/7"


def test_long_silence_between_two_lines_is_drawn():
    entries = [
        TimelineEntry(NOW + timedelta(minutes=minute), "order changed", "RIS", "order", 1)
        for minute in (0, 9, 50)
    ]
    silences = [line.silence for line in tell(entries, clock=str)]
    assert silences == [None, None, timedelta(minutes=41)]


def test_an_order_says_whose_it_is_and_what_it_lacks(client, hospital):
    text = client.get(f"/orders/{hospital['order']}").text
    assert "HAYDN1, JOSEPH" in text
    assert f'href="/studies/{STUDY}"' in text
    assert "No scanner sees it yet" not in text
    assert "Modality missing" in client.get("/orders/2").text
