"""The MLLP port over real sockets: peers, order, faults, TLS, and a clean stop."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess

import hl7.client
import pytest

from broker.hl7.mllp import frame
from broker.hl7.tokenizer import tokenize
from tests.integration.mllp_listener import Running, ids, is_closed, message, received
from tests.unit.hl7.messages import orm


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
        assert running.handler.entered.wait(30)
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


def test_a_stop_answers_what_is_under_way_and_takes_nothing_more(running):
    with running.connect() as peer, running.connect() as late:
        running.until(lambda: len(running.listener.connections) == 2)
        running.handler.gate.clear()
        peer.sendall(frame(message("LAST")))
        assert running.handler.entered.wait(30)
        stopping = asyncio.run_coroutine_threadsafe(running.listener.stop(grace_s=30), running.loop)
        running.until(lambda: running.listener.stopping)
        late.sendall(frame(message("LATE")))
        running.handler.gate.set()
        assert ids(received(peer)) == ["LAST"]
        stopping.result(30)
        assert is_closed(late)
    assert not any(b"LATE" in payload for payload in running.handler.payloads)


def test_tls_carries_the_same_conversation_and_silent_peers_block_nobody(clock, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    # Before their hand-shake is late, silent peers keep nobody from theirs.
    with Running(clock, tls=context, limits={"tls_handshake_timeout_s": 100}) as running:
        silent = [running.connect() for _ in range(5)]
        trusting = ssl.create_default_context(cafile=certificate[0])
        with running.connect() as plain, trusting.wrap_socket(plain, server_hostname="localhost") as peer:
            for number in range(3):
                peer.sendall(frame(message(f"T{number}")))
                assert ids(received(peer)) == [f"T{number}"]
        with running.connect() as peer:
            peer.sendall(frame(message("PLAIN")))
            assert received(peer) == [] or b"MSA" not in received(peer)[0]
        for peer in silent:
            peer.close()
    with Running(clock, tls=context, limits={"tls_handshake_timeout_s": 0.3}) as running:
        silent = [running.connect() for _ in range(5)]
        assert all(is_closed(peer) for peer in silent)
        running.until(lambda: not running.listener.connections)
        for peer in silent:
            peer.close()
