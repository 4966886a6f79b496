"""The listener and the client on real sockets, with DCMTK and pynetdicom as peers in both directions."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from io import BytesIO

import psutil
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import Verification

from broker.dicom.network import pdu
from broker.dicom.network.client import ClientAssociation, Proposal, Timeouts, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    ConnectFailed,
    ContextNotAccepted,
    Phase,
    TimedOut,
)
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import Offers, any_storage
from broker.dicom.network.server import DicomServer
from broker.dicom.network.service import CloseReason, Response
from broker.dicom.network.tls import ClientTls, ServerTls, TlsFiles, TlsProfile
from broker.dicom.network.verification import verification_offer
from tests.dicom_conversation import (
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    RELEASE,
    VERIFICATION,
    WORKLIST,
    Answering,
    Diary,
    Shelf,
    echo,
    find,
    message,
    offer,
    request,
    storage_offer,
    store,
)

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ECHO = [Proposal(VERIFICATION, (IMPLICIT,))]
CT = [Proposal(CT_IMAGE, (EXPLICIT,))]


def peer(program):
    """Mark a test that needs a program of DCMTK."""
    missing = pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing")
    return lambda test: pytest.mark.peer(missing(test))


@contextlib.contextmanager
def listening(*offers, otherwise=None, limits=None, **more):
    diary = Diary()
    server = DicomServer(
        "127.0.0.1",
        0,
        offers=Offers([verification_offer(), *offers], otherwise=otherwise),
        limits=limits,
        observer=diary,
        **({"ae_title": "BROKER"} | more),
    )
    server.start()
    server.diary = diary
    try:
        yield server
    finally:
        server.stop(grace_s=2.0)


def connected(server, contexts=None, **more):
    return open_association(
        "127.0.0.1",
        server.port,
        calling_ae_title=more.pop("calling", "CT1"),
        called_ae_title=more.pop("called", "BROKER"),
        contexts=contexts or ECHO,
        **more,
    )


def knocking(server):
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.settimeout(10)
    return sock


def everything(sock):
    """Read until the peer closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def wait_until(condition, *, within_s=5.0):
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.005)


def run(*command, within_s=20):
    return subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)


# ── DCMTK and pynetdicom call us ────────────────────────────────────────────────────────────────────────


@peer("echoscu")
def test_echoscu_is_answered():
    with listening() as server:
        done = run("echoscu", "-aec", "BROKER", "127.0.0.1", str(server.port))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: server.diary.reasons == [CloseReason.RELEASED])


@peer("echoscu")
def test_echoscu_proposing_128_contexts_is_answered_and_a_wrong_name_is_rejected():
    with listening() as server:
        done = run("echoscu", "-aec", "BROKER", "-pts", "38", "-ppc", "128", "127.0.0.1", str(server.port))
        assert done.returncode == 0, done.stderr
        wrong = run("echoscu", "-aec", "OTHER", "127.0.0.1", str(server.port))
        assert "Called AE Title Not Recognized" in wrong.stderr


@peer("storescu")
@pytest.mark.parametrize(
    ("name", "option", "syntax"),
    [
        ("CT_small.dcm", "-xe", EXPLICIT),
        ("JPEG2000.dcm", "-xw", "1.2.840.10008.1.2.4.91"),
        ("MR_small_implicit.dcm", "-xi", IMPLICIT),
        ("MR_small_RLE.dcm", "-xr", "1.2.840.10008.1.2.5"),
    ],
)
def test_storescu_images_arrive_whole_in_the_transfer_syntax_they_have(name, option, syntax):
    shelf = Shelf()
    path = get_testdata_file(name)
    with listening(otherwise=any_storage(storage_offer(shelf))) as server:
        done = run("storescu", option, "-aec", "BROKER", "127.0.0.1", str(server.port), path)
        assert done.returncode == 0, done.stderr
    (data_set,) = shelf.images.values()
    received = decode(BytesIO(data_set), syntax == IMPLICIT, True)
    sent = dcmread(path)
    assert sent.file_meta.TransferSyntaxUID == syntax
    assert received.SOPInstanceUID == sent.SOPInstanceUID
    assert received.PixelData == sent.PixelData


