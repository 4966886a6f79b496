"""What the listener bears of its peers: caps, deadlines, and its own end."""

import contextlib
import socket
import threading
import time

import psutil
import pytest

from broker.dicom.network import pdu
from broker.dicom.network.client import ClientAssociation
from broker.dicom.network.failures import AssociationLost, AssociationRejected, ConnectFailed
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.server import DicomServer
from broker.dicom.network.service import CloseReason, Response
from broker.dicom.network.verification import verification_offer
from tests.dicom_conversation import (
    CT_IMAGE,
    RELEASE,
    WORKLIST,
    Answering,
    Shelf,
    echo,
    find,
    message,
    offer,
    request,
    storage_offer,
    store,
)
from tests.integration.association_listener import connected, everything, knocking, listening, wait_until

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
    limits = ServerLimits(unassociated=2, displace_after_s=60.0, first_pdu_s=60.0)
    with listening(limits=limits) as server:
        held = [knocking(server) for _ in range(2)]
        wait_until(lambda: len(server._connections) == 2)
        with knocking(server) as third:
            assert everything(third) == pdu.encode_reject(pdu.LOCAL_LIMIT_EXCEEDED)
        for sock in held:
            sock.close()


def test_a_silent_newcomer_is_closed_at_its_deadline():
    # W2, W4: the deadline is of the whole request, not of each byte
    limits = ServerLimits(first_pdu_s=0.15, pdu_s=60.0)
    with listening(limits=limits) as server, knocking(server) as sock:
        sock.sendall(request()[:-1])
        started = time.monotonic()
        assert everything(sock) == b""
        assert time.monotonic() - started < 30
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
                assert time.monotonic() - started < 30
                sock.sendall(pdu.data_header(1, 0, 1) + b"x")
                pause.wait(0.05)
        wait_until(lambda: server.diary.reasons == [CloseReason.TOO_SLOW])
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
        wait_until(lambda: server.diary.reasons)
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
    with listening(limits=ServerLimits(first_pdu_s=60.0, pdu_s=60.0)) as server:
        for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x99" * 100_000, b"\x16\x03\x01\x02\x00"):
            with knocking(server) as sock:
                started = time.monotonic()
                with contextlib.suppress(ConnectionError):  # sent away before all of it is said
                    sock.sendall(words)
                assert everything(sock) in (pdu.encode_abort(0, 0), b"")
                assert time.monotonic() - started < 30


def test_resets_leave_nothing_behind():
    # W25
    shelf = Shelf()
    with listening(storage_offer(shelf)) as server:
        for _ in range(20):
            sock = knocking(server)
            sock.sendall(request(CT_IMAGE) + message(store(), None) + pdu.data_header(1, 0, 9000) + b"x")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        # Nobody may be there because all are gone, or because the next one has not been taken in yet.
        wait_until(lambda: len(server.diary.knocks) + len(server.diary.reasons) == 20)
        wait_until(lambda: not server._connections and server.active == 0)
        assert shelf.images == {}


def busy_s(process, *, within_s):
    before = sum(process.cpu_times()[:2])
    threading.Event().wait(within_s)
    return sum(process.cpu_times()[:2]) - before


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
        # Other threads of this process may be busy for a while; what a hundred associations cost would not end.
        assert any(busy_s(process, within_s=0.5) < 0.1 for _ in range(10))
        for one in held:
            one.abort() if isinstance(one, ClientAssociation) else one.close()


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_aborts_what_is_idle_and_lets_what_runs_finish():
    may_finish, begun = threading.Event(), threading.Event()

    def answers(*_):
        begun.set()
        may_finish.wait(60)
        yield Response(0xFF00, b"found")

    with listening(offer(Answering(answers))) as server:
        idle, busy = knocking(server), knocking(server)
        idle.sendall(request())
        busy.sendall(request(WORKLIST) + message(find(), b"k"))
        assert begun.wait(30)
        wait_until(lambda: any(connection.idle for connection in tuple(server._connections)))
        stopping = threading.Thread(target=server.stop, args=(60.0,))
        stopping.start()
        assert everything(idle)[-10:] == pdu.encode_abort(0, 0)
        with pytest.raises(ConnectFailed):
            connected(server)
        may_finish.set()
        stopping.join(30)
        assert not stopping.is_alive()
        assert b"found" in everything(busy)
        assert server.active == 0
        idle.close()
        busy.close()


def test_stopping_does_not_wait_longer_than_its_grace():
    begun, end = threading.Event(), threading.Event()

    def answers(*_):
        begun.set()
        end.wait(60)
        yield Response(0)

    with listening(offer(Answering(answers))) as server, knocking(server) as sock:
        sock.sendall(request(WORKLIST) + message(find(), b"k"))
        assert begun.wait(30)
        started = time.monotonic()
        server.stop(grace_s=0.1)
        assert time.monotonic() - started < 30
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
