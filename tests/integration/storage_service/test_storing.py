"""Storage over the network: what is acknowledged is exact, ours, and there once."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from pathlib import Path

import pydicom
import pytest
from pynetdicom.presentation import AllStoragePresentationContexts
from structlog.testing import capture_logs

from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.failures import ContextNotAccepted
from broker.workflow.images_port import InstanceState
from tests.bundled_files import DATA, data_set_of
from tests.integration.storage_service.receiving_site import Site
from tests.peers import run
from tests.storage_listener import CT, EXPLICIT, a_data_set, an_association, element, store

# ---- exact -----------------------------------------------------------------------------------------------


def sendable() -> list[tuple[Path, str, str, str, bytes]]:
    """pydicom's own files that are objects: (path, SOP class, SOP instance, transfer syntax, data set)."""
    found = []
    seen = set()
    for path in sorted(DATA.rglob("*")):
        if not path.is_file() or path.suffix not in (".dcm", ""):
            continue
        raw = path.read_bytes()
        if raw[128:132] != b"DICM":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = pydicom.dcmread(io.BytesIO(raw), stop_before_pixels=True)
                uids = (dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID)
                assert dataset.SeriesInstanceUID
                assert all(uids)
            except Exception:  # DICOMDIRs and deliberately broken files
                continue
        syntax, data = data_set_of(raw)
        if uids[1] in seen:
            continue
        seen.add(uids[1])
        found.append((path, str(uids[0]), str(uids[1]), syntax, data))
    return found


def test_objects_of_every_transfer_syntax_are_kept_byte_for_byte(site: Site) -> None:
    objects = sendable()
    contexts = sorted({(sop_class, syntax) for _, sop_class, _, syntax, _ in objects})
    assert len({syntax for _, syntax in contexts}) >= 8
    assert len(objects) >= 40
    refused = {}
    with an_association(site.port, *contexts) as association:
        for path, sop_class, uid, syntax, data in objects:
            status = store(association, data, uid, sop_class=sop_class, syntax=syntax)
            if status:
                refused[path.name] = status
    assert refused == {}
    rows = {row.sop_instance_uid: row for row in site.rows()}
    for path, sop_class, uid, syntax, data in objects:
        row = rows[uid]
        assert site.data_set(row) == data, path.name
        assert row.sha256 == hashlib.sha256(data).digest()
        assert (row.sop_class_uid, row.transfer_syntax_uid) == (sop_class, syntax)
        meta = pydicom.filereader.read_file_meta_info(site.files.absolute(row.path))
        assert (meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (uid, syntax)


def test_a_row_says_who_sent_what(site: Site) -> None:
    with an_association(site.port) as association:
        assert store(association, a_data_set()) == 0x0000
    (row,) = site.rows()
    assert (row.calling_ae_title, row.called_ae_title, row.peer) == ("CT1", "BROKER", "127.0.0.1")
    assert (row.patient_id, row.accession_number, row.modality) == ("PID1", "A1", "CT")
    assert (row.study_instance_uid, row.series_instance_uid) == ("1.2.3", "1.2.3.1")
    assert row.state is InstanceState.RECEIVED
    assert row.size_bytes == site.files.absolute(row.path).stat().st_size


@pytest.mark.peer
@pytest.mark.parametrize("sender", ["dcmsend", "storescu"])
def test_what_dcmtk_sends_arrives_whole(site: Site, tmp_path: Path, sender: str) -> None:
    names = [
        ("CT_small.dcm", "-xe"),
        ("MR_small_implicit.dcm", "-xi"),
        ("JPEG2000.dcm", "-xw"),
        ("SC_rgb_rle.dcm", "-xr"),
        ("SC_rgb_jpeg_gdcm.dcm", "-xs"),
        ("image_dfl.dcm", "-xd"),
    ]
    arrived = 0
    for name, propose in names:
        path = DATA / name
        if not path.exists():
            continue
        target = ("-aec", "BROKER", "-aet", "CT1", "127.0.0.1", site.port, path)
        run(sender, *((propose, *target) if sender == "storescu" else target))
        arrived += 1
        original = pydicom.dcmread(path)
        row = site.rows()[-1]
        received = pydicom.dcmread(site.files.absolute(row.path))
        assert received.SOPInstanceUID == row.sop_instance_uid == original.SOPInstanceUID
        # dcmsend decompresses some on its way: it is the picture that must be the same.
        assert (received.pixel_array == original.pixel_array).all(), name
        assert received.PatientID == original.PatientID
        assert row.facts["Modality"] == (original.Modality,)
    assert arrived >= 5


# ---- negotiation -----------------------------------------------------------------------------------------


def test_every_storage_sop_class_is_offered_and_others_are_not(site: Site) -> None:
    classes = sorted({str(context.abstract_syntax) for context in AllStoragePresentationContexts})
    assert len(classes) > 150
    for start in range(0, len(classes), 100):
        some = classes[start : start + 100]
        with an_association(site.port, *((uid, EXPLICIT) for uid in some)) as association:
            for uid in some:
                association.context_for(uid, EXPLICIT)
    others = ("1.2.840.10008.5.1.4.31", "1.3.12.2.1107.5.9.1")
    with an_association(site.port, *((uid, EXPLICIT) for uid in (CT, *others))) as association:
        for uid in others:
            with pytest.raises(ContextNotAccepted):
                association.context_for(uid, EXPLICIT)


def test_private_sop_classes_are_offered_where_the_site_says_so(tmp_path: Path, sqlite_uow_factory) -> None:
    site = Site(tmp_path, sqlite_uow_factory, accept_unknown_storage=True)
    try:
        private = "1.3.12.2.1107.5.9.1"
        with an_association(site.port, (private, EXPLICIT)) as association:
            assert store(association, a_data_set(sop_class=private), sop_class=private) == 0x0000
    finally:
        site.server.stop(grace_s=1)


def test_a_proposal_of_everything_is_answered(site: Site) -> None:
    contexts = [Proposal(str(c.abstract_syntax), (EXPLICIT,)) for c in AllStoragePresentationContexts][:128]
    with open_association(
        "127.0.0.1", site.port, calling_ae_title="CT1", called_ae_title="BROKER", contexts=contexts
    ) as association:
        assert store(association, a_data_set()) == 0x0000


# ---- refused ---------------------------------------------------------------------------------------------


BOMB = b"".join(b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(100))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (a_data_set("1.2.3.5"), 0xA900),
        (a_data_set(sop_class="1.2.840.10008.5.1.4.1.1.4"), 0xA900),
        (a_data_set(sop_class=None), 0xA900),
        (a_data_set(study=None), 0xA900),
        (a_data_set(series=None), 0xA900),
        (a_data_set(study="../../etc/passwd"), 0xA900),
        (a_data_set(series="1.2\n.3"), 0xA900),
        (a_data_set(study="1." * 40 + "1"), 0xA900),
        (a_data_set()[:75], 0xC000),
        (a_data_set()[:-100], 0xC000),  # ends inside its pixels: the rest is still with its sender
        (b"\0" * 128 + b"DICM" + a_data_set(), 0xC000),
        (element(2, 0x10, "UI", EXPLICIT) + a_data_set(), 0xC000),
        (BOMB + a_data_set(), 0xC000),
        (b"\x08\x00\x05\x00CS\x02\x00xx\x08\x00\x16\x00\x01\x02\x04\x00abcd", 0xC000),
    ],
)
def test_what_is_no_object_of_ours_is_refused_and_leaves_nothing(
    site: Site, data: bytes, status: int
) -> None:
    with an_association(site.port) as association:
        assert store(association, data) == status
        assert store(association, a_data_set("1.2.9"), "1.2.9") == 0x0000, "the association goes on"
    assert [row.sop_instance_uid for row in site.rows()] == ["1.2.9"]
    assert len(site.kept()) == 1


