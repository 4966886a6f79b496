"""The limits of the MLLP port: who may connect, for how long, and how much is held for all of them."""

import asyncio
import contextlib
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from broker.hl7.exchange import JUNK, Answer
from broker.hl7.listener import ListenerLimits, MllpListener
from broker.hl7.mllp import frame
from tests.integration.mllp_listener import EchoHandler, Running, ids, is_closed, message, received


def blocks_begun(listener):
    """Count the connections with an unfinished block."""
    return sum(bool(connection.held_bytes) for connection in listener.connections)


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
        running.until(lambda: running.seen(blocks_begun) == 1)
        running.handler.gate.clear()
        running.handler.entered.clear()
        held.sendall(frame(message("U1")))
        assert running.handler.entered.wait(30)
        running.until(lambda: len(running.listener.connections) == 5)
        latest = [stack.enter_context(running.connect()) for _ in range(3)]
        # Those that never said anything go before the one that brought a message.
        assert is_closed(silent)
        assert is_closed(silent_too)
        assert running.listener.counters["displaced_connections"] == 2
        for newcomer in latest:
            newcomer.sendall(b"\x0bMSH|")
        running.until(lambda: running.seen(blocks_begun) == 4)
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
        running.until(lambda: running.seen(blocks_begun) == 2)
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


def test_a_flood_of_connections_does_not_delay_others(clock):
    # The answer comes long before the flood is over, which is when its blocks are given up.
    with Running(clock, limits={"frame_timeout_s": 60}) as running, contextlib.ExitStack() as stack:
        for _ in range(200):
            peer = stack.enter_context(running.connect())
            peer.sendall(b"\x0bMSH|half a message")
        peer = stack.enter_context(running.connect())
        peer.sendall(frame(message("OK")))
        assert ids(received(peer)) == ["OK"]
        running.until(lambda: running.seen(blocks_begun) == 200)


def test_memory_for_unfinished_blocks_is_bounded_over_all_connections(clock):
    with Running(clock, limits={"max_buffered_bytes": 1_000_000}) as running, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running.connect()) for _ in range(8)]
        for peer in peers:
            with contextlib.suppress(ConnectionError):
                peer.sendall(b"\x0bMSH|" + b"x" * 300_000)
        running.until(lambda: running.listener.counters["dropped_for_memory"] >= 4)
        assert running.seen(lambda listener: sum(c.held_bytes for c in listener.connections)) <= 1_000_000


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
            running.until(lambda: not running.listener.connections)
