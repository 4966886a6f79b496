"""Hostile, broken and silent peers as transcripts: what the broker takes before it aborts."""

import struct

import pytest

from broker.dicom.network import pdu
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.pdu import AbortReason
from broker.dicom.network.service import CloseReason
from tests.dicom_conversation import (
    ABORT,
    CT_IMAGE,
    ECHO,
    RELEASE,
    SILENCE,
    AnyPlace,
    Shelf,
    converse,
    echo,
    message,
    request,
    storage_offer,
    store,
)

# ── hostile first words ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a browser"),
        pytest.param(bytes.fromhex("16030100c8010000c40303"), id="a TLS hello"),
        pytest.param(b"\xff\0\0\0\0\x04abcdef", id="an unknown PDU type"),
        pytest.param(message(echo()), id="data before an association"),
        pytest.param(RELEASE, id="a release before an association"),
        pytest.param(b"\x01\x00\xff\xff\xff\xff", id="a request of 4 GiB"),
        pytest.param(struct.pack(">BxI", 1, 256 * 1024 + 1), id="a request longer than the limit"),
        pytest.param(b"\x05\0\0\0\0\x08", id="a release of eight bytes"),
        pytest.param(struct.pack(">BxI", 1, 10) + bytes(10), id="a request without its fixed fields"),
    ],
)
def test_hostile_first_words_are_aborted_at_once(first):
    # W6, W14, W16: from the first bytes, without waiting for more; SILENCE would be noticed as too late
    talk = converse(first, SILENCE, offers=ECHO)
    assert talk.pdus == ["ABORT"]
    assert talk.unread == [SILENCE]
    assert talk.diary.opened_peers == []
    assert len(talk.diary.knocks) == 1


@pytest.mark.parametrize("first", [b"", b"\x01\x00\x00", request()[:-1]])
def test_who_says_nothing_or_half_of_it_is_let_go_at_the_deadline(first):
    # W2: the deadline is of the whole request, and nothing is answered
    talk = converse(*([first] if first else []), SILENCE, request(), offers=ECHO)
    assert talk.pdus == []
    assert talk.diary.knocks[0].reason == "no association was requested in time"


# ── hostile later words ─────────────────────────────────────────────────────────────────────────────────


PDV_TOO_LONG = struct.pack(">BxI", 4, 10) + struct.pack(">IBB", 100, 1, 3) + bytes(4)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(request(), id="a second association request"),
        pytest.param(pdu.encode_reject(pdu.NO_REASON_GIVEN), id="a rejection"),
        pytest.param(pdu.RELEASE_RP, id="a release reply nobody asked for"),
        pytest.param(struct.pack(">BxI", 4, 0), id="P-DATA without anything"),
        pytest.param(struct.pack(">BxI", 4, 1024 * 1024 + 1), id="P-DATA longer than the limit"),
        pytest.param(b"\x04\x00\xff\xff\xff\xff", id="P-DATA of 4 GiB"),
        pytest.param(struct.pack(">BxI", 4, 3) + bytes(3), id="P-DATA shorter than a PDV header"),
        pytest.param(struct.pack(">BxIIBB", 4, 6, 0, 1, 3), id="a PDV of length 0"),
        pytest.param(struct.pack(">BxIIBB", 4, 6, 1, 1, 3), id="a PDV of length 1"),
        pytest.param(struct.pack(">BxIIBB", 4, 6, 2, 1, 1), id="a PDV that carries nothing"),
        pytest.param(PDV_TOO_LONG, id="a PDV longer than its PDU"),
        pytest.param(pdu.data_header(1, 2, 4) + bytes(4), id="a data set before a command"),
        pytest.param(pdu.data_header(1, 3, 8) + b"\xff" * 8, id="a garbage command"),
        pytest.param(pdu.data_header(1, 3, 0), id="an empty command"),
        pytest.param(message(echo(), context_id=3), id="a context that was not accepted"),
        pytest.param(message(Command(field=CommandField.C_ECHO_RSP, status=0)), id="a response"),
        pytest.param(message(echo(None)), id="a request without a message id"),
        pytest.param(b"\x99", id="an unknown PDU type"),
    ],
)
def test_hostile_words_in_an_association_are_aborted_at_once(words):
    # W6, W15, W16, W17
    talk = converse(request(), words, SILENCE, offers=ECHO)
    assert talk.pdus == ["ASSOCIATE_AC", "ABORT"]
    assert talk.abort[0] == 2
    assert talk.close_reason is CloseReason.VIOLATION
    assert talk.unread == [SILENCE]


def test_a_command_that_does_not_end_is_aborted_at_its_limit():
    # W8
    endless = [pdu.data_header(1, 1, 8192) + bytes(8192)] * 9
    talk = converse(request(), *endless, SILENCE, offers=ECHO)
    assert talk.abort == (2, AbortReason.INVALID_PARAMETER)


def test_a_data_set_interrupted_by_a_command_is_aborted_and_its_file_given_up():
    shelf = Shelf()
    half = message(store("1.2.3"), None) + pdu.data_header(1, 0, 3) + b"abc"
    talk = converse(request(CT_IMAGE), half, message(store("1.2.4"), b"x"), offers=[storage_offer(shelf)])
    assert talk.close_reason is CloseReason.VIOLATION
    assert shelf.images == {}
    assert shelf.abandoned == ["1.2.3"]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ([ABORT], CloseReason.PEER_ABORTED),
        ([], CloseReason.CONNECTION_LOST),
        ([SILENCE], CloseReason.TOO_SLOW),
        ([RELEASE], CloseReason.RELEASED),
    ],
)
def test_half_an_image_is_given_up_when_the_association_ends(ending, reason):
    # W7, W25
    shelf = Shelf()
    half = message(store("1.2.3"), None) + pdu.data_header(1, 0, 3) + b"abc"
    talk = converse(request(CT_IMAGE), half, *ending, offers=[storage_offer(shelf)])
    assert talk.close_reason is reason
    assert shelf.images == {}
    assert shelf.abandoned == ["1.2.3"]


def test_an_idle_association_is_aborted_and_the_offer_says_when():
    talk = converse(
        request(CT_IMAGE), SILENCE, SILENCE, offers=[storage_offer(Shelf(), idle_timeout_s=900.0)]
    )
    assert talk.close_reason is CloseReason.IDLE
    assert talk.abort == (2, 0)
    assert sum(talk.patience[1:]) == pytest.approx(900.0)


def test_a_stopping_listener_aborts_what_is_idle():
    talk = converse(request(), message(echo()), offers=ECHO, place=AnyPlace(stopping=True))
    assert talk.pdus == ["ASSOCIATE_AC", "ABORT"]
    assert talk.close_reason is CloseReason.STOPPED