@peer("findscu")
def test_findscu_sees_every_answer(tmp_path):
    def answers(request_, data, _cancelled):
        implicit = request_.context.transfer_syntax == IMPLICIT
        assert data
        for number in range(40):
            value = b"ACC%03d" % number
            head = b"\x08\x00\x50\x00" + (b"\x06\0\0\0" if implicit else b"SH\x06\x00")
            yield Response(0xFF00, head + value)

    with listening(offer(Answering(answers))) as server:
        done = run("findscu", "-W", "-aec", "BROKER", "-k", "0008,0050", "127.0.0.1", str(server.port))
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("ACC") == 40


@peer("findscu")
def test_findscu_cancels():
    produced = []

    def answers(_request, _data, cancelled):
        pause = threading.Event()
        for number in range(2000):
            produced.append(number)
            yield Response(0xFF00, b"\x08\x00\x50\x00SH\x02\x0012")
            if number > 20:
                pause.wait(0.002)
            if cancelled():
                return

    with listening(offer(Answering(answers))) as server:
        done = run(
            "findscu",
            "-v",
            "-W",
            "--cancel",
            "5",
            "-aec",
            "BROKER",
            "-k",
            "0008,0050",
            "127.0.0.1",
            str(server.port),
        )
        assert "Cancel" in done.stderr, done.stderr
        wait_until(lambda: server.diary.reasons)
    assert server.diary.requests[0][1] == 0xFE00
    assert len(produced) < 2000


@pytest.mark.peer
def test_pynetdicom_echoes_and_stores():
    shelf = Shelf()
    with listening(otherwise=any_storage(storage_offer(shelf))) as server:
        ae = AE("PYNET")
        ae.add_requested_context(Verification)
        ae.add_requested_context(CT_IMAGE, [EXPLICIT])
        association = ae.associate("127.0.0.1", server.port, ae_title="BROKER")
        assert association.is_established
        assert association.send_c_echo().Status == 0
        assert association.send_c_store(get_testdata_file("CT_small.dcm")).Status == 0
        association.release()
        wait_until(lambda: server.diary.reasons == [CloseReason.RELEASED])
    assert len(shelf.images) == 1


# ── we call DCMTK and pynetdicom ────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def storescp(tmp_path, *options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["storescp", "-od", str(tmp_path), "-aet", "STORESCP", *options, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _listens(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def data_set_of(path):
    """Return the data set of a Part 10 file, without its meta information."""
    whole = open(path, "rb").read()  # noqa: SIM115, PTH123
    length = int.from_bytes(whole[140:144], "little")
    return whole[144 + length :]


@peer("storescp")
@pytest.mark.parametrize("max_pdu_bytes", ["4096", "131072"])
@pytest.mark.parametrize("wrap", [BytesIO, bytes])
def test_storescp_takes_our_images_byte_by_byte_the_same(tmp_path, max_pdu_bytes, wrap):
    path = get_testdata_file("MR_small.dcm")
    whole = data_set_of(path)
    with (
        storescp(tmp_path, "+B", "+xa", "--max-pdu", max_pdu_bytes) as port,
        open_association(
            "127.0.0.1",
            port,
            calling_ae_title="BROKER",
            called_ae_title="STORESCP",
            contexts=[Proposal(MR_IMAGE, (EXPLICIT,))],
        ) as association,
    ):
        reply = association.store(
            sop_class_uid=MR_IMAGE,
            sop_instance_uid=str(dcmread(path).SOPInstanceUID),
            context=EXPLICIT,
            payload=wrap(whole),
        )
    assert reply.status == 0
    (stored,) = tmp_path.iterdir()
    assert data_set_of(stored) == whole


@contextlib.contextmanager
def pynetdicom_listening(contexts, handlers=(), **settings_):
    ae = AE("PEER")
    for context, syntaxes in contexts:
        ae.add_supported_context(context, syntaxes)
    for name, value in settings_.items():
        setattr(ae, name, value)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def calling(port, contexts, **more):
    return open_association(
        "127.0.0.1", port, calling_ae_title="BROKER", called_ae_title="PEER", contexts=contexts, **more
    )