def test_the_reason_of_a_refusal_is_in_the_log_without_the_patient(site: Site) -> None:
    with capture_logs() as lines, an_association(site.port) as association:
        store(association, a_data_set("1.2.8"), "1.2.9")
    (line,) = lines
    assert (line["event"], line["status"], line["calling_ae_title"]) == ("object refused", "A900", "CT1")
    assert line["reason"] == "SOPInstanceUID differs from the command's"


@pytest.mark.parametrize("uid", ["../../x", "/etc/cron.d/x", "1.2\n3", "<script>", "1..2", ".1", "1" * 65])
def test_a_uid_that_could_name_a_path_is_refused_with_0117(site: Site, uid: str) -> None:
    with an_association(site.port) as association:
        assert store(association, a_data_set(), uid) == 0x0117
        assert store(association, a_data_set("1.2.9"), "1.2.9") == 0x0000
    assert len(site.kept()) == 1


def test_leading_zeros_in_a_uid_are_forgiven(site: Site) -> None:
    with an_association(site.port) as association:
        assert store(association, a_data_set("1.2.03", study="1.002"), "1.2.03") == 0x0000


def test_missing_type_2_attributes_are_no_reason_to_refuse(site: Site) -> None:
    bare = element(8, 0x16, "UI", CT) + element(8, 0x18, "UI", "1.2.3.4")
    bare += element(0x20, 0x0D, "UI", "1.2.3") + element(0x20, 0x0E, "UI", "1.2.3.1")
    with an_association(site.port) as association:
        assert store(association, bare) == 0x0000


# ---- again -----------------------------------------------------------------------------------------------


def test_the_same_object_again_keeps_the_first_file_alone(site: Site) -> None:
    with an_association(site.port) as association:
        assert [store(association, a_data_set()) for _ in range(3)] == [0, 0, 0]
    (row,) = site.rows()
    assert row.resends == 2
    assert site.kept() == [site.files.absolute(row.path)]


def test_sending_again_heals_a_lost_file(site: Site) -> None:
    with an_association(site.port) as association:
        assert store(association, a_data_set()) == 0x0000
        (row,) = site.rows()
        site.files.absolute(row.path).unlink()
        assert store(association, a_data_set()) == 0x0000
    assert site.data_set(row) == a_data_set()
    assert len(site.kept()) == 1


def test_other_content_under_the_same_uid_keeps_both_files(site: Site) -> None:
    with an_association(site.port) as association:
        assert store(association, a_data_set(pixels=b"11")) == 0x0000
        assert store(association, a_data_set(pixels=b"22")) == 0x0000
    assert [(row.version, site.data_set(row)[-2:]) for row in site.rows()] == [(1, b"11"), (2, b"22")]


def test_many_associations_at_once_store_everything_once(site: Site) -> None:
    statuses: list[int] = []

    def send(number: int) -> None:
        with an_association(site.port) as association:
            for image in range(25):
                uid = f"1.2.{number}.{image}"
                statuses.append(store(association, a_data_set(uid), uid))
            statuses.append(store(association, a_data_set("1.2.99"), "1.2.99"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 156
    rows = site.rows()
    assert len(rows) == len({row.sop_instance_uid for row in rows}) == 151
    assert len(site.kept()) == 151
    assert all(site.data_set(row) == a_data_set(row.sop_instance_uid) for row in rows)
