"""Whole associations as transcripts: what a peer says, what the broker answers. No socket, no thread."""

import struct

import pytest
from structlog.testing import capture_logs

from broker.dicom.network import pdu
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import Offers, any_storage
from broker.dicom.network.pdu import AbortReason, Roles
from broker.dicom.network.service import CloseReason, Response, ServiceError
from broker.dicom.network.verification import verification_offer
from broker.errors import OutOfResources
from tests.dicom_conversation import (
    ABORT,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    MPPS,
    RELEASE,
    SILENCE,
    VERIFICATION,
    WORKLIST,
    Answering,
    AnyPlace,
    ScriptedChannel,
    Shelf,
    cancel,
    converse,
    echo,
    find,
    message,
    offer,
    request,
    storage_offer,
    store,
)

ECHO = [verification_offer()]
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


# ── requests a service never sees ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (store(""), 0x0117),
        (store("../../x"), 0x0117),
        (store("/etc/cron.d/x"), 0x0117),
        (store("1.2\n3"), 0x0117),
        (store("<script>"), 0x0117),
        (store("1" * 65), 0x0117),
        (store("1.2.3", sop_class="1.2.840.10008.5.1.4.1.1.4"), 0x0122),
        (Command(field=CommandField.N_DELETE_RQ, message_id=1, requested_sop_class_uid=CT_IMAGE), 0x0211),
        (find(), 0x0211),
    ],
)
def test_a_request_no_service_should_see_is_answered_and_the_association_goes_on(command, status):
    # W18, W19: answered, never ignored; the data set is drained
    shelf = Shelf()
    data = b"data" if command.has_data_set else None
    talk = converse(
        request(CT_IMAGE),
        message(command, data),
        message(store("1.2.9"), b"x"),
        RELEASE,
        offers=[storage_offer(shelf)],
    )
    assert [reply.status for reply in talk.replies] == [status, 0]
    assert list(shelf.images) == ["1.2.9"]
    assert talk.close_reason is CloseReason.RELEASED


def test_a_refused_request_is_told_once_an_association_without_what_the_peer_said():
    hostile = [message(store(f"../../etc/{number}"), b"x") for number in range(50)]
    with capture_logs() as lines:
        talk = converse(
            request(CT_IMAGE), *hostile, message(find(), b"k"), RELEASE, offers=[storage_offer(Shelf())]
        )
    assert len(talk.replies) == 51
    assert [(line["event"], line["status"]) for line in lines] == [
        ("request refused", "0117"),
        ("request refused", "0211"),
    ]
    assert "etc" not in str(lines)


def test_an_instance_uid_that_is_none_is_not_echoed():
    talk = converse(request(CT_IMAGE), message(store("../x"), b"x"), RELEASE, offers=[storage_offer(Shelf())])
    assert talk.replies[0].affected_sop_instance_uid is None


@pytest.mark.parametrize(
    ("operation", "abstract_syntax", "status"),
    [(CommandField.C_FIND_RQ, WORKLIST, 0xA700), (CommandField.N_SET_RQ, MPPS, 0x0213)],
)
def test_an_identifier_beyond_the_limit_is_refused_and_drained(operation, abstract_syntax, status):
    seen = []
    service = Answering(lambda _request, data, _cancelled: seen.append(data) or (Response(0),))
    command = Command(
        field=operation,
        message_id=1,
        affected_sop_class_uid=abstract_syntax,
        requested_sop_instance_uid="1.2",
        has_data_set=True,
    )
    talk = converse(
        request(abstract_syntax),
        message(command, bytes(5000)),
        message(command, bytes(1000)),
        RELEASE,
        offers=[offer(service, abstract_syntax=abstract_syntax, operation=operation, limit=4096)],
    )
    assert [reply.status for reply in talk.replies] == [status, 0]
    assert [len(data) for data in seen] == [1000]


def test_a_refused_data_set_that_does_not_end_is_aborted():
    # W7
    endless = message(store(""), None) + (pdu.data_header(1, 0, 4096) + bytes(4096)) * 20
    limits = ServerLimits(drained_bytes=64 * 1024)
    talk = converse(request(CT_IMAGE), endless, SILENCE, offers=[storage_offer(Shelf())], limits=limits)
    assert talk.close_reason is CloseReason.VIOLATION


