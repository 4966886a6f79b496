"""The `dicom` destination sends objects as they are, or as their receiver can read them."""

from __future__ import annotations

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

from broker.domain.delivery import Delivered, Rejected
from tests.integration.store_destination.archive import ALL_PLAIN, compressed
from tests.parcels import Ledger, a_parcel, an_image, an_item


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
