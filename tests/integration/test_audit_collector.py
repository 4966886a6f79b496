"""Audit messages on the wire: a real rsyslog by TLS that is killed and comes back, other collectors, and datagrams."""

import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest

from broker.db.reports import SqlReports
from broker.db.seal import seal_events
from broker.domain.audit_message import AuditSource
from broker.domain.events import Event, EventName, Subject
from broker.notices import syslog
from broker.notices.audit_collector import SyslogCollector
from broker.settings import AuditCollector
from broker.workflow.audit_export import ExportLimits, TrailExport
from broker.workflow.audit_messages import message_of
from broker.workflow.audit_participants import Ourselves
from broker.workflow.audit_port import CollectorAway, TrailEvent
from broker.workflow.clock import SystemClock
from tests.audit_schema import valid
from tests.broker_process import wait_until
from tests.builders import NOW
from tests.ports import free_port
from tests.syslog_collector import Rsyslog, certificate

SOURCE = AuditSource("BROKER@here", "General Hospital ÄÖ")
US = Ourselves("here", "BROKER")
MESSAGE = message_of(
    TrailEvent(1, NOW, "signed in", "account", 1, None, None, "ada", {"address": "192.0.2.1"}), US
)


def a_collector(port, ca, **settings):
    return SyslogCollector(
        AuditCollector(**{"name": "siem", "host": "localhost", "port": port, "ca": ca} | settings), SOURCE
    )


@pytest.fixture
def rsyslog(tmp_path):
    collector = Rsyslog(tmp_path)
    collector.start()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder)
    return folder


def happen(engine, uow_factory, count):
    with uow_factory() as uow:
        for number in range(count):
            uow.record(Event(EventName.SIGNED_IN, Subject.ACCOUNT, number, actor="ada"))
        uow.commit()
    seal_events(engine)


def test_rsyslog_is_told_everything_in_order_though_it_is_killed_and_started_again(
    rsyslog, sqlite_engine, sqlite_uow_factory
):
    collector = a_collector(rsyslog.port, rsyslog.certificate)
    collector.settle_s = 0.3
    limits = ExportLimits(batch=20, first_rest_s=0.05, longest_rest_s=0.2)
    reports = SqlReports(sqlite_engine)
    export = TrailExport(
        sqlite_uow_factory, reports, SystemClock(), collector, US, owner="test", limits=limits
    )
    export.turn()

    def is_told(last):
        export.turn()
        return reports.collectors()[0].number == last

    happen(sqlite_engine, sqlite_uow_factory, 50)
    wait_until(lambda: is_told(50), timeout_s=40, what="the first part")
    rsyslog.wait_for(lambda lines: lines and lines[-1].number == 50)
    collector.settle_s = 60  # so that these cannot count: they may lie unread when it is killed
    happen(sqlite_engine, sqlite_uow_factory, 10)
    export.turn()
    wait_until(collector.has_arrived, what="the acknowledgement")
    assert not is_told(60), "its machine has them, which is not to say that it has read them"
    rsyslog.stop(kill=True)
    happen(sqlite_engine, sqlite_uow_factory, 40)
    wait_until(lambda: not is_told(100) and reports.collectors()[0].problem, timeout_s=40, what="a failure")
    (state,) = reports.collectors()
    assert "ConnectionRefusedError" in state.problem or "Connection" in state.problem
    assert state.failing_since is not None
    collector.settle_s = 0.3
    rsyslog.start()
    wait_until(lambda: is_told(100), timeout_s=40, what="the rest")
    lines = rsyslog.wait_for(lambda lines: lines[-1].number == 100)
    collector.close()
    numbers = [line.number for line in lines]
    assert set(numbers) == set(range(1, 101)), "no gap"
    steps = [after - before for before, after in pairwise(numbers)]
    assert [step for step in steps if step != 1] in ([], [min(steps)]), "in order, but for one second copy"
    assert {(line.priority, line.message_id) for line in lines} == {(85, "DICOM+RFC3881")}
    assert lines[0].root.find("AuditSourceIdentification").get("AuditEnterpriseSiteID") == SOURCE.site
    assert reports.collectors()[0].failing_since is None


