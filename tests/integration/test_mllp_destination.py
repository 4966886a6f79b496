"""The `mllp` destination against real sockets: every answer a RIS may give, and none."""

import contextlib
import select
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.domain.delivery import Delivered, Misconfigured, Rejected, RetryLater
from broker.hl7.mllp import Framer, frame
from broker.hl7.sender import MllpDestination, MllpOptions, MllpSilent, read_messages, send_file, send_message
from broker.hl7.tokenizer import tokenize
from broker.workflow.destinations_port import Parcel
from tests.parcels import a_context
from tests.peers import MllpSink
from tests.ports import free_port
from tests.unit.hl7.messages import orm

MESSAGE = orm(control_id="S1").encode()


def ack(code, control_id="S1", text=""):
    return frame(f"MSH|^~\\&|RIS|||||ACK|1|P|2.3.1\rMSA|{code}|{control_id}|{text}\r".encode())


class Ris:
    """Accepts connections and plays one script per message: bytes to send, or a closing."""

    def __init__(self, *script, context=None):
        self.script = list(script)
        self.received, self.connections = [], 0
        self.context = context
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join(5)

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.server.accept()
                self.connections += 1
                with contextlib.suppress(OSError), peer:
                    if self.context is not None:
                        peer = self.context.wrap_socket(peer, server_side=True)
                    self.talk(peer)

    def talk(self, peer):
        framer = Framer()
        while data := peer.recv(65536):
            for event in framer.feed(data):
                self.received.append(event.payload)
                if not self.script:
                    continue
                answer = self.script.pop(0)
                if answer is None:
                    return
                peer.sendall(answer)
                if answer.endswith(b"BYE"):
                    return


def a_destination(port, tmp_path, **options):
    values = {"host": "127.0.0.1", "port": port, "connect_timeout_s": 10, "answer_timeout_s": 20, **options}
    return MllpDestination(MllpOptions(**values), a_context(tmp_path))


def send(destination, payload=MESSAGE):
    return destination.send(Parcel(1, 1, iter(()), payload=payload), lambda results: None)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (ack("AA"), Delivered),
        (ack("CA"), Delivered),
        (ack("AE", text="unknown order"), Rejected),
        (ack("CE"), Rejected),
        (ack("AR"), RetryLater),
        (ack("CR"), RetryLater),
        (ack("XX"), RetryLater),
        (frame(b"MSH|^~\\&|RIS\rPID|1\r"), RetryLater),
        (frame(b"nonsense"), RetryLater),
        (b"MSH|^~\\&|no frame at all", RetryLater),
        (b"\x0b" + b"x" * 2_000_000, RetryLater),
        (ack("AA", "ANOTHER"), RetryLater),
        (b"\x0bMSH|half BYE", RetryLater),
        (None, RetryLater),
        (b"", RetryLater),
    ],
)
def test_the_answer_decides(answer, outcome, tmp_path):
    with Ris(answer) as ris:
        # Only where silence leads to the same may an answer come too late.
        answer_timeout_s = 0.3 if outcome is RetryLater else 20
        destination = a_destination(ris.port, tmp_path, answer_timeout_s=answer_timeout_s)
        assert isinstance(send(destination), outcome)
        destination.close()


def test_the_reason_of_a_refusal_is_kept(tmp_path):
    with Ris(ack("AE", text="unknown order")) as ris:
        assert send(a_destination(ris.port, tmp_path)) == Rejected("AE: unknown order")


def test_a_late_answer_of_another_message_is_not_taken_for_this_one(tmp_path):
    with Ris(ack("AE", "S0") + ack("AA")) as ris:
        assert isinstance(send(a_destination(ris.port, tmp_path)), Delivered)


def test_after_silence_the_next_message_gets_a_connection_of_its_own(tmp_path):
    with Ris(b"", ack("AA")) as ris:
        destination = a_destination(ris.port, tmp_path, answer_timeout_s=0.2)
        assert isinstance(send(destination), RetryLater)
        # The silence is over; how long the answer takes is not what is tested.
        for one in (destination, *destination._idle):
            one._options = one._options.model_copy(update={"answer_timeout_s": 20})
        assert isinstance(send(destination), Delivered)
        assert ris.connections == 2
        destination.close()


