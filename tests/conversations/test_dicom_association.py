"""Whole associations as transcripts: what a peer says, what the broker answers. No socket, no thread."""

import struct

import pytest

from broker.dicom.network import pdu
from broker.dicom.network.dimse import CommandField
from broker.dicom.network.negotiation import Offers, any_storage
from broker.dicom.network.pdu import Roles
from broker.dicom.network.service import CloseReason, Response
from broker.dicom.network.verification import verification_offer
from tests.dicom_conversation import (
    CT_IMAGE,
    ECHO,
    EXPLICIT,
    IMPLICIT,
    MPPS,
    RELEASE,
    VERIFICATION,
    WORKLIST,
    Answering,
    AnyPlace,
    Shelf,
    converse,
    echo,
    find,
    message,
    offer,
    request,
    storage_offer,
    store,
)

JPEG = "1.2.840.10008.1.2.4.70"


# ── the good life ───────────────────────────────────────────────────────────────────────────────────────


def test_echo_and_release():
    talk = converse(request(), message(echo(7)), RELEASE, offers=ECHO)
    assert talk.pdus == ["ASSOCIATE_AC", "command", "RELEASE_RP"]
    (reply,) = talk.replies
    assert (reply.field, reply.status, reply.message_id_being_responded_to) == (CommandField.C_ECHO_RSP, 0, 7)
    assert talk.close_reason is CloseReason.RELEASED
    assert talk.diary.requests == [(CommandField.C_ECHO_RQ, 0, 0)]
    (peer,) = talk.diary.opened_peers
    assert (peer.calling_ae_title, peer.called_ae_title, peer.address) == ("CT1", "BROKER", "192.0.2.7")


def test_a_whole_association_arriving_byte_by_byte_is_understood():
    everything = request() + message(echo()) + RELEASE
    talk = converse(*(everything[at : at + 1] for at in range(len(everything))), offers=ECHO)
    assert talk.pdus == ["ASSOCIATE_AC", "command", "RELEASE_RP"]


def test_a_whole_association_arriving_at_once_is_understood():
    talk = converse(request() + message(echo(1)) + message(echo(2)) + RELEASE, offers=ECHO)
    assert talk.pdus == ["ASSOCIATE_AC", "command", "command", "RELEASE_RP"]


@pytest.mark.parametrize("payload_bytes", [1, 7, 4096, 100_000, 1_000_000])
def test_an_image_streams_through_in_pieces_and_arrives_whole(payload_bytes):
    shelf = Shelf()
    image = bytes(range(256)) * (8 if payload_bytes < 100 else 4096)
    talk = converse(
        request(CT_IMAGE),
        message(store("1.2.3"), image, payload_bytes=payload_bytes),
        RELEASE,
        offers=[storage_offer(shelf)],
    )
    assert talk.replies[0].status == 0
    assert talk.replies[0].affected_sop_instance_uid == "1.2.3"
    assert shelf.images == {"1.2.3": image}
    assert shelf.largest_piece <= 256 * 1024
    assert shelf.abandoned == []


def test_several_pdvs_in_one_pdu_are_understood():
    shelf = Shelf()
    command = message(store("1.2.3"), None)[6:]
    first, second = pdu.data_header(1, 0, 3)[6:] + b"abc", pdu.data_header(1, 2, 3)[6:] + b"def"
    body = command + first + second
    together = struct.pack(">BxI", 4, len(body)) + body
    talk = converse(request(CT_IMAGE), together, RELEASE, offers=[storage_offer(shelf)])
    assert shelf.images == {"1.2.3": b"abcdef"}
    assert talk.close_reason is CloseReason.RELEASED


def test_the_last_fragment_of_a_data_set_may_be_empty():
    shelf = Shelf()
    pieces = message(store("1.2.3"), None) + pdu.data_header(1, 0, 3) + b"abc" + pdu.data_header(1, 2, 0)
    converse(request(CT_IMAGE), pieces, RELEASE, offers=[storage_offer(shelf)])
    assert shelf.images == {"1.2.3": b"abc"}


def test_pending_answers_go_out_together_and_end_with_success():
    answers = Answering(lambda *_: (Response(0xFF00, b"%02d" % n) for n in range(20)))
    talk = converse(request(WORKLIST), message(find(), b"keys"), RELEASE, offers=[offer(answers)])
    assert [reply.status for reply in talk.replies] == [0xFF00] * 20 + [0]
    assert talk.data_sets == [b"%02d" % n for n in range(20)]
    assert talk.sends == 3  # accept, all answers, release


def test_answers_are_cut_to_the_pdu_size_of_the_peer():
    answers = Answering(lambda *_: (Response(0xFF00, bytes(10_000)),))
    talk = converse(
        request(WORKLIST, max_pdu_bytes=4096), message(find(), b"k"), RELEASE, offers=[offer(answers)]
    )
    assert all(len(body) <= 4096 for body in (b for k, b in talk._split() if k in ("data", "command")))
    assert b"".join(talk.data_sets) == bytes(10_000)


# ── negotiation ─────────────────────────────────────────────────────────────────────────────────────────