@contextmanager
def listening(keys, *, asks_for_certificate=False):
    """A TLS listener; answers its port and what it read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    if asks_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(keys / "cert.pem")
    read, ended = bytearray(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    while part := connection.recv(65536):
                        read.extend(part)
            except OSError:
                read.extend(b"refused")
            ended.set()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], read, ended


def test_a_message_is_framed_by_its_length_and_the_connection_ends_in_order(keys):
    with listening(keys) as (port, read, ended):
        collector = a_collector(port, keys / "cert.pem")
        for number in (1, 2):
            collector.hand_over(number, MESSAGE)
        wait_until(lambda: collector.has_arrived(wait_s=0.01), what="the acknowledgement")
        assert collector.settle_s >= 1, "what its machine has acknowledged it may not have read"
        collector.close()
        assert ended.wait(20)
    octets = bytes(read)
    for number in (1, 2):
        length, _, octets = octets.partition(b" ")
        entry, octets = octets[: int(length)], octets[int(length) :]
        assert entry.startswith(b"<85>1 2026-11-21T08:00:00.000Z ")
        assert f'[event@32473 number="{number}"]'.encode() in entry
        valid(entry.partition(b"\xef\xbb\xbf")[2])
    assert octets == b"", "a close_notify, and no broken record"


def test_a_collector_may_ask_for_our_certificate(keys):
    with listening(keys, asks_for_certificate=True) as (port, read, ended):
        ours = {"certificate": keys / "cert.pem", "key": keys / "key.pem"}
        collector = a_collector(port, keys / "cert.pem", **ours)
        collector.hand_over(1, MESSAGE)
        collector.close()
        assert ended.wait(20)
    assert b"AuditMessage" in read


def test_a_collector_nobody_vouches_for_is_told_nothing(keys, tmp_path):
    other = certificate(tmp_path)
    with listening(keys) as (port, read, ended):
        with pytest.raises(CollectorAway, match="certificate is not trusted"):
            a_collector(port, other).hand_over(1, MESSAGE)
        assert ended.wait(20)
    assert bytes(read) in {b"", b"refused"}


def test_nobody_there_is_said(keys):
    with pytest.raises(CollectorAway, match=r"localhost:\d+: ConnectionRefusedError: Connection refused"):
        a_collector(free_port(), keys / "cert.pem").hand_over(1, MESSAGE)


def test_a_collector_that_left_is_noticed_before_anything_else_is_sent(keys):
    with listening(keys) as (port, _, ended):
        collector = a_collector(port, keys / "cert.pem")
        collector.hand_over(1, MESSAGE)
        connection = collector._sender._socket
        connection.shutdown(socket.SHUT_WR)  # the other side sees an end, and ends
        assert ended.wait(20)
        with pytest.raises(CollectorAway):
            collector.hand_over(2, MESSAGE)
        assert not collector._sender.is_open


def test_a_collector_that_reads_nothing_does_not_hold_us_for_ever(keys, monkeypatch):
    monkeypatch.setattr(syslog, "TIMEOUT_S", 2.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    held = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with suppress(OSError):  # where the other side gives up before the hand-shake is over
                held.append(context.wrap_socket(listener.accept()[0], server_side=True))

        threading.Thread(target=accept, daemon=True).start()
        collector = a_collector(listener.getsockname()[1], keys / "cert.pem")

        def hand_over_much():
            for number in range(100_000):
                collector.hand_over(number, MESSAGE)

        with pytest.raises(CollectorAway, match="TimeoutError"):
            hand_over_much()
    for connection in held:
        connection.close()


def test_by_udp_a_message_is_a_datagram_that_counts_at_once():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        collector = a_collector(receiver.getsockname()[1], None, host="127.0.0.1", protocol="udp")
        assert collector.settle_s == 0
        collector.hand_over(5, MESSAGE)
        datagram = receiver.recv(65536)
        assert collector.has_arrived()
        collector.close()
    assert datagram.startswith(b"<85>1 ")
    valid(datagram.partition(b"\xef\xbb\xbf")[2])