def test_one_connection_carries_many_messages(tmp_path):
    with Ris(*[ack("AA")] * 5) as ris:
        destination = a_destination(ris.port, tmp_path)
        assert all(isinstance(send(destination), Delivered) for _ in range(5))
        assert ris.connections == 1
        destination.close()


def test_messages_sent_at_once_are_each_answered_on_a_connection_of_their_own(tmp_path):
    """On a shared one, whoever reads first takes the other's answer off the wire, and the other waits in vain."""
    with contextlib.closing(MllpSink()) as ris:
        both_there = threading.Barrier(2, timeout=20)

        class Waiting(list):
            def append(self, message):
                super().append(message)
                both_there.wait()

        ris.messages = Waiting()
        destination = a_destination(ris.port, tmp_path)
        payloads = [orm(control_id=key).encode() for key in ("S1", "S2")]
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda payload: send(destination, payload), payloads))
        destination.close()
    assert outcomes == [Delivered("AA"), Delivered("AA")]


def test_a_connection_the_ris_closed_between_messages_is_replaced(tmp_path):
    with Ris(ack("AA") + b"BYE", ack("AA")) as ris:
        destination = a_destination(ris.port, tmp_path)
        assert isinstance(send(destination), Delivered)
        # The end of the connection has arrived here; a sender that writes before it has would try again later.
        ended = select.poll()
        ended.register(destination._idle[0]._socket, select.POLLIN)
        assert ended.poll(10_000)
        assert isinstance(send(destination), Delivered)
        assert ris.connections == 2
        destination.close()


def test_nobody_listening_is_worth_another_try(tmp_path):
    destination = a_destination(free_port(), tmp_path)
    assert isinstance(send(destination), RetryLater)
    check = destination.check()
    assert (check.ok, "refused" in check.detail) == (False, True)


def test_a_check_connects_and_sends_nothing(tmp_path):
    with Ris() as ris:
        assert a_destination(ris.port, tmp_path).check().ok
    assert ris.received == []


def test_images_are_not_taken(tmp_path):
    assert isinstance(send(a_destination(1, tmp_path), None), Rejected)


def test_a_message_without_a_header_is_rejected_before_it_is_sent(tmp_path):
    with Ris() as ris:
        assert isinstance(send(a_destination(ris.port, tmp_path), b"PID|1\r"), Rejected)
    assert ris.received == []


@pytest.fixture
def server_tls(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


def test_tls_is_spoken_and_the_certificate_checked(tmp_path, server_tls):
    with Ris(ack("AA"), context=server_tls) as ris:
        trusting = a_destination(ris.port, tmp_path, tls=True, ca_file=tmp_path / "cert.pem")
        assert isinstance(send(trusting), Delivered)
        trusting.close()
    with Ris(ack("AA"), context=server_tls) as ris:
        assert isinstance(send(a_destination(ris.port, tmp_path, tls=True)), Misconfigured)
        assert isinstance(
            send(a_destination(ris.port, tmp_path, tls=True, ca_file=tmp_path / "none.pem")), Misconfigured
        )
    assert ris.received == []


def test_a_file_is_sent_message_by_message(tmp_path):
    file = tmp_path / "orders.hl7"
    file.write_text(
        orm(control_id="F1").replace("\r", "\n") + "\n" + orm(control_id="F2").replace("\r", "\r\n")
    )
    with Ris(ack("AA", "F1"), ack("AE", "F2")) as ris:
        code, text = send_file(file, host="127.0.0.1", port=ris.port, timeout_s=20)
    assert code == "AE"
    assert text.count("MSA|") == 2
    assert [tokenize(m.decode()).value("MSH-10") for m in ris.received] == ["F1", "F2"]
    assert all(b"\n" not in message for message in ris.received)


def test_a_file_of_blocks_is_read_as_blocks():
    assert read_messages(frame(b"MSH|1\r") + b"\n" + frame(b"MSH|2\r")) == [b"MSH|1\r", b"MSH|2\r"]
    assert read_messages(b"") == []


def test_silence_is_told_as_such():
    with Ris(b"") as ris, pytest.raises(MllpSilent):
        send_message(MESSAGE, MllpOptions(host="127.0.0.1", port=ris.port, answer_timeout_s=0.1))
