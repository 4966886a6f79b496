"""The listener and the client on real sockets, with DCMTK and pynetdicom as peers in both directions."""

import contextlib
import socket
import subprocess
import threading
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import Verification

from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import AssociationRejected
from broker.dicom.network.negotiation import any_storage
from broker.dicom.network.service import CloseReason, Response
from tests.dicom_conversation import (
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    WORKLIST,
    Answering,
    Shelf,
    offer,
    storage_offer,
)
from tests.integration.association_listener import ECHO, calling, listening, peer, run, wait_until
from tests.ports import free_port

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


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
        for number in range(200_000):
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
    assert len(produced) < 200_000


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
    port = free_port()
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