@pytest.mark.peer
def test_pynetdicom_answers_our_echo_and_our_find():
    def answer(_event):
        from pydicom.dataset import Dataset

        for number in range(3):
            found = Dataset()
            found.AccessionNumber = f"A{number}"
            yield 0xFF00, found

    contexts = [(VERIFICATION, [IMPLICIT]), (WORKLIST, [IMPLICIT])]
    with (
        pynetdicom_listening(contexts, [(evt.EVT_C_FIND, answer)]) as port,
        calling(port, [*ECHO, Proposal(WORKLIST, (IMPLICIT,))]) as association,
    ):
        assert association.echo() == 0
        command = Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=WORKLIST)
        replies = list(association.request(command, b"\x08\x00\x50\x00\0\0\0\0"))
    assert [reply.status for reply in replies] == [0xFF00, 0xFF00, 0xFF00, 0]
    assert [b"A%d" % n in replies[n].data_set for n in range(3)] == [True] * 3


@pytest.mark.peer
def test_pynetdicom_rejections_name_their_reason():
    with (
        pynetdicom_listening([(VERIFICATION, [IMPLICIT])], require_called_aet=True) as port,
        pytest.raises(AssociationRejected) as rejected,
    ):
        open_association(
            "127.0.0.1", port, calling_ae_title="BROKER", called_ae_title="NOBODY", contexts=ECHO
        )
    assert (rejected.value.result, rejected.value.source, rejected.value.reason) == (1, 1, 7)


# ── our client and our listener ─────────────────────────────────────────────────────────────────────────


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
        sock, _ = listener.accept()
        sock.settimeout(10)
        upper, collector, left = UpperLayer(Role.ACCEPTOR), CommandCollector(), list(words)
        with sock, contextlib.suppress(OSError):
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


QUICK = Timeouts(connect_s=1, association_s=0.1, response_s=0.1, send_s=0.2, release_s=0.1)


def test_a_refused_connection_and_an_unknown_host_name_their_phase():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed) as refused:
            calling(probe.getsockname()[1], ECHO)
    assert refused.value.phase is Phase.CONNECT
    with pytest.raises(ConnectFailed) as unknown:
        open_association("no such host", 104, calling_ae_title="A", called_ae_title="B", contexts=ECHO)
    assert unknown.value.phase is Phase.RESOLVE


def test_a_peer_that_is_silent_after_connecting_times_out_in_association():
    with scripted_peer() as (port, _), pytest.raises(TimedOut) as late:
        calling(port, ECHO, timeouts=QUICK)
    assert late.value.phase is Phase.ASSOCIATE


def test_a_peer_that_never_answers_a_request_times_out_in_answer():
    with scripted_peer(accept_echo) as (port, _):
        association = calling(port, ECHO, timeouts=QUICK)
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


# ── caps and deadlines ──────────────────────────────────────────────────────────────────────────────────


def test_silent_newcomers_do_not_keep_others_out():
    # W2, W3: they hold places for a moment, are displaced, and end at their deadline
    limits = ServerLimits(unassociated=4, displace_after_s=0.0, first_pdu_s=30.0)
    with listening(limits=limits) as server:
        attackers = [knocking(server) for _ in range(40)]
        for attacker in attackers:
            attacker.sendall(b"\x01\x00\x00")
        with connected(server) as association:
            assert association.echo() == 0
        for attacker in attackers:
            attacker.close()
        wait_until(lambda: server.active == 0)


def test_newcomers_beyond_the_cap_are_turned_away_at_once_with_a_reason():
    limits = ServerLimits(unassociated=2, displace_after_s=60.0)
    with listening(limits=limits) as server:
        held = [knocking(server) for _ in range(2)]
        wait_until(lambda: len(server._connections) == 2)
        with knocking(server) as third:
            assert everything(third) == pdu.encode_reject(pdu.LOCAL_LIMIT_EXCEEDED)
        for sock in held:
            sock.close()


def test_a_silent_newcomer_is_closed_at_its_deadline():
    # W2, W4: the deadline is of the whole request, not of each byte
    with listening(limits=ServerLimits(first_pdu_s=0.15)) as server, knocking(server) as sock:
        sock.sendall(request()[:-1])
        started = time.monotonic()
        assert everything(sock) == b""
        assert time.monotonic() - started < 2
        assert server.diary.knocks[0].reason == "no association was requested in time"


