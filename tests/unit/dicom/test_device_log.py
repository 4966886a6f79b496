"""What a listener remembers of devices: off the path that answers, bounded, and not lost while a database is away."""

import ipaddress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from broker.dicom.admission import DevicePolicy, UnknownDevices
from broker.dicom.device_log import DeviceLog
from broker.dicom.guests import Guests
from broker.dicom.network import pdu
from broker.dicom.network.dimse import CommandField
from broker.dicom.network.service import CloseReason, Knock, Peer
from broker.domain.knocks import KnockReason
from broker.errors import DatabaseUnavailable
from broker.lookout import Lookout
from broker.workflow.devices_port import MANY, Admission
from broker.workflow.standing_orders import StandingOrders

NOW = datetime(2026, 11, 21, 14, 2, 11, tzinfo=UTC)
CT1 = Peer("a-1", "CT1", "BROKER", "10.1.4.1", None, "1.2.3", "SCANNER_1", 16384)


class Book:
    """Takes what is written, unless the database is away."""

    def __init__(self):
        self.signs, self.talks, self.knocks, self.events, self.is_away = [], [], [], [], False
        self.devices = self

    def __call__(self):
        if self.is_away:
            raise DatabaseUnavailable("away")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def note_signs(self, signs, *, listed):
        self.signs += signs

    def note_conversations(self, conversations):
        self.talks += conversations

    def note_knocks(self, knocks):
        self.knocks += knocks
        return knocks

    def record(self, event):
        self.events.append(event)

    def commit(self):
        return None


@pytest.fixture
def book():
    return Book()


@pytest.fixture
def remembers(book):
    return DeviceLog(book, lambda: NOW, own_titles=frozenset({"BROKER"}), listed=frozenset({"CT1"}))


def asked(field, peer=CT1):
    return SimpleNamespace(peer=peer, command=SimpleNamespace(field=field))


def serve(log, field, status=0, peer=CT1):
    log.served(asked(field, peer), status, seconds=0.1, data_set_bytes=0)


def knock(title="LOANER", rejection=pdu.CALLING_AE_TITLE_NOT_RECOGNIZED, reason="", address="10.1.4.17"):
    return Knock(address, title, "BROKER", None, rejection, reason)


def test_an_association_leaves_signs_and_one_conversation(remembers, book):
    remembers.opened(CT1)
    serve(remembers, CommandField.C_ECHO_RQ)
    remembers.answered("a-1", 3)
    serve(remembers, CommandField.C_FIND_RQ)
    serve(remembers, CommandField.C_STORE_RQ)
    serve(remembers, CommandField.C_STORE_RQ, 0xA700)
    remembers.flush()
    assert {(one.what, one.status, one.detail) for one in book.signs} == {
        ("echo", 0, ""),
        ("list", 0, "3 entries"),
        ("images", 0xA700, "2 images in one association"),
    }
    assert book.talks == []
    remembers.closed(CT1, CloseReason.RELEASED)
    remembers.flush()
    (talk,) = book.talks
    assert (talk.served, talk.refused) == ({"echo": 1, "list": 1, "images": 2}, 1)
    assert (talk.implementation, talk.end) == ("SCANNER_1", "the peer released it")


def test_the_broker_that_asks_itself_is_no_device(remembers, book):
    own = CT1._replace(calling_ae_title="BROKER")
    remembers.opened(own)
    serve(remembers, CommandField.C_ECHO_RQ, peer=own)
    remembers.closed(own, CloseReason.RELEASED)
    remembers.refused(
        knock(None, None, "the connection was closed before an association was requested", "127.0.0.1")
    )
    remembers.flush()
    assert (book.signs, book.talks, book.knocks) == ([], [], [])


@pytest.mark.parametrize(
    ("title", "rejection", "reason", "why"),
    [
        ("LOANER", pdu.CALLING_AE_TITLE_NOT_RECOGNIZED, "", KnockReason.UNKNOWN_TITLE),
        ("CT1", pdu.CALLING_AE_TITLE_NOT_RECOGNIZED, "", KnockReason.ELSEWHERE),
        ("CT1", pdu.CALLED_AE_TITLE_NOT_RECOGNIZED, "", KnockReason.WRONG_CALLED),
        ("CT1", pdu.NO_REASON_GIVEN, "", KnockReason.NO_SERVICE),
        (None, pdu.LOCAL_LIMIT_EXCEEDED, "the address has too many connections", KnockReason.BUSY),
        (None, None, "the TLS handshake failed: WRONG_VERSION_NUMBER", KnockReason.TLS),
        (None, None, "no association was requested in time", KnockReason.SILENT),
        (None, None, "a PDU of an unknown type", KnockReason.NOT_DICOM),
    ],
)
def test_a_refusal_is_told_for_what_it_is(remembers, book, title, rejection, reason, why):
    remembers.refused(knock(title, rejection, reason))
    remembers.refused(knock(title, rejection, reason))
    remembers.flush()
    (row,) = book.knocks
    assert (row.key.reason, row.number) == (why, 2)
    (event,) = book.events
    assert event.details["wire"] == why.wire


def test_a_flood_of_titles_takes_no_memory(remembers, book):
    for number in range(2000):
        remembers.refused(knock(f"T{number}"))
    remembers.flush()
    assert len(book.knocks) == 501
    assert sum(row.number for row in book.knocks if row.key.ae_title == MANY) == 1500


def test_what_could_not_be_written_is_written_later(remembers, book):
    remembers.opened(CT1)
    serve(remembers, CommandField.C_ECHO_RQ)
    remembers.refused(knock())
    remembers.closed(CT1, CloseReason.RELEASED)
    book.is_away = True
    remembers.flush()
    remembers.refused(knock())
    book.is_away = False
    remembers.flush()
    assert [one.what for one in book.signs] == ["echo"]
    assert [one.association for one in book.talks] == ["a-1"]
    assert [one.number for one in book.knocks] == [2]


def loaner(until, address="10.1.4.17"):
    return Admission(1, "LOANER", address, NOW, until, "broken tube", "ruiz")


def test_a_guest_is_let_in_from_its_address_until_its_time_is_over():
    now = [NOW]
    guests = Guests(lambda: now[0])
    policy = DevicePolicy("BROKER", (), UnknownDevices.NEVER, guests=guests)
    refused = pdu.CALLING_AE_TITLE_NOT_RECOGNIZED
    assert policy.admit("LOANER", "BROKER", "10.1.4.17", None) == refused
    guests.follow([loaner(NOW + timedelta(hours=8))])
    assert policy.admit("LOANER", "BROKER", "10.1.4.17", None) is None
    assert policy.admit("LOANER", "BROKER", "10.1.4.18", None) == refused
    assert policy.admit("OTHER", "BROKER", "10.1.4.17", None) == refused
    now[0] += timedelta(hours=8)
    assert policy.admit("LOANER", "BROKER", "10.1.4.17", None) == refused


def test_while_the_database_is_away_the_last_list_stays_in_force():
    answers = [StandingOrders([loaner(NOW + timedelta(hours=8), "10.1.4.0/24")]), None]

    def read():
        answer = answers.pop(0)
        if answer is None:
            raise DatabaseUnavailable("away")
        return answer

    guests = Guests(lambda: NOW)
    lookout = Lookout(read, lambda orders: guests.follow(orders.admissions))
    lookout.look()
    lookout.look()
    assert answers == []
    assert guests.admits("LOANER", ipaddress.ip_address("10.1.4.9"))
