"""The `dicom` destination against peers that are not ours."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom import _config as pynetdicom_config
from pynetdicom.sop_class import _STORAGE_CLASSES

from broker.dicom.destinations.store import StoreDestination, StoreOptions
from broker.domain.delivery import Delivered, Misconfigured, Rejected, RetryLater
from broker.errors import LeaseLost
from tests.parcels import Ledger, a_context, a_parcel, an_image, an_item

pynetdicom_config.LOG_HANDLER_LEVEL = "none"

needs_dcmtk = pytest.mark.skipif(shutil.which("storescp") is None, reason="DCMTK is not installed")
ALL_PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]


class Scp:
    """A strict storage SCP by pynetdicom; `answer(n, event)` gives the status of the n-th C-STORE, from 1."""

    def __init__(self, answer=None, *, contexts=None, ae_title="PACS", require_called=False):
        self.received: list[str] = []
        self.data_sets = []
        self.associations = 0
        self.refuses = False
        self.answer = answer or (lambda number, event: 0x0000)
        ae = AE(ae_title)
        ae.require_called_aet = require_called
        ae.maximum_associations = 20
        for sop_class, syntaxes in contexts or [(CTImageStorage, ALL_PLAIN), (MRImageStorage, ALL_PLAIN)]:
            ae.add_supported_context(sop_class, syntaxes)
        ae.add_supported_context("1.2.840.10008.1.1")
        self.lock = threading.Lock()
        self.server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self.on_store), (evt.EVT_ACCEPTED, self.on_accepted)],
        )
        self.port = self.server.server_address[1]

    def on_accepted(self, event):
        self.associations += 1
        if self.refuses:
            event.assoc.abort()

    def on_store(self, event):
        with self.lock:
            self.received.append(str(event.request.AffectedSOPInstanceUID))
            number = len(self.received)
            self.data_sets.append((event.context.transfer_syntax, event.request.DataSet.getvalue()))
        return self.answer(number, event)

    def close(self):
        # It polls every half second; nothing here waits for that.
        threading.Thread(target=self.server.shutdown, daemon=True).start()


@pytest.fixture
def scp():
    running = []

    def start(*args, **kwargs):
        running.append(Scp(*args, **kwargs))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def destination_to(tmp_path):
    made = []

    def make(port, **options):
        values = {"host": "127.0.0.1", "port": port, "called_ae_title": "PACS", **options}
        made.append(StoreDestination(StoreOptions.model_validate(values), a_context(tmp_path)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def items(tmp_path):
    def make(count, first=1, **attributes):
        return [
            an_item(an_image(**attributes), tmp_path / "store", number)
            for number in range(first, first + count)
        ]

    return make


def uids(items):
    return [item.sop_instance_uid for item in items]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# ---- the plain path ------------------------------------------------------------------------------------


def test_objects_arrive_bit_for_bit_and_are_settled(scp, destination_to, items):
    peer = scp()
    parcel = items(3)
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Delivered)
    assert ledger.delivered == [1, 2, 3]
    assert {result.wire_status for result in ledger.results} == {"0000"}
    assert peer.received == uids(parcel)
    for item, (syntax, data) in zip(parcel, peer.data_sets, strict=True):
        assert syntax == item.transfer_syntax_uid
        assert data == item.path.read_bytes()[item.data_set_offset :]


def test_check_is_a_c_echo(scp, destination_to):
    assert destination_to(scp().port).check().ok
    nobody = destination_to(free_port()).check()
    assert not nobody.ok
    assert "cannot be reached" in nobody.detail


def test_an_association_is_kept_for_the_next_parcel_and_released_when_idle(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port, idle_s=0.3)
    for number in range(1, 6):
        assert isinstance(destination.send(a_parcel(items(1, first=number)), Ledger()), Delivered)
    assert peer.associations == 1
    wait_for(lambda: not peer.server.active_associations)
    assert isinstance(destination.send(a_parcel(items(1, first=9)), Ledger()), Delivered)
    assert peer.associations == 2


def test_close_releases_what_is_idle(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port, idle_s=100)
    destination.send(a_parcel(items(1)), Ledger())
    assert peer.server.active_associations
    destination.close()
    wait_for(lambda: not peer.server.active_associations)


def test_an_association_the_peer_closed_while_idle_is_nobodys_fault(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port, idle_s=100)
    destination.send(a_parcel(items(1)), Ledger())
    for association in peer.server.active_associations:
        association.abort()
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel(items(2, first=2)), ledger), Delivered)
    assert ledger.delivered == [2, 3]


def test_a_new_association_after_max_per_association(scp, destination_to, items):
    peer = scp()
    assert isinstance(
        destination_to(peer.port, max_per_association=4).send(a_parcel(items(10)), Ledger()), Delivered
    )
    assert peer.associations == 3


def test_several_threads_send_at_once(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port)
    parcels = [items(5, first=10 * number) for number in range(1, 5)]
    ledgers = [Ledger() for _ in parcels]
    threads = [
        threading.Thread(target=destination.send, args=(a_parcel(parcel), ledger))
        for parcel, ledger in zip(parcels, ledgers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(peer.received) == sorted(uid for parcel in parcels for uid in uids(parcel))
    assert all(len(ledger.delivered) == 5 for ledger in ledgers)


def test_more_classes_than_one_association_can_propose(scp, destination_to, tmp_path):
    classes = sorted(_STORAGE_CLASSES.values())[:150]
    peer = scp(contexts=[(uid, ALL_PLAIN) for uid in classes])
    parcel = [
        an_item(an_image(SOPClassUID=uid), tmp_path / "store", number) for number, uid in enumerate(classes)
    ]
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Delivered)
    assert len(ledger.delivered) == 150
    assert peer.associations == 3


# ---- what peers answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0111])
def test_success_and_the_listed_warnings_are_delivered(scp, destination_to, items, status):
    ledger = Ledger()
    outcome = destination_to(scp(lambda number, event: status).port).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, Delivered)
    assert ledger.delivered == [1, 2]
    assert ledger.results[0].wire_status == f"{status:04X}"


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0x0117, 0x0120, 0x0212])
def test_a_permanent_refusal_is_one_items_and_the_others_go_on(scp, destination_to, items, status):
    peer = scp(lambda number, event: status if number == 2 else 0)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(4)), ledger)
    assert isinstance(outcome, Rejected)
    assert f"{status:04X}" in outcome.reason
    assert ledger.delivered == [1, 3, 4]
    assert ledger.rejected == [2]


def test_a_class_not_supported_parks_the_class_without_asking_again(scp, destination_to, tmp_path):
    peer = scp(lambda number, event: 0x0122 if event.request.AffectedSOPClassUID == MRImageStorage else 0)
    classes = [CTImageStorage, MRImageStorage, MRImageStorage, CTImageStorage, MRImageStorage]
    parcel = [
        an_item(an_image(SOPClassUID=uid), tmp_path / "store", number) for number, uid in enumerate(classes)
    ]
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Rejected)
    assert ledger.delivered == [0, 3]
    assert ledger.rejected == [1, 2, 4]
    assert len(peer.received) == 3


@pytest.mark.parametrize(("status", "first_delay_s"), [(0xA700, 60), (0xA7FF, 60), (0x0213, None)])
def test_a_peer_out_of_resources_is_left_alone_and_progress_kept(
    scp, destination_to, items, status, first_delay_s
):
    peer = scp(lambda number, event: status if number == 3 else 0)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(6)), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.first_delay_s == first_delay_s
    assert ledger.delivered == [1, 2]
    assert ledger.rejected == []
    assert len(peer.received) == 3


@pytest.mark.parametrize(
    ("status", "max_tries"), [(0x0110, 5), (0xC000, 3), (0xFE00, 3), (0x9999, 3), (0xB123, 3)]
)
def test_a_failure_that_may_be_one_items_alone_does_not_hold_the_others(
    scp, destination_to, items, status, max_tries
):
    peer = scp(lambda number, event: status if number == 2 else 0)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(4)), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.max_tries == max_tries
    assert ledger.delivered == [1, 3, 4]
    assert ledger.rejected == []


def test_five_failures_in_a_row_are_no_accident(scp, destination_to, items):
    peer = scp(lambda number, event: 0x0110)
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(items(20)), ledger), RetryLater)
    assert len(peer.received) == 5
    assert ledger.results == []


def test_not_authorised_is_a_matter_of_settings(scp, destination_to, items):
    ledger = Ledger()
    outcome = destination_to(scp(lambda number, event: 0x0124).port).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, Misconfigured)
    assert ledger.results == []


def test_a_wrong_ae_title_is_a_matter_of_settings(scp, destination_to, items):
    ledger = Ledger()
    destination = destination_to(scp(require_called=True).port, called_ae_title="WRONG")
    outcome = destination.send(a_parcel(items(1)), ledger)
    assert isinstance(outcome, Misconfigured)
    assert "called AE title" in outcome.reason
    assert not destination.check().ok
    assert ledger.results == []


def test_a_closed_port_is_tried_again(destination_to, items):
    ledger = Ledger()
    assert isinstance(destination_to(free_port()).send(a_parcel(items(1)), ledger), RetryLater)
    assert ledger.results == []


@pytest.mark.timeout(20)
def test_a_peer_that_accepts_and_says_nothing_is_given_up(destination_to, items):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destination = destination_to(silent.getsockname()[1], timeouts={"association_s": 0.3})
        began = time.monotonic()
        outcome = destination.send(a_parcel(items(1)), Ledger())
    assert isinstance(outcome, RetryLater)
    assert "in time" in outcome.reason
    assert time.monotonic() - began < 5


def test_a_peer_that_never_answers_a_store_is_given_up(scp, destination_to, items):
    release = threading.Event()
    peer = scp(lambda number, event: 0 if number != 2 else release.wait(10) * 0)
    ledger = Ledger()
    outcome = destination_to(peer.port, timeouts={"response_s": 0.5}).send(a_parcel(items(3)), ledger)
    release.set()
    assert isinstance(outcome, RetryLater)
    assert ledger.delivered == [1]


# ---- what peers do -------------------------------------------------------------------------------------


def test_after_an_abort_at_100_of_300_the_retry_sends_only_the_200_that_are_left(scp, destination_to, items):
    def die_after_100(number, event):
        if number == 101 and not died:
            died.append(True)
            peer.refuses = True
            event.assoc.abort()
        return 0

    died = []
    peer = scp(die_after_100)
    everything = items(300, rows=8, columns=8)
    destination = destination_to(peer.port)
    first = Ledger()
    outcome = destination.send(a_parcel(everything), first)
    assert isinstance(outcome, RetryLater)
    assert first.delivered == list(range(1, 101))
    peer.refuses = False
    left = [item for item in everything if item.id not in first.delivered]
    second = Ledger()
    assert isinstance(destination.send(a_parcel(left, attempt=2), second), Delivered)
    assert second.delivered == list(range(101, 301))
    assert len(peer.received) == 301
    assert set(peer.received) == set(uids(everything))


def test_a_peer_that_aborts_now_and_then_still_gets_everything_at_once(scp, destination_to, items):
    def abort_every_tenth(number, event):
        if number % 10 == 0:
            event.assoc.abort()
        return 0

    ledger = Ledger()
    peer = scp(abort_every_tenth)
    assert isinstance(destination_to(peer.port).send(a_parcel(items(35)), ledger), Delivered)
    assert sorted(ledger.delivered) == list(range(1, 36))


def test_an_object_that_breaks_every_association_is_set_aside_and_the_others_go_on(
    scp, destination_to, items
):
    parcel = items(6)
    poison = parcel[2].sop_instance_uid

    def abort_on_poison(number, event):
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
        return 0

    peer = scp(abort_on_poison)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.max_tries == 10
    assert ledger.delivered == [1, 2, 4, 5, 6]
    assert ledger.rejected == []
    assert peer.received.count(poison) == 2


def test_a_peer_that_aborts_everything_is_left_alone(scp, destination_to, items):
    peer = scp(lambda number, event: event.assoc.abort() or 0)
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(items(50)), ledger), RetryLater)
    assert len(peer.received) == 3
    assert ledger.results == []


def test_a_lost_lease_stops_the_sending(scp, destination_to, items):
    peer = scp()
    with pytest.raises(LeaseLost):
        destination_to(peer.port).send(a_parcel(items(60)), Ledger(lose_after=1))
    assert len(peer.received) <= 40


# ---- transfer syntaxes ---------------------------------------------------------------------------------


def compressed(syntax, **attributes):
    ds = an_image(rows=64, columns=64, **attributes)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(syntax, generate_instance_uid=False)
    return ds


def test_a_syntax_the_peer_takes_is_sent_as_it_is(scp, destination_to, tmp_path):
    peer = scp(contexts=[(CTImageStorage, [*ALL_PLAIN, JPEG2000Lossless])])
    item = an_item(compressed(JPEG2000Lossless), tmp_path / "store")
    assert isinstance(destination_to(peer.port).send(a_parcel([item]), Ledger()), Delivered)
    syntax, data = peer.data_sets[0]
    assert syntax == JPEG2000Lossless
    assert data == item.path.read_bytes()[item.data_set_offset :]


def read_back(peer, index=0):
    syntax, data = peer.data_sets[index]
    ds = pydicom.filereader.read_dataset(
        pydicom.filebase.DicomBytesIO(data), is_implicit_VR=syntax.is_implicit_VR, is_little_endian=True
    )
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("accepted", ALL_PLAIN)
def test_a_syntax_the_peer_refuses_is_decompressed_for_it(scp, destination_to, tmp_path, syntax, accepted):
    peer = scp(contexts=[(CTImageStorage, [accepted])])
    ds = compressed(syntax)
    pixels = ds.pixel_array.copy()
    item = an_item(ds, tmp_path / "store")
    before = item.path.read_bytes()
    assert isinstance(destination_to(peer.port).send(a_parcel([item]), Ledger()), Delivered)
    arrived = read_back(peer)
    assert peer.data_sets[0][0] == accepted
    assert np.array_equal(arrived.pixel_array, pixels)
    assert arrived.SOPInstanceUID == item.sop_instance_uid
    assert arrived.PatientName == "ZZTEST^ANNA"
    assert item.path.read_bytes() == before


def test_without_leave_to_decompress_the_object_is_refused(scp, destination_to, tmp_path):
    peer = scp()
    bad = an_item(compressed(JPEG2000Lossless), tmp_path / "store", 1)
    good = an_item(an_image(), tmp_path / "store", 2)
    ledger = Ledger()
    outcome = destination_to(peer.port, transcode="never").send(a_parcel([bad, good]), ledger)
    assert isinstance(outcome, Rejected)
    assert "no_context" in outcome.reason
    assert (ledger.rejected, ledger.delivered) == ([1], [2])
    assert len(peer.received) == 1


@pytest.mark.parametrize(
    ("stored", "accepted"),
    [
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ExplicitVRBigEndian, ImplicitVRLittleEndian),
        (ExplicitVRBigEndian, ExplicitVRLittleEndian),
        (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian),
    ],
)
def test_uncompressed_objects_are_encoded_anew_when_only_the_other_syntax_is_taken(
    scp, destination_to, tmp_path, stored, accepted
):
    peer = scp(contexts=[(CTImageStorage, [accepted])])
    ds = an_image(rows=10, columns=10)
    pixels = np.arange(100, dtype=np.uint16).reshape(10, 10) * 300
    ds["PixelData"].VR = "OW"
    ds.PixelData = pixels.astype(">u2" if stored == ExplicitVRBigEndian else "<u2").tobytes()
    ds.BitsStored, ds.HighBit = 16, 15
    item = an_item(ds, tmp_path / "store") if stored == ExplicitVRLittleEndian else None
    if item is None:
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = stored
        item = an_item(ds, tmp_path / "store")
    assert item.transfer_syntax_uid == stored
    outcome = destination_to(peer.port, transcode="never").send(a_parcel([item]), Ledger())
    assert isinstance(outcome, Delivered), outcome
    assert peer.data_sets[0][0] == accepted
    arrived = read_back(peer)
    assert np.array_equal(arrived.pixel_array, pixels)
    assert arrived.InstanceNumber == 1


def test_a_class_the_peer_does_not_know_is_refused_for_its_items_alone(scp, destination_to, tmp_path):
    peer = scp(contexts=[(CTImageStorage, ALL_PLAIN)])
    classes = [MRImageStorage, CTImageStorage]
    parcel = [
        an_item(an_image(SOPClassUID=uid), tmp_path / "store", number) for number, uid in enumerate(classes)
    ]
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(parcel), ledger)
    assert isinstance(outcome, Rejected)
    assert "no_context" in outcome.reason
    assert (ledger.rejected, ledger.delivered) == ([0], [1])


def test_pixels_that_cannot_be_decoded_refuse_their_item_alone(scp, destination_to, tmp_path):
    broken = compressed(JPEG2000Lossless)
    broken.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 100])
    bad = an_item(broken, tmp_path / "store", 1)
    good = an_item(an_image(), tmp_path / "store", 2)
    ledger = Ledger()
    assert isinstance(destination_to(scp().port).send(a_parcel([bad, good]), ledger), Rejected)
    assert (ledger.rejected, ledger.delivered) == ([1], [2])


# ---- our own disk --------------------------------------------------------------------------------------


def test_a_missing_and_a_shortened_file_refuse_their_items_alone(scp, destination_to, items, tmp_path):
    parcel = items(4)
    parcel[0] = replace(parcel[0], path=tmp_path / "gone.dcm")
    os.truncate(parcel[1].path, parcel[1].size_bytes - 10)
    ledger = Ledger()
    outcome = destination_to(scp().port).send(a_parcel(parcel), ledger)
    assert isinstance(outcome, Rejected)
    assert str(tmp_path) not in outcome.reason
    assert (ledger.rejected, ledger.delivered) == ([1, 2], [3, 4])


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_stored_file_that_cannot_be_opened_just_now_waits_and_the_others_go_on(
    scp, destination_to, items, unopenable, number
):
    parcel, ledger = items(3), Ledger()
    destination = destination_to(scp().port)
    with unopenable(parcel[0].path, number):
        outcome = destination.send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert (ledger.delivered, ledger.rejected) == ([2, 3], [])
    assert isinstance(destination.send(a_parcel(parcel[:1]), ledger), Delivered)


def test_a_disk_that_fails_in_the_middle_of_an_object_is_not_the_peers_fault(
    scp, destination_to, items, unopenable
):
    parcel, ledger = items(2), Ledger()
    peer = scp()
    destination = destination_to(peer.port)
    with unopenable(parcel[0].path, errno.EIO, when_read=True):
        outcome = destination.send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert (ledger.delivered, ledger.rejected) == ([2], [])
    assert peer.received == [parcel[1].sop_instance_uid]


def test_a_file_that_cannot_be_opened_to_be_encoded_anew_waits(scp, destination_to, tmp_path, unopenable):
    item, ledger = an_item(an_image(), tmp_path / "store", 1), Ledger()
    destination = destination_to(scp(contexts=[(CTImageStorage, [ImplicitVRLittleEndian])]).port)
    with unopenable(item.path, errno.EMFILE):
        outcome = destination.send(a_parcel([item]), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert ledger.results == []
    assert isinstance(destination.send(a_parcel([item]), ledger), Delivered)


# ---- TLS -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    for name in ("peer", "other"):
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
            f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {name}.key -out {name}.pem".split(),
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


@contextmanager
def storescp(tmp_path, *arguments, stop_signal=signal.SIGTERM):
    folder = tmp_path / "received"
    folder.mkdir(exist_ok=True)
    port = free_port()
    process = subprocess.Popen(
        ["storescp", *map(str, arguments), "-od", folder, "-aet", "PACS", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def listens():
            assert process.poll() is None, "storescp ended"
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens)
        yield port, folder
    finally:
        process.send_signal(stop_signal)
        process.wait(10)


@pytest.mark.peer
@needs_dcmtk
def test_tls_with_a_trusted_peer_delivers_and_with_another_is_a_matter_of_settings(
    certificates, destination_to, items, tmp_path
):
    tls_arguments = ["+tls", certificates / "peer.key", certificates / "peer.pem", "-ic"]
    ours = {"certificate": certificates / "peer.pem", "key": certificates / "peer.key"}
    with storescp(tmp_path, *tls_arguments) as (port, folder):
        trusting = destination_to(port, tls={**ours, "trusted": certificates / "peer.pem"})
        outcome = trusting.send(a_parcel(items(2)), Ledger())
        assert isinstance(outcome, Delivered), outcome
        trusting.close()
        assert len(list(folder.iterdir())) == 2
        ledger = Ledger()
        outcome = destination_to(port, tls={**ours, "trusted": certificates / "other.pem"}).send(
            a_parcel(items(1)), ledger
        )
        assert isinstance(outcome, Misconfigured)
        assert ledger.results == []


def test_tls_files_that_do_not_exist_are_a_matter_of_settings(scp, destination_to, items):
    destination = destination_to(scp().port, tls={"trusted": "no-such-file.pem"})
    assert isinstance(destination.send(a_parcel(items(1)), Ledger()), Misconfigured)


# ---- DCMTK and Orthanc ---------------------------------------------------------------------------------


@pytest.mark.peer
@needs_dcmtk
def test_storescp_receives_what_was_sent(destination_to, items, tmp_path):
    parcel = items(20)
    ledger = Ledger()
    with storescp(tmp_path, "+xa") as (port, folder):
        destination = destination_to(port)
        assert isinstance(destination.send(a_parcel(parcel), ledger), Delivered)
        destination.close()
        arrived = {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert arrived == set(uids(parcel))
    assert ledger.delivered == list(range(1, 21))


@pytest.mark.peer
@needs_dcmtk
@pytest.mark.parametrize("behaviour", [["--refuse"], ["--abort-after"], ["--abort-during"]])
def test_a_storescp_that_refuses_or_aborts_is_tried_again_later(destination_to, items, tmp_path, behaviour):
    with storescp(tmp_path, *behaviour) as (port, _):
        ledger = Ledger()
        outcome = destination_to(port).send(a_parcel(items(5, rows=256, columns=256)), ledger)
    assert isinstance(outcome, RetryLater), outcome
    assert ledger.results == []


@pytest.mark.peer
@needs_dcmtk
def test_a_storescp_that_sleeps_too_long_is_given_up(destination_to, items, tmp_path):
    with storescp(tmp_path, "--sleep-after", 30, stop_signal=signal.SIGKILL) as (port, _):
        ledger = Ledger()
        began = time.monotonic()
        outcome = destination_to(port, timeouts={"response_s": 0.5}).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, RetryLater)
    assert ledger.delivered == [1]  # it answers, then sleeps
    assert time.monotonic() - began < 15


@pytest.mark.peer
@needs_dcmtk
def test_a_storescp_that_sleeps_in_the_middle_still_gets_everything(destination_to, items, tmp_path):
    with storescp(tmp_path, "--sleep-during", 1) as (port, folder):
        destination = destination_to(port)
        ledger = Ledger()
        assert isinstance(destination.send(a_parcel(items(2)), ledger), Delivered)
        destination.close()
        assert len(list(folder.iterdir())) == 2
    assert ledger.delivered == [1, 2]


@pytest.mark.peer
@needs_dcmtk
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_a_storescp_that_takes_no_compression_gets_plain_pixels(destination_to, tmp_path, syntax):
    ds = compressed(syntax)
    pixels = ds.pixel_array.copy()
    with storescp(tmp_path) as (port, folder):
        destination = destination_to(port)
        assert isinstance(destination.send(a_parcel([an_item(ds, tmp_path / "store")]), Ledger()), Delivered)
        destination.close()
        arrived = pydicom.dcmread(next(folder.iterdir()))
    assert np.array_equal(arrived.pixel_array, pixels)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed")
def test_orthanc_archives_what_was_sent_and_takes_it_twice(destination_to, items, tmp_path):
    dicom_port, http_port = free_port(), free_port()
    configuration = tmp_path / "orthanc.json"
    configuration.write_text(
        f'{{"StorageDirectory": "{tmp_path}/orthanc", "IndexDirectory": "{tmp_path}/orthanc", "DicomAet": "PACS",'
        f' "DicomPort": {dicom_port}, "HttpPort": {http_port}, "RemoteAccessAllowed": false,'
        ' "DicomAlwaysAllowStore": true, "Plugins": []}'
    )
    process = subprocess.Popen(
        ["Orthanc", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        destination = destination_to(dicom_port)
        wait_for(lambda: destination.check().ok, timeout_s=30)
        parcel = items(10)
        for attempt in (1, 2):
            ledger = Ledger()
            outcome = destination.send(a_parcel(parcel, attempt=attempt), ledger)
            assert isinstance(outcome, Delivered), outcome
            assert len(ledger.delivered) == 10
        destination.close()
    finally:
        process.terminate()
        process.wait(20)