def test_associations_beyond_the_cap_are_rejected_and_places_come_free():
    with listening(limits=ServerLimits(associations=2)) as server:
        first, second = connected(server), connected(server)
        with pytest.raises(AssociationRejected) as rejected:
            connected(server)
        assert (rejected.value.result, rejected.value.source, rejected.value.reason) == (2, 3, 2)
        first.release()
        wait_until(lambda: server.active == 1)
        with connected(server) as third:
            assert third.echo() == 0
        second.abort()


class Strangers:
    """Admit everybody, and list nobody but those named."""

    def __init__(self, listed=()):
        self.known = listed

    def admit(self, *_):
        return None

    def listed(self, address):
        return address in self.known


@pytest.mark.parametrize(("listed", "let_in"), [((), 2), (("192.0.2.9",), 5)])
def test_one_unlisted_address_gets_only_its_share(listed, let_in, monkeypatch):
    monkeypatch.setattr("broker.dicom.network.server._plain_address", lambda _address: "192.0.2.9")
    limits = ServerLimits(connections_per_unlisted_address=2)
    with listening(limits=limits, policy=Strangers(listed)) as server:
        opened = []
        for _ in range(5):
            with contextlib.suppress(AssociationRejected, AssociationLost):
                opened.append(connected(server))
        assert len(opened) == let_in
        for association in opened:
            association.release()
        wait_until(lambda: not server._per_address)


def test_half_a_pdu_in_an_association_is_aborted_at_its_deadline():
    # W2
    with listening(limits=ServerLimits(pdu_s=0.1)) as server, knocking(server) as sock:
        sock.sendall(request() + b"\x04\x00\x00")
        assert everything(sock)[-10:] == pdu.encode_abort(2, 0)
        wait_until(lambda: server.diary.reasons == [CloseReason.TOO_SLOW])


def test_an_image_that_drips_is_aborted_though_every_pdu_is_whole():
    # W5: one byte a PDU, faster than the deadline of a PDU, slower than the least rate
    shelf = Shelf()
    limits = ServerLimits(pdu_s=0.3, min_bytes_per_s=8192)
    with listening(storage_offer(shelf), limits=limits) as server, knocking(server) as sock:
        sock.sendall(request(CT_IMAGE) + message(store(), None))
        pause = threading.Event()
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while not server.diary.reasons:
                assert time.monotonic() - started < 5
                sock.sendall(pdu.data_header(1, 0, 1) + b"x")
                pause.wait(0.05)
        assert server.diary.reasons == [CloseReason.TOO_SLOW]
    assert shelf.abandoned == ["1.2.3"]


def test_a_peer_that_never_reads_its_answers_is_let_go_and_the_query_stops():
    # W10
    produced = []

    def answers(*_):
        for number in range(100_000):
            produced.append(number)
            yield Response(0xFF00, bytes(60_000))

    limits = ServerLimits(send_s=0.3, linger_s=60)
    with listening(offer(Answering(answers)), limits=limits) as server, knocking(server) as sock:
        sock.sendall(request(WORKLIST) + message(find(), b"k"))
        wait_until(lambda: server.diary.reasons, within_s=10)
        assert server.diary.reasons == [CloseReason.TOO_SLOW]
        assert len(produced) < 2000
        wait_until(lambda: not server._connections)  # nobody waits for it to read our last word
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: sock.recv(65536), b""))


def test_an_idle_association_is_aborted():
    with listening(limits=ServerLimits(idle_s=0.1)) as server, knocking(server) as sock:
        sock.sendall(request())
        assert everything(sock)[-10:] == pdu.encode_abort(2, 0)
        wait_until(lambda: server.diary.reasons == [CloseReason.IDLE])


def test_a_browser_and_a_scanner_are_sent_away_at_once():
    # W14
    with listening() as server:
        for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x99" * 100_000, b"\x16\x03\x01\x02\x00"):
            with knocking(server) as sock, contextlib.suppress(OSError):
                started = time.monotonic()
                sock.sendall(words)
                assert everything(sock) in (pdu.encode_abort(0, 0), b"")
                assert time.monotonic() - started < 1


