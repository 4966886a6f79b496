"""Requests as transcripts: refused before a service sees them, failed in one, cancelled, and sent ahead."""

import pytest
from structlog.testing import capture_logs

from broker.dicom.network import pdu
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.service import CloseReason, Response, ServiceError
from broker.errors import OutOfResources
from tests.dicom_conversation import (
    ABORT,
    CT_IMAGE,
    ECHO,
    MPPS,
    RELEASE,
    SILENCE,
    WORKLIST,
    Answering,
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
    told = [line for line in lines if line["event"] == "request refused"]
    assert [line["status"] for line in told] == ["0117", "0211"]
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
