"""Lists of messages in and out, on both databases: filtered, turned by cursor, along indexes."""

from datetime import timedelta

import pytest

from broker.db.schema import METADATA
from broker.domain.delivery import DeliveryState
from broker.errors import NotFound
from broker.workflow.message_reports import MessageFilter
from broker.workflow.messages_port import MessageOutcome
from tests.builders import NOW, a_delivery, a_message, a_message_delivery
from tests.query_plans import plans_of

ANY = MessageFilter()


@pytest.fixture
def messages(store):
    """Nine messages of two senders, one an hour, the last refused."""

    def make(uow):
        return [
            uow.messages.add(
                a_message(
                    number,
                    received_at=NOW + timedelta(hours=number),
                    sending_application="RIS" if number % 2 else "HIS",
                    message_type="ORM^O01" if number % 3 else "ADT^A08",
                    outcome=MessageOutcome.REFUSED if number == 9 else MessageOutcome.ACCEPTED,
                )
            ).id
            for number in range(1, 10)
        ]

    return store(make)


def ids(lines):
    return [line.message_id for line in lines]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (ANY, [9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (MessageFilter(outcome="refused"), [9]),
        (MessageFilter(sender="HIS"), [8, 6, 4, 2]),
        (MessageFilter(message_type="ADT^A08"), [9, 6, 3]),
        (MessageFilter(control_id="M4"), [4]),
        (MessageFilter(since=NOW + timedelta(hours=3), until=NOW + timedelta(hours=5)), [4, 3]),
        (MessageFilter(sender="HIS", message_type="ADT^A08", outcome="accepted"), [6]),
        (MessageFilter(sender="nobody"), []),
    ],
)
def test_what_fits_is_listed_newest_first_and_turned_by_cursor(reports, messages, wanted, numbers):
    expected = [messages[number - 1] for number in numbers]
    assert ids(reports.messages_in(wanted)) == expected
    turned, before = [], None
    while page := reports.messages_in(wanted, before=before, limit=2):
        turned += ids(page)
        before = page[-1].message_id
    assert turned == expected


def test_messages_of_one_instant_are_each_listed_once(reports, store):
    keys = store(lambda uow: [uow.messages.add(a_message(n, received_at=NOW)).id for n in range(1, 8)])
    turned, before = [], None
    while page := reports.messages_in(ANY, before=before, limit=3):
        turned += ids(page)
        before = page[-1].message_id
    assert turned == sorted(keys, reverse=True)
    assert reports.messages_in(ANY, before=10**9) == []


def test_a_message_is_shown_whole_and_choices_are_offered(reports, messages):
    found = reports.message(messages[0])
    assert (found.line.message_control_id, found.raw[:3], found.attempts) == ("M1", b"MSH", 1)
    choices = reports.message_choices()
    assert (choices.senders, choices.types) == (["HIS", "RIS"], ["ADT^A08", "ORM^O01"])
    with pytest.raises(NotFound):
        reports.message(10**9)


def test_messages_out_are_deliveries_that_carry_their_own_bytes(reports, store):
    def make(uow):
        image = uow.deliveries.add(a_delivery(1), now=NOW)
        return image, [uow.deliveries.add(a_message_delivery(f"k{n}"), now=NOW) for n in range(5)]

    image, sent = store(make)
    lines = reports.messages_out(ANY)
    assert [line.delivery for line in lines] == sent[::-1]
    older = reports.messages_out(ANY, before=sent[2], limit=1)
    assert [line.delivery for line in older] == [sent[1]]
    assert reports.messages_out(MessageFilter(outcome=DeliveryState.DEAD.value)) == []
    assert reports.messages_out(MessageFilter(sender="archive")) == []
    line, payload = reports.sent_message(sent[0])
    assert (line.destination, payload[:3]) == (lines[0].destination, b"MSH")
    for stranger in (image, 10**9):
        with pytest.raises(NotFound):
            reports.sent_message(stranger)


def test_lists_walk_along_indexes(engine, reports, store, messages):
    store(lambda uow: uow.deliveries.add(a_message_delivery("k"), now=NOW))

    def look():
        for wanted in (ANY, MessageFilter(sender="HIS"), MessageFilter(message_type="x")):
            reports.messages_in(wanted, before=messages[-1])
            reports.messages_in(wanted)
        reports.messages_out(ANY)
        reports.message_choices()

    plans = plans_of(engine, look)
    assert plans
    assert not [p for p in plans if "Seq Scan" in p], plans
    whole = [
        p for p in plans if p.startswith("SCAN") and p.split()[1] in METADATA.tables and "USING" not in p
    ]
    assert not whole, plans
    assert not [p for p in plans if "TEMP B-TREE" in p], plans