def test_resets_leave_nothing_behind():
    # W25
    shelf = Shelf()
    with listening(storage_offer(shelf)) as server:
        for _ in range(20):
            sock = knocking(server)
            sock.sendall(request(CT_IMAGE) + message(store(), None) + pdu.data_header(1, 0, 9000) + b"x")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        wait_until(lambda: not server._connections)
        assert server.active == 0
        assert shelf.images == {}


def test_a_hundred_idle_associations_cost_no_time_and_little_memory():
    with listening() as server:
        process = psutil.Process()
        held = []
        held += [connected(server) for _ in range(5)]  # what is paid once is paid now
        before = process.memory_info().rss
        for _ in range(100):
            sock = knocking(server)
            sock.sendall(request())
            sock.recv(1)
            held.append(sock)
        wait_until(lambda: server.active == 105)
        grown = process.memory_info().rss - before
        assert grown / 100 < 300 * 1024
        busy_before = sum(process.cpu_times()[:2])
        threading.Event().wait(0.5)
        assert sum(process.cpu_times()[:2]) - busy_before < 0.1
        for one in held:
            one.abort() if isinstance(one, ClientAssociation) else one.close()


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_aborts_what_is_idle_and_lets_what_runs_finish():
    may_finish, begun = threading.Event(), threading.Event()

    def answers(*_):
        begun.set()
        may_finish.wait(5)
        yield Response(0xFF00, b"found")

    with listening(offer(Answering(answers))) as server:
        idle, busy = knocking(server), knocking(server)
        idle.sendall(request())
        busy.sendall(request(WORKLIST) + message(find(), b"k"))
        assert begun.wait(5)
        wait_until(lambda: any(connection.idle for connection in server._connections))
        stopping = threading.Thread(target=server.stop, args=(5.0,))
        stopping.start()
        assert everything(idle)[-10:] == pdu.encode_abort(0, 0)
        with pytest.raises(ConnectFailed):
            connected(server)
        may_finish.set()
        stopping.join(5)
        assert not stopping.is_alive()
        assert b"found" in everything(busy)
        assert server.active == 0
        idle.close()
        busy.close()


def test_stopping_does_not_wait_longer_than_its_grace():
    begun, end = threading.Event(), threading.Event()

    def answers(*_):
        begun.set()
        end.wait(10)
        yield Response(0)

    with listening(offer(Answering(answers))) as server, knocking(server) as sock:
        sock.sendall(request(WORKLIST) + message(find(), b"k"))
        assert begun.wait(5)
        started = time.monotonic()
        server.stop(grace_s=0.1)
        assert time.monotonic() - started < 3
        end.set()


def test_two_listeners_share_a_port():
    with listening(reuse_port=True) as first:
        second = DicomServer(
            "127.0.0.1", first.port, offers=[verification_offer()], ae_title="BROKER", reuse_port=True
        )
        second.start()
        second.stop()
        with connected(first) as association:
            assert association.echo() == 0


# ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Make an authority and a certificate for each side."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test Authority"),
    )
    for name, extension in (
        ("broker", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("ct1", "subjectAltName=DNS:ct1"),
    ):
        (folder / f"{name}.ext").write_text(extension)
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
            *("-subj", f"/O=Radiology/CN={name.upper()}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-out", f"{name}.pem", "-extfile", f"{name}.ext"),
        )
    return folder


