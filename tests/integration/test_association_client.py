"""The client on a real socket: what it carries, and how it names what its peer does wrong."""

import contextlib
import os
import socket
import threading

import pytest

from broker.dicom.network import pdu
from broker.dicom.network.client import Proposal, Timeouts, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationLost,
    ConnectFailed,
    ContextNotAccepted,
    Phase,
    TimedOut,
)
from broker.dicom.network.service import CloseReason
from tests.dicom_conversation import CT_IMAGE, EXPLICIT, IMPLICIT, VERIFICATION, Shelf, message, storage_offer
from tests.integration.association_listener import CT, ECHO, calling, connected, listening, wait_until
from tests.ports import free_port


def test_a_context_that_was_not_accepted_says_why():
    with listening() as server, connected(server, [*ECHO, Proposal("1.2.3", (IMPLICIT,))]) as association:
        with pytest.raises(ContextNotAccepted) as refused:
            association.context_for("1.2.3")
        assert refused.value.result == pdu.ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
        with pytest.raises(ContextNotAccepted) as never:
            association.context_for("1.2.4")
        assert never.value.result is None
        assert association.echo() == 0


@pytest.mark.parametrize("size", [0, 1, 131066, 131067, 524264, 524265, 3_000_001])
def test_files_of_every_size_arrive_whole(tmp_path, size):
    shelf = Shelf()
    image = os.urandom(size)
    path = tmp_path / "image"
    path.write_bytes(b"meta" + image + b"tail")
    with listening(storage_offer(shelf)) as server, connected(server, CT) as association:
        with path.open("rb", buffering=0) as file:
            file.seek(4)
            reply = association.store(
                sop_class_uid=CT_IMAGE, sop_instance_uid="1.2.3", context=EXPLICIT, payload=file, length=size
            )
        assert reply.status == 0
    assert shelf.images == {"1.2.3": image}


def test_an_event_report_that_comes_meanwhile_is_answered():
    reported = []
    event_report = Command(
        field=CommandField.N_EVENT_REPORT_RQ,
        message_id=9,
        affected_sop_class_uid=VERIFICATION,
        affected_sop_instance_uid="1.2",
        event_type_id=2,
        has_data_set=True,
    )
    answers = message(event_report, b"news") + message(
        Command(field=CommandField.C_ECHO_RSP, message_id_being_responded_to=1, status=0)
    )
    with (
        scripted_peer(accept_echo, answers) as (port, heard),
        calling(
            port,
            ECHO,
            on_event_report=lambda command, data: reported.append((command.event_type_id, data)) or 0,
        ) as association,
    ):
        assert association.echo() == 0
    assert reported == [(2, b"news")]
    assert any(reply.field is CommandField.N_EVENT_REPORT_RSP and reply.status == 0 for reply in heard)


accept_echo = pdu.encode_associate_accept(
    pdu.AssociateAccept(
        called_ae_title="PEER",
        calling_ae_title="BROKER",
        contexts=(pdu.AnsweredContext(1, 0, IMPLICIT),),
        max_pdu_bytes=16384,
    )
)


@contextlib.contextmanager
def scripted_peer(*words, close=False):
    """Listen once: answer the request with the first words and the first message with the others."""
    from broker.dicom.network.dimse import CommandCollector
    from broker.dicom.network.states import Role
    from broker.dicom.network.upper_layer import (
        AssociationRequested,
        DataReceived,
        ReleaseRequested,
        UpperLayer,
    )

    listener = socket.create_server(("127.0.0.1", 0))
    heard = []

    def serve():
        with contextlib.suppress(OSError):  # a caller that gave up may have closed even the listener
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(10)
                talk(sock)

    def talk(sock):
        upper, collector, left = UpperLayer(Role.ACCEPTOR), CommandCollector(), list(words)
        while True:
            event = upper.next_event()
            if event is None:
                count = sock.recv_into(upper.receive_space())
                if not count:
                    return
                upper.received(count)
            elif isinstance(event, AssociationRequested):
                upper.accept(b"")
                if left:
                    sock.sendall(left.pop(0))
                if close and not left:
                    return
            elif isinstance(event, DataReceived):
                if event.is_command and (whole := collector.feed(event)):
                    heard.append(whole[1])
                if left:
                    sock.sendall(left.pop(0))
            elif isinstance(event, ReleaseRequested):
                sock.sendall(upper.confirm_release())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.close()
        thread.join(10)


def test_a_refused_connection_and_an_unknown_host_name_their_phase():
    with pytest.raises(ConnectFailed) as refused:
        calling(free_port(), ECHO)
    assert refused.value.phase is Phase.CONNECT
    with pytest.raises(ConnectFailed) as unknown:
        open_association("no such host", 104, calling_ae_title="A", called_ae_title="B", contexts=ECHO)
    assert unknown.value.phase is Phase.RESOLVE


def test_a_peer_that_is_silent_after_connecting_times_out_in_association():
    with scripted_peer() as (port, _), pytest.raises(TimedOut) as late:
        calling(port, ECHO, timeouts=Timeouts(association_s=0.1))
    assert late.value.phase is Phase.ASSOCIATE


def test_a_peer_that_never_answers_a_request_times_out_in_answer():
    with scripted_peer(accept_echo) as (port, _):
        association = calling(port, ECHO, timeouts=Timeouts(response_s=0.1))
        with pytest.raises(TimedOut) as late:
            association.echo()
        assert late.value.phase is Phase.ANSWER
        assert not association.is_open
        with pytest.raises(AssociationLost):
            association.echo()


def test_a_peer_that_aborts_or_leaves_is_told_apart():
    with (
        scripted_peer(accept_echo, pdu.encode_abort(2, 6)) as (port, _),
        pytest.raises(AssociationAborted) as aborted,
    ):
        calling(port, ECHO).echo()
    assert (aborted.value.source, aborted.value.reason, aborted.value.phase) == (2, 6, Phase.ANSWER)
    with scripted_peer(accept_echo, close=True) as (port, _), pytest.raises(AssociationLost):
        calling(port, ECHO).echo()


def test_a_peer_that_talks_nonsense_is_aborted():
    with (
        scripted_peer(accept_echo, b"HTTP/1.1 400 Bad Request") as (port, _),
        pytest.raises(AssociationAborted) as aborted,
    ):
        calling(port, ECHO).echo()
    assert aborted.value.reason == pdu.AbortReason.UNRECOGNIZED_PDU


def test_leaving_with_an_error_aborts():
    with listening() as server:
        with pytest.raises(RuntimeError, match="ours"), connected(server):
            raise RuntimeError("ours")
        wait_until(lambda: server.diary.reasons == [CloseReason.PEER_ABORTED])