# ── services that fail ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", ["begin", "write", "finish"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("DOE^JANE was here"), 0x0110),
        (OutOfResources("disk of DOE^JANE is full"), 0xA700),
        (ServiceError(Response(0xA900, error_comment="no")), 0xA900),
    ],
)
def test_what_a_service_raises_becomes_an_answer_without_its_text(place, error, status, capsys):
    shelf = Shelf(fail_in=place, refuse=error)
    talk = converse(
        request(CT_IMAGE), message(store("1.2.3"), b"data"), RELEASE, offers=[storage_offer(shelf)]
    )
    assert [reply.status for reply in talk.replies] == [status]
    assert talk.close_reason is CloseReason.RELEASED
    assert b"DOE^JANE" not in talk.sent
    assert "DOE^JANE" not in "".join(capsys.readouterr())
    assert shelf.abandoned == (["1.2.3"] if place == "write" else [])


def test_a_query_that_fails_midway_ends_with_a_failure_after_its_answers():
    def answers(*_):
        yield Response(0xFF00, b"one")
        raise RuntimeError("DOE^JANE")

    talk = converse(request(WORKLIST), message(find(), b"k"), RELEASE, offers=[offer(Answering(answers))])
    assert [reply.status for reply in talk.replies] == [0xFF00, 0xC103]


def test_nothing_is_sent_after_the_final_answer():
    def answers(*_):
        yield Response(0xA900)
        yield Response(0xFF00, b"late")

    talk = converse(request(WORKLIST), message(find(), b"k"), RELEASE, offers=[offer(Answering(answers))])
    assert [reply.status for reply in talk.replies] == [0xA900]


def test_a_service_without_an_answer_has_failed_unless_it_is_a_query():
    nothing = Answering(lambda *_: ())
    query = converse(request(WORKLIST), message(find(), b"k"), RELEASE, offers=[offer(nothing)])
    assert [reply.status for reply in query.replies] == [0]
    stored = converse(
        request(CT_IMAGE),
        message(store(), b"k"),
        RELEASE,
        offers=[offer(nothing, abstract_syntax=CT_IMAGE, operation=CommandField.C_STORE_RQ)],
    )
    assert [reply.status for reply in stored.replies] == [0x0110]


# ── cancel ──────────────────────────────────────────────────────────────────────────────────────────────


def counted(limit, produced):
    """Answer forever, in large pieces, and say how far it came."""

    def answers(*_):
        for number in range(limit):
            produced.append(number)
            yield Response(0xFF00, bytes(40_000))

    return Answering(answers)


def test_a_cancelled_query_stops_and_says_so():
    produced = []
    talk = converse(
        request(WORKLIST),
        message(find(5), b"k"),
        message(cancel(5)),
        RELEASE,
        offers=[offer(counted(10_000, produced))],
    )
    assert talk.replies[-1].status == 0xFE00
    assert talk.replies[-1].has_data_set is False
    assert len(produced) < 10
    assert talk.close_reason is CloseReason.RELEASED


def test_a_cancel_for_another_message_changes_nothing():
    produced = []
    talk = converse(
        request(WORKLIST), message(find(5), b"k"), message(cancel(6)), offers=[offer(counted(20, produced))]
    )
    assert talk.replies[-1].status == 0
    assert len(produced) == 20


def test_a_cancel_that_comes_too_late_is_ignored():
    talk = converse(request(), message(echo(1)), message(cancel(1)), message(echo(2)), RELEASE, offers=ECHO)
    assert [reply.status for reply in talk.replies] == [0, 0]


def test_a_service_can_ask_whether_it_is_cancelled():
    asked = []

    def answers(_request, _data, cancelled):
        asked.append(cancelled())
        yield Response(0xFF00, b"one")

    converse(
        request(WORKLIST),
        message(find(5), b"k"),
        message(cancel(5)),
        RELEASE,
        offers=[offer(Answering(answers))],
    )
    assert asked == [True]


def test_a_query_whose_peer_aborts_stops():
    produced = []
    talk = converse(
        request(WORKLIST), message(find(), b"k"), ABORT, offers=[offer(counted(10_000, produced))]
    )
    assert talk.close_reason is CloseReason.PEER_ABORTED
    assert len(produced) < 10


def test_requests_sent_ahead_wait_unread_and_are_served_in_order():
    # W9: at most one more message is looked at while one is served
    shelf = Shelf()
    images = [message(store(f"1.2.{n}", message_id=n), bytes(1000), context_id=3) for n in range(50)]
    channel = ScriptedChannel([request(WORKLIST, CT_IMAGE), message(find(), b"k"), *images, RELEASE])
    unread_while_serving = []

    def answers(_request, data, cancelled):
        cancelled()
        unread_while_serving.append(sum(chunk in images for chunk in channel.script))
        yield Response(0xFF00, data)

    talk = converse(channel=channel, offers=[offer(Answering(answers)), storage_offer(shelf)])
    assert unread_while_serving == [49]
    assert [reply.message_id_being_responded_to for reply in talk.replies] == [1, 1, *range(50)]
    assert len(shelf.images) == 50
    assert talk.close_reason is CloseReason.RELEASED