def files(folder, name):
    return TlsFiles(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", trusted=folder / "ca.pem")


@pytest.mark.parametrize("profile", TlsProfile)
def test_an_association_over_tls_knows_its_peer(certificates, profile):
    shelf = Shelf()
    image = os.urandom(700_000)
    server_tls = ServerTls(files(certificates, "broker"), profile=profile)
    client_tls = ClientTls(files(certificates, "ct1"), profile=profile)
    with listening(storage_offer(shelf), tls=server_tls) as server:
        with connected(server, [*ECHO, *CT], tls=client_tls) as association:
            assert association.echo() == 0
            reply = association.store(
                sop_class_uid=CT_IMAGE, sop_instance_uid="1.2", context=EXPLICIT, payload=BytesIO(image)
            )
            assert reply.status == 0
        wait_until(lambda: server.diary.reasons == [CloseReason.RELEASED])
        assert server.diary.opened_peers[0].tls_subject == "CN=CT1,O=Radiology"
    assert shelf.images == {"1.2": image}


def test_a_silent_connection_to_the_tls_port_keeps_nobody_waiting(certificates):
    # W1
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        silent = [knocking(server) for _ in range(5)]
        started = time.monotonic()
        with connected(server, tls=ClientTls(files(certificates, "ct1"))) as association:
            assert association.echo() == 0
        assert time.monotonic() - started < 2
        for sock in silent:
            sock.close()


def test_silent_connections_to_the_tls_port_are_displaced(certificates):
    limits = ServerLimits(unassociated=3, displace_after_s=0.0, first_pdu_s=30.0)
    with listening(tls=ServerTls(files(certificates, "broker")), limits=limits) as server:
        silent = [knocking(server) for _ in range(12)]
        with connected(server, tls=ClientTls(files(certificates, "ct1"))) as association:
            assert association.echo() == 0
        wait_until(lambda: len(server._connections) <= 3)
        for sock in silent:
            sock.close()


def test_a_stopping_tls_listener_aborts_idle_associations(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        association = connected(server, tls=ClientTls(files(certificates, "ct1")))
        wait_until(lambda: any(connection.idle for connection in server._connections))
        server.stop(grace_s=2.0)
        with pytest.raises(AssociationAborted) as aborted:
            association.echo()
        assert (aborted.value.source, aborted.value.reason) == (0, 0)
        assert server.diary.reasons == [CloseReason.STOPPED]


def test_without_a_certificate_or_without_tls_nobody_gets_in(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        nameless = ClientTls(TlsFiles(trusted=certificates / "ca.pem"))
        with pytest.raises((ConnectFailed, AssociationLost)):
            connected(server, tls=nameless)
        with pytest.raises((AssociationLost, AssociationAborted)):
            connected(server)
        wait_until(lambda: len(server.diary.knocks) == 2)
        assert server.diary.opened_peers == []


def test_a_server_we_do_not_trust_is_a_matter_of_configuration(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        own = TlsFiles(
            certificate=certificates / "ct1.pem",
            key=certificates / "ct1.key",
            trusted=certificates / "ct1.pem",
        )
        with pytest.raises(ConnectFailed) as refused:
            connected(server, tls=ClientTls(own))
    assert refused.value.phase is Phase.TLS
    assert refused.value.is_configuration


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_below_1_2_is_refused(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with knocking(server) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock)


def test_new_certificates_are_taken_up_and_bad_ones_are_not(certificates, tmp_path):
    for name in ("broker.pem", "broker.key", "ca.pem"):
        shutil.copy(certificates / name, tmp_path / name)
    now = [0.0]
    tls = ServerTls(files(tmp_path, "broker"), monotonic=lambda: now[0])
    first = tls.context()
    now[0] += 10
    assert tls.context() is first
    (tmp_path / "broker.pem").write_text("nonsense")
    now[0] += 10
    assert tls.context() is first
    shutil.copy(certificates / "ct1.pem", tmp_path / "broker.pem")
    shutil.copy(certificates / "ct1.key", tmp_path / "broker.key")
    now[0] += 10
    assert tls.context() is not first


def test_a_release_is_answered_before_the_connection_is_closed():
    with listening() as server, knocking(server) as sock:
        sock.sendall(request() + message(echo()) + RELEASE)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock).endswith(pdu.RELEASE_RP)


def test_peers_that_never_close_hold_no_threads():
    limits = ServerLimits(linger_s=60, spare_threads=1)
    with listening(limits=limits) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(knocking(server))
            sock.sendall(request() + RELEASE)
            received = b""
            while not received.endswith(pdu.RELEASE_RP):
                received += sock.recv(65536)
        wait_until(lambda: server._threads <= 2)
        assert len(server._connections) == 20
        stack.close()
        wait_until(lambda: not server._connections)