def test_each_context_gets_its_own_answer():
    talk = converse(
        request(
            VERIFICATION, "1.2.3.4", (WORKLIST, ("1.2.840.10008.1.2.4.50",)), (WORKLIST, (IMPLICIT, EXPLICIT))
        ),
        RELEASE,
        offers=[verification_offer(), offer(Answering(lambda *_: ()))],
    )
    answers = [(c.id, c.result) for c in talk.accept.contexts]
    assert answers == [(1, 0), (3, 3), (5, 4), (7, 0)]
    assert talk.accept.contexts[3].transfer_syntax == EXPLICIT
    assert talk.accept.max_pdu_bytes == 128 * 1024


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ((IMPLICIT, EXPLICIT), EXPLICIT),
        ((JPEG, IMPLICIT, EXPLICIT), EXPLICIT),
        ((JPEG, IMPLICIT), IMPLICIT),
        ((JPEG, "1.2.840.10008.1.2.4.90"), JPEG),
        (("not a uid", "1.2.999.1"), "1.2.999.1"),
    ],
)
def test_storage_takes_any_transfer_syntax_and_prefers_explicit(proposed, chosen):
    offers = Offers([], otherwise=any_storage(storage_offer(Shelf())))
    talk = converse(request((CT_IMAGE, proposed)), RELEASE, offers=offers)
    assert [(c.result, c.transfer_syntax) for c in talk.accept.contexts] == [(0, chosen)]


@pytest.mark.parametrize(
    ("abstract_syntax", "accept_unknown", "accepted"),
    [
        ("1.2.840.10008.5.1.4.1.1.999", False, True),
        ("1.2.840.10008.5.1.4.34.7", False, True),
        ("1.3.12.2.1107.5.9.1", False, False),
        ("1.3.12.2.1107.5.9.1", True, True),
        ("1.2.840.10008.5.1.4.1.2.1.1", True, False),
        ("1.3.12.2/../..", True, False),
    ],
)
def test_any_storage_class_is_taken_and_private_ones_when_wished(abstract_syntax, accept_unknown, accepted):
    offers = Offers([], otherwise=any_storage(storage_offer(Shelf()), accept_unknown=accept_unknown))
    talk = converse(request(abstract_syntax), RELEASE, offers=offers)
    assert (talk.accept.contexts[0].result == 0) is accepted


def test_roles_are_only_granted_where_the_offer_allows():
    asked = {MPPS: Roles(scu=True, scp=True), WORKLIST: Roles(scu=True, scp=True)}
    offers = [
        offer(Answering(lambda *_: ())),
        offer(Answering(lambda *_: ()), abstract_syntax=MPPS, requestor_may_be_scp=True),
    ]
    talk = converse(request(MPPS, WORKLIST, roles=asked), RELEASE, offers=offers)
    assert talk.accept.roles == {MPPS: Roles(scu=True, scp=True), WORKLIST: Roles(scu=True, scp=False)}


def test_extended_negotiation_and_the_window_are_answered_when_asked():
    offers = [offer(Answering(lambda *_: ()), extended_negotiation=lambda asked: asked[:2] + b"\x00")]
    asked = {WORKLIST: b"\x01\x01\x01"}
    talk = converse(
        request(WORKLIST, asynchronous_operations=(0, 0), extended_negotiation=asked), RELEASE, offers=offers
    )
    assert talk.accept.extended_negotiation == {WORKLIST: b"\x01\x01\x00"}
    assert talk.accept.asynchronous_operations == (1, 1)
    silent = converse(request(WORKLIST), RELEASE, offers=offers)
    assert silent.accept.extended_negotiation == {}
    assert silent.accept.asynchronous_operations is None


@pytest.mark.parametrize(
    ("raw", "rejection"),
    [
        (request(called="OTHER"), (1, 1, 7)),
        (request(calling=""), (1, 1, 3)),
        (request(calling="A\\B"), (1, 1, 3)),
        (request(calling="A\nB"), (1, 1, 3)),
        (request(called=""), (1, 1, 7)),
        (request(application_context="1.2.3"), (1, 1, 2)),
        (request(protocol_version=2), (1, 2, 2)),
        (request(max_pdu_bytes=7), (1, 1, 1)),
        (request(max_pdu_bytes=4095), (1, 1, 1)),
    ],
)
def test_who_does_not_fit_is_rejected_with_the_reason(raw, rejection):
    # W20, W24
    talk = converse(raw, offers=ECHO)
    assert talk.pdus == ["ASSOCIATE_RJ"]
    assert talk.rejection == rejection
    assert talk.diary.opened_peers == []
    (knock,) = talk.diary.knocks
    assert (knock.rejection.result, knock.rejection.source, knock.rejection.reason) == rejection
    assert (knock.calling_ae_title or "").isprintable()


def test_a_full_listener_asks_to_come_back_later():
    assert converse(request(), offers=ECHO, place=AnyPlace(room=False)).rejection == (2, 3, 2)


@pytest.mark.parametrize("size", [0, 4096, 2**32 - 1])
def test_a_peer_may_set_no_maximum_or_a_large_one(size):
    talk = converse(request(max_pdu_bytes=size), message(echo()), RELEASE, offers=ECHO)
    assert talk.pdus == ["ASSOCIATE_AC", "command", "RELEASE_RP"]
