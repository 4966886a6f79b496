"""Listeners on real sockets while somebody captures: every byte both ways is heard, and nobody is kept from talking."""

import os
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest

from broker.dicom.network.channel import Channel
from broker.dicom.network.client import ClientTls
from broker.dicom.network.failures import AssociationRejected
from broker.dicom.network.tapped import TappedChannel
from broker.dicom.network.tls import ServerTls
from broker.files.capture_store import CaptureLimits, CaptureStore
from broker.files.capture_taps import CaptureTaps
from broker.hl7.mllp import frame
from broker.workflow.captures_port import Capture
from tests.dicom_conversation import CT_IMAGE, EXPLICIT, Shelf, storage_offer
from tests.integration.association_listener import (
    CT,
    ECHO,
    connected,
    files,
    knocking,
    listening,
    wait_until,
)
from tests.integration.mllp_listener import Running, ids, message, received
from tests.pcap_reader import conversations


def a_capture(protocol, name="", address="", number=1):
    now = datetime.now(UTC)
    return Capture(number, protocol, name, address, now, now + timedelta(hours=1), "test", "ada")


@pytest.fixture
def capture(tmp_path):
    """Answer taps that capture this from the start, and what they have heard by now."""
    made = []

    def begin(*captures):
        store = CaptureStore(tmp_path / "captures", CaptureLimits(reserve_bytes=0, reserve_percent=0.0))
        taps = CaptureTaps(store, captures[0].protocol)
        taps.follow(captures)
        made.append(taps)

        def heard(number=1):
            taps.writer.flush()
            return conversations(b"".join(store.read(number)))

        return taps, heard

    yield begin
    for taps in made:
        taps.stop()


def to_port(heard, port):
    """Answer what was said to and by the port, by the peers' ports."""
    to = {way[0][1]: one for way, one in heard.items() if way[1][1] == port}
    by = {way[1][1]: one for way, one in heard.items() if way[0][1] == port}
    assert to.keys() == by.keys()
    return {peer: (to[peer], by[peer]) for peer in to}


def finished(heard, port, number):
    """Wait until so many conversations have ended on our side."""

    def done():
        found = to_port(heard(), port)
        return found if sum(bool(ours.ended) for _, ours in found.values()) == number else None

    found = []
    wait_until(lambda: found.append(done()) or found[-1], within_s=20)
    return found[-1]


# ── DICOM ───────────────────────────────────────────────────────────────────────────────────────────────


def an_association(server, **more):
    image = os.urandom(400_000)
    with connected(server, [*ECHO, *CT], **more) as association:
        assert association.echo() == 0
        reply = association.store(
            sop_class_uid=CT_IMAGE, sop_instance_uid="1.2", context=EXPLICIT, payload=BytesIO(image)
        )
        assert reply.status == 0
    return image


