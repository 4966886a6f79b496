"""The MLLP port over real sockets: peers, limits, order, faults, TLS, and a clean stop."""

import asyncio
import contextlib
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import hl7.client
import pytest
import structlog

from broker.hl7.exchange import HANG_UP, JUNK, Answer
from broker.hl7.listener import ListenerLimits, MllpListener
from broker.hl7.mllp import frame
from broker.hl7.tokenizer import tokenize
from tests.unit.hl7.messages import orm


class EchoHandler:
    """Acknowledges with MSH-10; can be held, told to fail, and remembers its batches."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def handle_batch(self, messages):
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append([m.payload for m in messages])
        return [self.answer(m.payload) for m in messages]

    def answer(self, payload):
        if b"BOOM" in payload:
            raise ZeroDivisionError
        if b"HANGUP" in payload:
            return HANG_UP
        if b"SILENT" in payload:
            return Answer()
        control_id = tokenize(payload.decode("latin-1")).value("MSH-10")
        return Answer((f"MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|{control_id}\r".encode(),))

    def refuse(self, head, reason):
        return b"MSH|^~\\&|\rMSA|AR|" + head[:3] + b"\r" if head.startswith(b"MSH") else None

    @property
    def payloads(self):
        return [payload for batch in self.batches for payload in batch]


class Running:
    """A listener in a thread of its own."""

    def __init__(self, clock, handler=None, **options):
        self.handler = handler or EchoHandler()
        limits = ListenerLimits(**options.pop("limits", {}))
        self.listener = MllpListener(self.handler, clock, port=0, limits=limits, **options)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.call(self.listener.start())
        return self

    def __exit__(self, *_):
        self.handler.gate.set()
        with contextlib.suppress(RuntimeError):
            self.call(self.listener.stop(grace_s=2))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def connect(self):
        peer = socket.create_connection(self.listener.address, 5)
        peer.settimeout(5)
        return peer

    def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "did not happen in 30 s"
            threading.Event().wait(0.005)


@pytest.fixture
def running(clock):
    with Running(clock) as running:
        yield running


def message(control_id="M1", body=""):
    return f"MSH|^~\\&|RIS|HOSP|B|R|2026||ORM^O01|{control_id}|P|2.5\rPID|{body}\r".encode()


def received(peer, count=1):
    """Read `count` blocks; fewer when the peer closes."""
    data = b""
    while data.count(b"\x1c\r") < count:
        try:
            chunk = peer.recv(65536)
        except ConnectionResetError:
            break
        if not chunk:
            break
        data += chunk
    return [block.lstrip(b"\x0b") for block in data.split(b"\x1c\r") if block]


def ids(blocks):
    return [tokenize(block.decode()).value("MSA-2") for block in blocks]


def is_closed(peer):
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.peer
def test_the_hl7_package_as_client_is_answered_many_times_on_one_connection(running):
    with hl7.client.MLLPClient(*running.listener.address) as client:
        for number in range(20):
            answer = client.send_message(orm(control_id=f"C{number}"))
            assert f"MSA|AA|C{number}".encode() in answer


@pytest.mark.peer
def test_mllp_send_is_answered(running, tmp_path):
    command = shutil.which("mllp_send") or str(tmp_path / "none")
    venv = shutil.os.path.join(shutil.os.path.dirname(shutil.os.sys.executable), "mllp_send")
    command = venv if shutil.os.path.exists(venv) else command
    file = tmp_path / "order.hl7"
    file.write_bytes(frame(orm(control_id="CLI1").encode()))
    host, port = running.listener.address
    done = subprocess.run(
        [command, "--file", str(file), "--port", str(port), host], capture_output=True, timeout=20, check=True
    )
    assert b"MSA|AA|CLI1" in done.stdout


def test_pipelined_messages_are_answered_in_order_one_at_a_time(running):
    with running.connect() as peer:
        peer.sendall(b"".join(frame(message(f"P{n}")) for n in range(50)))
        assert ids(received(peer, 50)) == [f"P{n}" for n in range(50)]
    assert all(len(batch) == 1 for batch in running.handler.batches)


def test_a_message_in_single_bytes_is_one_message(running):
    with running.connect() as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(message("S1")):
            peer.sendall(bytes([byte]))
        assert ids(received(peer)) == ["S1"]


def test_messages_of_many_connections_share_a_batch_in_order_of_arrival(running):
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running.connect()) for _ in range(6)]
        running.handler.gate.clear()
        peers[0].sendall(frame(message("B0")))
        assert running.handler.entered.wait(5)
        for number, peer in enumerate(peers[1:], start=1):
            peer.sendall(frame(message(f"B{number}")))
            running.until(lambda: len(running.listener._arrived) == number)  # noqa: B023
        running.handler.gate.set()
        assert [ids(received(peer)) for peer in peers] == [[f"B{n}"] for n in range(6)]
    assert [len(batch) for batch in running.handler.batches] == [1, 5]
    assert [tokenize(p.decode()).value("MSH-10") for p in running.handler.payloads] == [
        f"B{n}" for n in range(6)
    ]


def test_a_failure_hangs_up_and_the_rest_of_that_connection_is_not_processed(running):
    with running.connect() as peer, running.connect() as other:
        peer.sendall(frame(message("A1")) + frame(message("HANGUP")) + frame(message("A3")))
        assert ids(received(peer, 3)) == ["A1"]
        assert is_closed(peer)
        other.sendall(frame(message("O1")))
        assert ids(received(other)) == ["O1"]
    assert not any(b"A3" in payload for payload in running.handler.payloads)


def test_a_handler_that_raises_hangs_up_on_its_batch_only(running):
    with running.connect() as peer:
        peer.sendall(frame(message("BOOM")))
        assert is_closed(peer)
    with running.connect() as peer:
        peer.sendall(frame(message("N1")))
        assert ids(received(peer)) == ["N1"]


def test_a_message_may_have_no_answer(running):
    with running.connect() as peer:
        peer.sendall(frame(message("SILENT")) + frame(message("N2")))
        assert ids(received(peer)) == ["N2"]


def test_a_sender_that_closes_its_half_still_gets_its_answer(running):
    with running.connect() as peer:
        peer.sendall(frame(message("H1")) + frame(message("H2")))
        peer.shutdown(socket.SHUT_WR)
        assert ids(received(peer, 2)) == ["H1", "H2"]
        assert is_closed(peer)


def test_an_end_without_carriage_return_is_accepted_after_a_pause(clock):
    with Running(clock, limits={"confirm_timeout_s": 0.02}) as running, running.connect() as peer:
        peer.sendall(b"\x0b" + message("E1") + b"\x1c")
        assert ids(received(peer)) == ["E1"]
        peer.sendall(b"\r" + frame(message("E2")))
        assert ids(received(peer)) == ["E2"]


def test_a_block_that_is_too_large_is_rejected_and_closes(clock):
    with Running(clock, limits={"max_message_bytes": 2000}) as running, running.connect() as peer:
        peer.sendall(b"\x0b" + message("L1", "x" * 5000))
        assert received(peer)[0].endswith(b"MSA|AR|MSH\r")
        assert is_closed(peer)
    assert running.handler.payloads == []


def test_a_corrupt_block_is_rejected_and_the_connection_goes_on(running):
    with running.connect() as peer:
        peer.sendall(frame(message("C1")) + b"\x0bMSH|x\x1cy|z\x1c\r" + frame(message("C2")))
        blocks = received(peer, 3)
        assert b"MSA|AR|MSH" in blocks[1]
        assert ids([blocks[0], blocks[2]]) == ["C1", "C2"]


@pytest.mark.parametrize(
    "wire",
    [
        b"MSH|^~\\&|unframed\r",
        b"GET / HTTP/1.1\r\n" + b"x" * 70_000,
        b"\x00" * 70_000,
        b"\x16\x03\x01" + b"\x02" * 70_000,
    ],
)
def test_what_is_not_mllp_is_hung_up_on(running, wire):
    with running.connect() as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(wire)
        assert is_closed(peer)
    with running.connect() as peer:
        peer.sendall(frame(message("OK")))
        assert ids(received(peer)) == ["OK"]


def test_an_unfinished_block_has_a_deadline_and_an_idle_connection_has_none(clock):
    with (
        Running(clock, limits={"frame_timeout_s": 0.1}) as running,
        running.connect() as slow,
        running.connect() as idle,
    ):
        slow.sendall(b"\x0bMSH|")
        # Dripping bytes does not move the deadline: it is of the whole block.
        assert is_closed(slow)
        running.until(lambda: running.listener.counters["frame_timeouts"] == 1)
        idle.sendall(frame(message("I1")))
        assert ids(received(idle)) == ["I1"]


def test_connections_are_capped_in_all_and_per_host(clock):
    limits = {"max_connections": 3, "displace_after_s": 3600}
    with Running(clock, limits=limits) as running, contextlib.ExitStack() as stack:
        kept = [stack.enter_context(running.connect()) for _ in range(3)]
        running.until(lambda: len(running.listener.connections) == 3)
        assert is_closed(stack.enter_context(running.connect()))
        kept[0].close()
        running.until(lambda: len(running.listener.connections) == 2)
        again = stack.enter_context(running.connect())
        again.sendall(frame(message("OK")))
        assert ids(received(again)) == ["OK"]


def test_when_all_places_are_taken_the_idle_give_way_and_none_with_anything_under_way(clock):
    limits = {"max_connections": 6, "displace_after_s": 0}
    with Running(clock, limits=limits) as running, contextlib.ExitStack() as stack:
        known, held, half, silent, silent_too = (stack.enter_context(running.connect()) for _ in range(5))
        known.sendall(frame(message("K1")))
        assert ids(received(known)) == ["K1"]
        half.sendall(b"\x0b" + message("H1"))
        running.until(lambda: any(c.held_bytes for c in running.listener.connections))
        running.handler.gate.clear()
        running.handler.entered.clear()
        held.sendall(frame(message("U1")))
        assert running.handler.entered.wait(5)
        running.until(lambda: len(running.listener.connections) == 5)
        latest = [stack.enter_context(running.connect()) for _ in range(3)]
        # Those that never said anything go before the one that brought a message.
        assert is_closed(silent)
        assert is_closed(silent_too)
        assert running.listener.counters["displaced_connections"] == 2
        for newcomer in latest:
            newcomer.sendall(b"\x0bMSH|")
        running.until(lambda: sum(bool(c.held_bytes) for c in running.listener.connections) == 4)
        stack.enter_context(running.connect())
        assert is_closed(known)
        running.handler.gate.set()
        assert ids(received(held)) == ["U1"]
        half.sendall(b"\x1c\r")
        assert ids(received(half)) == ["H1"]


def test_when_nothing_is_idle_a_newcomer_is_refused_and_that_is_logged_once(clock):
    limits = {"max_connections": 2, "displace_after_s": 0}
    with (
        structlog.testing.capture_logs() as lines,
        Running(clock, limits=limits) as running,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            stack.enter_context(running.connect()).sendall(b"\x0bMSH|")
        running.until(lambda: sum(bool(c.held_bytes) for c in running.listener.connections) == 2)
        for _ in range(20):
            with running.connect() as refused:
                assert is_closed(refused)
        assert running.listener.counters["refused_connections"] == 20
        clock.advance(61)
        with running.connect() as refused:
            assert is_closed(refused)
    told = [line for line in lines if line["event"] == "connection refused"]
    assert [(line["reason"], line["repeated"]) for line in told] == [
        ("too many connections", 0),
        ("too many connections", 19),
    ]


def test_a_peer_that_sends_blocks_without_a_message_is_hung_up_on(clock):
    class Discerning(EchoHandler):
        def answer(self, payload):
            return super().answer(payload) if payload.startswith(b"MSH") else JUNK

    with Running(clock, Discerning(), limits={"max_junk_blocks": 3}) as running, running.connect() as peer:
        peer.sendall(frame(b"junk") * 2 + frame(message("G1")) + frame(b"junk") * 2 + frame(message("G2")))
        assert ids(received(peer, 2)) == ["G1", "G2"]
        peer.sendall(frame(b"junk") * 3 + frame(message("G3")))
        assert is_closed(peer)
    assert not any(b"G3" in payload for payload in running.handler.payloads)


@pytest.mark.parametrize(
    ("host", "allow", "reason"),
    [
        ("127.0.0.1", (), None),
        ("::1", (), None),
        ("10.0.0.9", (), "too many connections from this host"),
        ("10.0.0.9", ("10.0.0.0/24",), None),
        ("::ffff:10.0.0.9", ("10.0.0.0/24",), None),
        ("127.0.0.1", ("10.0.0.0/24",), "not on the allow-list"),
    ],
)
def test_who_may_connect(clock, host, allow, reason):
    listener = MllpListener(
        EchoHandler(),
        clock,
        allow=[ipaddress.ip_network(n) for n in allow],
        limits=ListenerLimits(max_connections_per_host=2),
    )
    for _ in range(2):
        listener.admit(object(), host)
    assert listener.admit(object(), host) == reason


def test_a_flood_of_connections_does_not_delay_others(running):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            peer = stack.enter_context(running.connect())
            peer.sendall(b"\x0bMSH|half a message")
        peer = stack.enter_context(running.connect())
        started = time.monotonic()
        peer.sendall(frame(message("OK")))
        assert ids(received(peer)) == ["OK"]
        assert time.monotonic() - started < 1


def test_memory_for_unfinished_blocks_is_bounded_over_all_connections(clock):
    with Running(clock, limits={"max_buffered_bytes": 1_000_000}) as running, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running.connect()) for _ in range(8)]
        for peer in peers:
            with contextlib.suppress(ConnectionError):
                peer.sendall(b"\x0bMSH|" + b"x" * 300_000)
        running.until(lambda: running.listener.counters["dropped_for_memory"] >= 4)
        assert sum(c.held_bytes for c in running.listener.connections) <= 1_000_000


ONE_READ_BYTES = 256 * 1024


class Counting(EchoHandler):
    """Notes how much is held whenever it gets a batch."""

    def __init__(self):
        super().__init__()
        self.gate.clear()
        self.listener = None
        self.held = []

    def handle_batch(self, messages):
        self.held.append(self.listener.held_bytes)
        return super().handle_batch(messages)


@pytest.fixture
def slow(clock):
    """A listener whose database has a message and does not commit it until the gate opens."""
    handler = Counting()
    with Running(clock, handler, limits={"max_buffered_bytes": 1_000_000}) as running:
        handler.listener = running.listener
        with running.connect() as first:
            first.sendall(frame(message("first")))
            running.until(handler.entered.is_set)
        yield running


async def some_turns():
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_slow_database_pauses_reading_and_loses_nothing(slow):
    count, body = 20, "x" * 60_000

    def send(number):
        with slow.connect() as peer:
            peer.settimeout(30)
            for index in range(count):
                peer.sendall(frame(message(f"{number}-{index}", body)))
            return ids(received(peer, count))

    with ThreadPoolExecutor(12) as senders:
        answers = [senders.submit(send, number) for number in range(12)]
        slow.until(lambda: slow.listener.counters["reading_paused"])
        slow.call(some_turns())
        assert slow.listener.is_full
        assert 750_000 < slow.listener.held_bytes <= 750_000 + ONE_READ_BYTES
        slow.handler.gate.set()
        for number, answer in enumerate(answers):
            assert answer.result(60) == [f"{number}-{index}" for index in range(count)]
    assert max(slow.handler.held) <= 750_000 + ONE_READ_BYTES
    assert slow.listener.counters["dropped_for_memory"] == 0
    slow.until(lambda: not slow.listener.connections)
    assert (slow.listener.held_bytes, slow.listener.is_full) == (0, False)


def test_messages_of_senders_that_are_gone_count_until_they_are_committed(slow):
    for number in range(10):
        with slow.connect() as peer:
            peer.sendall(frame(message(f"gone-{number}", "x" * 90_000)))
    slow.until(lambda: slow.listener.is_full)
    slow.call(some_turns())
    assert slow.listener.held_bytes <= 750_000 + ONE_READ_BYTES
    slow.handler.gate.set()
    slow.until(lambda: len(slow.handler.payloads) == 1 + 10)
    slow.until(lambda: not slow.listener.connections)
    assert slow.listener.held_bytes == 0


def test_unfinished_blocks_wait_for_a_commit_that_makes_room(slow):
    with contextlib.ExitStack() as stack:
        whole, *others = (stack.enter_context(slow.connect()) for _ in range(5))
        whole.sendall(frame(message("whole", "x" * 300_000)))
        slow.until(lambda: slow.listener.held_bytes > 300_000)
        blocks = [frame(message(f"other-{number}", "x" * 150_000)) for number in range(len(others))]
        for peer, block in zip(others, blocks, strict=True):
            peer.sendall(block[:-2])
        slow.until(lambda: slow.listener.is_full)
        slow.handler.gate.set()
        for number, (peer, block) in enumerate(zip(others, blocks, strict=True)):
            peer.sendall(block[-2:])
            assert ids(received(peer)) == [f"other-{number}"]
        assert ids(received(whole)) == ["whole"]
    assert slow.listener.counters["dropped_for_memory"] == 0


def test_a_peer_that_never_reads_its_answers_is_dropped(clock):
    class Verbose(EchoHandler):
        def answer(self, payload):
            return Answer((b"x" * 200_000,))

    with Running(clock, Verbose(), limits={"write_timeout_s": 0.2}) as running:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(running.listener.address)
        with peer, contextlib.suppress(ConnectionError):
            peer.sendall(frame(message("V")) * 200)
            running.until(lambda: running.listener.counters["write_timeouts"] == 1)
            assert not running.listener.connections


def test_a_stop_answers_what_is_under_way_and_takes_nothing_more(running):
    with running.connect() as peer, running.connect() as late:
        running.until(lambda: len(running.listener.connections) == 2)
        running.handler.gate.clear()
        peer.sendall(frame(message("LAST")))
        assert running.handler.entered.wait(5)
        stopping = asyncio.run_coroutine_threadsafe(running.listener.stop(grace_s=5), running.loop)
        running.until(lambda: running.listener.stopping)
        late.sendall(frame(message("LATE")))
        running.handler.gate.set()
        assert ids(received(peer)) == ["LAST"]
        stopping.result(5)
        assert is_closed(late)
    assert not any(b"LATE" in payload for payload in running.handler.payloads)


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    return path, tmp_path / "key.pem"


def test_tls_carries_the_same_conversation_and_silent_peers_block_nobody(clock, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Running(clock, tls=context, limits={"tls_handshake_timeout_s": 0.3}) as running:
        silent = [running.connect() for _ in range(5)]
        trusting = ssl.create_default_context(cafile=certificate[0])
        with running.connect() as plain, trusting.wrap_socket(plain, server_hostname="localhost") as peer:
            for number in range(3):
                peer.sendall(frame(message(f"T{number}")))
                assert ids(received(peer)) == [f"T{number}"]
        assert all(is_closed(peer) for peer in silent)
        with running.connect() as peer:
            peer.sendall(frame(message("PLAIN")))
            assert received(peer) == [] or b"MSA" not in received(peer)[0]
        running.until(lambda: not running.listener.connections)
        for peer in silent:
            peer.close()
