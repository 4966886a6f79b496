"""Storage over the network: what is acknowledged is durable, exact, and there once."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pynetdicom.presentation import AllStoragePresentationContexts
from structlog.testing import capture_logs

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.failures import AssociationError, ContextNotAccepted
from broker.dicom.network.payload import PayloadUnreadable
from broker.errors import DatabaseUnavailable
from broker.files.disk import LocalDisk, Space
from broker.strays import remove_unfinished, restore_names
from broker.workflow.clock import SystemClock
from broker.workflow.images_port import InstanceState
from tests.bundled_files import DATA, data_set_of
from tests.fakes.task_queue import RecordingTaskQueue
from tests.peers import run
from tests.storage_listener import (
    CT,
    EXPLICIT,
    a_data_set,
    a_file_store,
    a_listener,
    an_association,
    element,
    store,
)


class FillingDisk(LocalDisk):
    free_bytes = 1 << 40

    def space(self, path: Path) -> Space:
        return Space(self.free_bytes, 1 << 40)


class Site:
    """A running listener with what it stores."""

    def __init__(self, root: Path, uows, **options) -> None:
        self.root = root / "objects"
        self.disk = FillingDisk()
        self.files = a_file_store(self.root, self.disk)
        self.units_of_work = uows
        self.server = a_listener(self.files, lambda: self.units_of_work, **options)
        self.port = self.server.port

    def rows(self):
        with self.units_of_work() as uow:
            return uow.instances.get_many(uow.instances.undecided(10_000))

    def kept(self) -> list[Path]:
        """Answer all that is stored, or half stored; not what only lies ready."""
        self.files.settle()
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path.stat().st_size)

    def data_set(self, row) -> bytes:
        return self.files.absolute(row.path).read_bytes()[row.data_set_offset :]


@pytest.fixture
def site(tmp_path: Path, sqlite_uow_factory):
    site = Site(tmp_path, sqlite_uow_factory)
    yield site
    site.server.stop(grace_s=1)


def wait_until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


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


# ---- trouble ---------------------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_leaves_nothing(site: Site) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 300_000:
                raise ConnectionResetError
            return super().read(min(size, 65_536) if size > 0 else 65_536)

        def readinto(self, buffer) -> int:  # type: ignore[override]
            piece = self.read(len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)

    data = a_data_set(pixels=bytes(4_000_000))
    association = an_association(site.port)
    with pytest.raises(PayloadUnreadable):
        association.store(
            sop_class_uid=CT,
            sop_instance_uid="1.2.3.4",
            context=association.context_for(CT, EXPLICIT),
            payload=Breaking(data),
            length=len(data),
        )
    association.abort()
    wait_until(lambda: site.server.active == 0)
    assert site.kept() == []
    assert site.rows() == []


def test_a_full_disk_is_a700_before_it_is_full_and_heals_by_itself(site: Site) -> None:
    with an_association(site.port) as association:
        assert store(association, a_data_set("1.1"), "1.1") == 0x0000
        site.disk.free_bytes = 0
        assert store(association, a_data_set("1.2"), "1.2") == 0xA700
        assert association.context_for(CT, EXPLICIT)
        site.disk.free_bytes = 1 << 40
        assert store(association, a_data_set("1.2"), "1.2") == 0x0000
    assert [row.sop_instance_uid for row in site.rows()] == ["1.1", "1.2"]
    assert len(site.kept()) == 2


def test_an_object_that_reaches_the_reserve_while_it_comes_is_a700(site: Site) -> None:
    class Sinking(FillingDisk):
        def write(self, handle, pieces) -> None:
            super().write(handle, pieces)
            site.disk.free_bytes -= sum(len(piece) for piece in pieces)

    site.disk.__class__ = Sinking
    site.disk.free_bytes = 40_000_000
    data = a_data_set(pixels=bytes(90_000_000))
    with an_association(site.port) as association:
        assert store(association, data) == 0xA700
    assert site.kept() == []


def test_without_a_database_the_answer_is_a700_and_never_0000(site: Site) -> None:
    class Away:
        def __call__(self):
            raise DatabaseUnavailable

    uows = site.units_of_work
    with an_association(site.port) as association:
        site.units_of_work = Away()
        assert store(association, a_data_set()) == 0xA700
        site.units_of_work = uows
        assert store(association, a_data_set()) == 0x0000
    (row,) = site.rows()
    # The commit that did not answer may have happened: its file stays until the sweep has looked for its row.
    assert len(site.kept()) == 2
    with uows() as uow:
        removed = site.files.sweep_strays(
            uow.instances.with_paths, older_than=SystemClock().now().replace(year=2100)
        )
    assert removed == 1
    assert site.kept() == [site.files.absolute(row.path)]


def test_names_a_power_cut_took_are_restored_from_rows_at_the_next_start(site: Site) -> None:
    data = {f"1.2.{number}": a_data_set(f"1.2.{number}") for number in range(3)}
    with an_association(site.port) as association:
        for uid, sent in data.items():
            assert store(association, sent, uid) == 0x0000
    site.server.stop(grace_s=1)
    rows = site.rows()
    for row in rows[:2]:
        path = site.files.absolute(row.path)
        # What is found after a power cut that came before the names were settled.
        incoming = site.root / "incoming" / f"{path.stem}.part"
        if not incoming.exists():
            incoming.hardlink_to(path)
        path.unlink()
    again = a_file_store(site.root)
    assert restore_names(again, site.units_of_work) == 2
    assert restore_names(again, site.units_of_work) == 0
    assert {row.sop_instance_uid: site.data_set(row) for row in rows} == data
    assert remove_unfinished(again, site.units_of_work, now=SystemClock().now() + timedelta(hours=2)) >= 2
    assert {row.sop_instance_uid: site.data_set(row) for row in rows} == data
    assert list((site.root / "incoming").iterdir()) == []


SERVER = """
import sys, time
from pathlib import Path
from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.workflow.clock import SystemClock
from tests.bundled_files import DATA, data_set_of
from tests.fakes.task_queue import RecordingTaskQueue
from tests.storage_listener import a_file_store, a_listener
engine = open_engine(sys.argv[1])
uows = SqlUnitsOfWork(engine, RecordingTaskQueue(), SystemClock())
server = a_listener(a_file_store(Path(sys.argv[2])), lambda: uows)
print(server.port, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_in_the_middle_everything_acknowledged_is_there_and_whole(
    tmp_path: Path, sqlite_url: str, seed: int
) -> None:
    root = tmp_path / "objects"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, sqlite_url, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    acknowledged: dict[str, bytes] = {}

    def send(number: int) -> None:
        chance = random.Random(number)
        try:
            with an_association(port) as association:
                for image in range(5000):
                    uid = f"1.2.{number}.{image}"
                    data = a_data_set(uid, pixels=chance.randbytes(2 * chance.randint(1, 50_000)))
                    if store(association, data, uid) == 0:
                        acknowledged[uid] = data
        except (AssociationError, OSError):
            return

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 20 * seed, timeout_s=20)
    time.sleep(random.Random(seed).random() / 20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for thread in threads:
        thread.join()

    engine = open_engine(sqlite_url)
    uows = SqlUnitsOfWork(engine, RecordingTaskQueue(), SystemClock())
    files = a_file_store(root)
    with uows() as uow:
        rows = {row.sop_instance_uid: row for row in uow.instances.get_many(uow.instances.undecided(100_000))}
        assert set(acknowledged) <= set(rows)
        for uid, row in rows.items():
            data = files.absolute(row.path).read_bytes()[row.data_set_offset :]
            assert hashlib.sha256(data).digest() == row.sha256
            assert acknowledged.get(uid, data) == data
        later = SystemClock().now().replace(year=2100)
        files.sweep_strays(uow.instances.with_paths, older_than=later)
        files.sweep_incoming(uow.instances.paths_named, older_than=later)
    left = {path for path in root.rglob("*") if path.is_file()}
    assert left == {files.absolute(row.path) for row in rows.values()}
    engine.dispose()


def test_a_proposal_of_everything_is_answered(site: Site) -> None:
    contexts = [Proposal(str(c.abstract_syntax), (EXPLICIT,)) for c in AllStoragePresentationContexts][:128]
    with open_association(
        "127.0.0.1", site.port, calling_ae_title="CT1", called_ae_title="BROKER", contexts=contexts
    ) as association:
        assert store(association, a_data_set()) == 0x0000