def test_a_device_is_captured_whole_and_others_are_not(capture):
    taps, heard = capture(a_capture("dicom", "CT1"))
    with listening(storage_offer(Shelf()), taps=taps) as server:
        an_association(server, calling="MR1")
        image = an_association(server)
        ((theirs, ours),) = finished(heard, server.port, 1).values()
    assert theirs.text[:1] == b"\x01"
    assert b"CT1             " in theirs.text[:74]
    assert b"BROKER" in theirs.text[:74]
    # Fragments of the image stand between headers of PDUs; its ends are of one piece.
    assert image[:1000] in theirs.text
    assert image[-1000:] in theirs.text
    assert len(theirs.text) > len(image)
    assert theirs.text.endswith(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"), "A-RELEASE-RQ"
    assert ours.text[:1] == b"\x02"
    assert ours.text.endswith(b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"), "A-RELEASE-RP"
    assert theirs.gaps == ours.gaps == []


def test_who_is_refused_is_captured_too(capture):
    taps, heard = capture(a_capture("dicom", "CT1"))
    with listening(taps=taps) as server:
        with pytest.raises(AssociationRejected), connected(server, called="BROCKER"):
            pass
        ((theirs, ours),) = finished(heard, server.port, 1).values()
    assert b"BROCKER" in theirs.text
    assert ours.text[:1] == b"\x03", "A-ASSOCIATE-RJ"


def test_by_address_also_those_who_say_nothing_or_something_else(capture):
    taps, heard = capture(
        a_capture("dicom", address="127.0.0.0/8"), a_capture("dicom", address="10.0.0.0/8", number=2)
    )
    with listening(taps=taps) as server:
        with knocking(server) as silent:
            port = silent.getsockname()[1]
        with knocking(server) as browser:
            browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = browser.recv(100)
            browser_port = browser.getsockname()[1]
        found = finished(heard, server.port, 2)
        assert heard(2) == {}
    assert found[port][0].text == b""
    assert found[browser_port][0].text == b"GET / HTTP/1.1\r\n\r\n"
    assert found[browser_port][1].text == answer


def test_of_tls_is_captured_what_is_said_inside(capture, certificates):
    taps, heard = capture(a_capture("dicom", "CT1"))
    with listening(storage_offer(Shelf()), tls=ServerTls(files(certificates, "broker")), taps=taps) as server:
        image = an_association(server, tls=ClientTls(files(certificates, "ct1")))
        ((theirs, ours),) = finished(heard, server.port, 1).values()
    assert theirs.text[:1] == b"\x01"
    assert image[:1000] in theirs.text
    assert ours.text[:1] == b"\x02"


def test_a_capture_that_fails_costs_no_association(capture, caplog):
    class Broken:
        is_on, in_force = True, ()

        def tap(self, local, peer, *, is_new=True, before=None):
            return self

        def __getattr__(self, name):
            raise ZeroDivisionError

    with listening(storage_offer(Shelf()), taps=Broken()) as server:
        an_association(server)


def test_a_tapped_channel_says_everything_a_channel_does():
    public = {name for name, value in vars(Channel).items() if callable(value) and not name.startswith("_")}
    assert public <= vars(TappedChannel).keys()


# ── HL7 ─────────────────────────────────────────────────────────────────────────────────────────────────


def from_lab(control_id):
    return message(control_id).replace(b"|RIS|", b"|LAB|", 1)


def test_an_open_connection_is_captured_from_its_next_message_and_only_the_senders_own(capture, clock):
    taps, heard = capture(a_capture("hl7", "RIS"))
    taps.follow([])
    with Running(clock, taps=taps) as running, running.connect() as peer:
        peer.sendall(frame(message("BEFORE")))
        assert ids(received(peer)) == ["BEFORE"]
        taps.follow([a_capture("hl7", "RIS")])
        for text in (message("M1"), from_lab("SECRET"), message("M2")):
            peer.sendall(frame(text))
            received(peer)
        taps.follow([])
        peer.sendall(frame(message("AFTER")))
        received(peer)
        ((theirs, ours),) = to_port(heard(), running.listener.address[1]).values()
    assert theirs.text == frame(message("M1")) + frame(message("M2"))
    assert ours.text.count(b"MSA|AA|M") == 2
    assert b"SECRET" not in theirs.text + ours.text


def test_by_address_a_connection_is_captured_from_its_beginning_to_its_end(capture, clock):
    taps, heard = capture(a_capture("hl7", address="127.0.0.1"))
    with Running(clock, taps=taps) as running:
        with running.connect() as peer:
            for number in range(20):
                peer.sendall(frame(from_lab(f"M{number}")))
                assert ids(received(peer)) == [f"M{number}"]
            taps.follow([one.capture for one in taps.in_force] + [a_capture("hl7", "RIS", number=2)])
            peer.sendall(b"junk" + frame(message("LAST")))
            received(peer)
        ((theirs, ours),) = finished(heard, running.listener.address[1], 1).values()
        assert next(one.text for one in heard(2).values()) == frame(message("LAST"))
    assert theirs.text == b"".join(frame(from_lab(f"M{number}")) for number in range(20)) + b"junk" + frame(
        message("LAST")
    )
    assert ours.text.count(b"MSA|AA") == 21
    assert theirs.ended == "end"


def test_of_hl7_over_tls_is_captured_what_is_said_inside(capture, clock, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    taps, heard = capture(replace(a_capture("hl7", "RIS"), address="127.0.0.0/8"))
    with Running(clock, tls=context, taps=taps) as running:
        trusting = ssl.create_default_context(cafile=certificate[0])
        with running.connect() as plain, trusting.wrap_socket(plain, server_hostname="localhost") as peer:
            peer.sendall(frame(message("T1")))
            assert ids(received(peer)) == ["T1"]
        ((theirs, ours),) = finished(heard, running.listener.address[1], 1).values()
    assert theirs.text == frame(message("T1"))
    assert b"MSA|AA|T1" in ours.text
