"""What every FileStore promises, on a real disk."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest

from broker.errors import InvalidValue, OutOfResources, StorageFull
from broker.files.disk import LocalDisk, Space
from broker.files.shadow_digest import Digester
from broker.files.store import DiskFileStore
from broker.workflow.images_port import FileStore, IncomingFile, StoredFile

NOW = datetime(2026, 11, 21, 9, 7, 30, tzinfo=UTC)


@dataclass
class StoppedClock:
    at: datetime = NOW
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.at

    def local_now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class SickDisk(LocalDisk):
    """A real disk that can be told to fail, and that remembers what was asked of it."""

    failing: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    free_bytes: int | None = None
    begun: list[tuple[int, int]] = field(default_factory=list)

    def _call(self, name: str) -> None:
        if name != "read":  # comes from another thread at any time
            self.calls.append(name)
        self._fail(name)

    def _fail(self, name: str) -> None:
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def create(self, path: Path) -> int:
        self._call("create")
        return super().create(path)

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> None:
        self._call("write")
        super().write(handle, pieces)

    def read(self, handle: int, space: memoryview, offset: int) -> int:
        self._call("read")
        return super().read(handle, space, offset)

    def begin_sync(self, handle: int, offset: int, count: int) -> None:
        self._call("begin_sync")
        self.begun.append((offset, count))
        super().begin_sync(handle, offset, count)

    def sync(self, handle: int) -> None:
        self._call("sync")
        super().sync(handle)

    def link(self, source: Path, target: Path) -> None:
        self._call("link")
        super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename")
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder")
        super().sync_folder(path)

    def remove(self, path: Path) -> None:
        self._fail("remove")
        super().remove(path)

    def names_of(self, path: Path) -> int:
        self._fail("names_of")
        return super().names_of(path)

    def space(self, path: Path) -> Space:
        self._call("space")
        found = super().space(path)
        return found if self.free_bytes is None else Space(self.free_bytes, found.total_bytes)


def a_store(root: Path, disk: LocalDisk | None = None, clock: StoppedClock | None = None) -> DiskFileStore:
    store = DiskFileStore(
        root / "objects",
        clock or StoppedClock(),
        implementation_class_uid="2.25.1",
        implementation_version_name="TEST",
        free_reserve_bytes=1000,
        free_reserve_percent=0,
        in_background=False,
        disk=disk,
    )
    store.prepare()
    return store


class NoLinks(SickDisk):
    """A disk of a filesystem without hard links."""

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "not here")


def begin(store: FileStore, **changes: str) -> IncomingFile:
    values = {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "sop_instance_uid": "1.2.3.4",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "calling_ae_title": "CT1",
    }
    return store.create(**{**values, **changes})


def keep(store: FileStore, data: bytes = b"\x08\x00\x60\x00CS\x02\x00CT") -> StoredFile:
    incoming = begin(store)
    incoming.write(memoryview(data))
    return incoming.keep()


def files_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_kept_file_holds_the_data_set_exactly_as_it_came(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    data = os.urandom(300_001)
    incoming = begin(store)
    for start in range(0, len(data), 65_536):
        incoming.write(memoryview(data)[start : start + 65_536])
    kept = incoming.keep()
    content = store.absolute(kept.path).read_bytes()
    assert content[kept.data_set_offset :] == data
    assert kept.size_bytes == len(content)
    assert kept.sha256 == hashlib.sha256(data).digest()
    with store.open(kept.path) as stream:
        assert stream.read() == content


def test_the_head_is_a_part_10_file_with_a_zeroed_preamble(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    kept = keep(store)
    content = store.absolute(kept.path).read_bytes()
    assert content[:132] == b"\0" * 128 + b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert dataset.Modality == "CT"
    meta = dataset.file_meta
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert meta.ImplementationClassUID == "2.25.1"
    assert meta.ImplementationVersionName == "TEST"
    assert meta.SourceApplicationEntityTitle == "CT1"
    assert kept.data_set_offset == 144 + meta.FileMetaInformationGroupLength


def test_names_come_from_our_own_ids_and_the_group_alone_may_read(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    kept = begin(store, sop_instance_uid="../../etc/cron.d/x", calling_ae_title="../x")
    path = kept.keep().path
    assert path.startswith("20261121/0907/")
    assert path.endswith(".dcm")
    assert store.absolute(path).stat().st_mode & 0o777 == 0o640
    assert "etc" not in path


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "20261121/0907/x.dcm", "", "incoming/a.part"])
def test_a_path_that_is_not_ours_is_refused(tmp_path: Path, path: str) -> None:
    store = a_store(tmp_path)
    with pytest.raises(InvalidValue):
        store.open(path)
    with pytest.raises(InvalidValue):
        store.remove(path)


def test_content_is_synced_before_it_is_linked_into_a_name_that_is_durable_already(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    disk.calls.clear()
    keep(store)
    assert disk.calls == ["space", "create", "sync_folder", "write", "sync", "link"], "nothing was ready"
    store.make_ready()
    disk.calls.clear()
    keep(store)
    assert disk.calls == ["space", "write", "sync", "link"], "one sync, no more"


def test_final_names_are_synced_with_their_folders_before_the_incoming_ones_go(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    first, second = keep(store), keep(store)
    assert len(files_below(tmp_path)) == 4, "two names each"
    disk.calls.clear()
    assert store.settle() == 2
    assert disk.calls == ["sync_folder"] * 3, "minute, day and store, once for both"
    assert set(files_below(tmp_path)) == {store.absolute(first.path), store.absolute(second.path)}
    keep(store)
    disk.calls.clear()
    assert store.settle() == 1
    assert disk.calls == ["sync_folder"]
    assert store.settle() == 0


def test_without_a_synced_folder_the_incoming_name_stays(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    keep(store)
    disk.failing["sync_folder"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        store.settle()
    disk.failing.clear()
    assert store.settle() == 0, "a failed sync is not believed the second time"
    assert len(files_below(tmp_path)) == 2
    assert len(store.unsettled()) == 1


def test_the_store_settles_by_itself_and_makes_files_ready(tmp_path: Path) -> None:
    store = DiskFileStore(
        tmp_path / "objects",
        StoppedClock(),
        implementation_class_uid="2.25.1",
        implementation_version_name="TEST",
        free_reserve_bytes=0,
        free_reserve_percent=0,
        ready_files=4,
    )
    store.prepare()
    kept = keep(store)
    incoming = tmp_path / "objects" / "incoming"
    own = incoming / f"{Path(kept.path).stem}.part"
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while own.exists() or len(list(incoming.iterdir())) < 4:
        assert datetime.now(UTC) < deadline
        threading.Event().wait(0.01)
    assert keep(store).size_bytes == kept.size_bytes
    store.close()
    assert len(files_below(tmp_path)) == 2
    assert list(incoming.iterdir()) == []


def test_a_filesystem_without_hard_links_costs_a_sync_and_nothing_else(tmp_path: Path) -> None:
    disk = NoLinks()
    store = a_store(tmp_path, disk)
    keep(store)
    store.make_ready()
    disk.calls.clear()
    kept = keep(store)
    assert disk.calls == ["space", "write", "sync", "rename", "sync_folder"]
    assert store.settle() == 0
    assert store.absolute(kept.path).exists()


def test_a_ready_file_that_is_too_old_is_not_written_into(tmp_path: Path) -> None:
    clock = StoppedClock()
    store = a_store(tmp_path, clock=clock)
    store.make_ready()
    clock.seconds = 601.0
    keep(store)
    store.settle()
    assert len(files_below(tmp_path)) == 1


def test_a_ready_file_that_a_sweep_took_is_not_written_into(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.make_ready()
    taken = store.sweep_incoming(nobody, older_than=datetime.now(UTC) + timedelta(hours=2))
    assert taken == 32
    kept = keep(store)
    assert store.absolute(kept.path).exists()


def test_a_final_name_that_was_lost_is_given_again(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    lost, there = keep(store, b"lost"), keep(store, b"there")
    store.absolute(lost.path).unlink()
    assert set(store.unsettled()) == {Path(file.path).stem for file in (lost, there)}
    assert store.restore(lost.path)
    assert not store.restore(lost.path)
    assert not store.restore(there.path)
    assert store.absolute(lost.path).read_bytes().endswith(b"lost")
    made = store.unsettled()[Path(there.path).stem]
    assert abs(made - NOW) < timedelta(seconds=1), "a name says when it was made"


def test_the_digest_is_right_whoever_computes_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    alone, beside = begin(store), begin(store)
    data = os.urandom(5_000_001)
    for incoming in (alone, beside):
        for start in range(0, len(data), 131_066):
            incoming.write(memoryview(data)[start : start + 131_066])
    digest = hashlib.sha256(data).digest()
    assert [alone.keep().sha256, beside.keep().sha256] == [digest, digest]


def test_a_receiver_digests_itself_what_no_thread_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digester, "take", lambda *_: None)
    store = a_store(tmp_path)
    data = os.urandom(3_000_001)
    incoming = begin(store)
    for start in range(0, len(data), 131_066):
        incoming.write(memoryview(data)[start : start + 131_066])
    assert incoming.keep().sha256 == hashlib.sha256(data).digest()
    given_up = begin(store)
    given_up.write(memoryview(data))
    given_up.discard()


def test_an_object_is_discarded_while_it_is_digested(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for _ in range(20):
        incoming = begin(store)
        incoming.write(memoryview(bytes(3_000_000)))
        incoming.discard()
    assert files_below(tmp_path) == []
    assert keep(store).sha256


def test_the_disk_begins_with_a_large_object_while_it_comes_in(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    incoming = begin(store)
    for _ in range(9):
        incoming.write(memoryview(bytes(1 << 20)))
    kept = incoming.keep()
    offset, step = kept.data_set_offset, 4 << 20
    assert disk.begun == [(offset, step), (offset + step, step)]
    assert disk.calls[-2:] == ["sync", "link"]
    assert kept.sha256 == hashlib.sha256(bytes(9 << 20)).digest()


def test_a_discarded_file_leaves_nothing(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    incoming = begin(store)
    incoming.write(memoryview(b"half"))
    incoming.discard()
    incoming.discard()
    assert files_below(tmp_path) == []
    with pytest.raises(OutOfResources):
        incoming.keep()


@pytest.mark.parametrize("call", ["create", "write", "read", "sync", "link", "sync_folder"])
@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, OutOfResources)],
)
def test_a_failing_disk_is_out_of_resources_and_leaves_nothing_behind(
    tmp_path: Path, call: str, number: int, error: type[OutOfResources]
) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    first = keep(store)
    disk.failing[call] = number
    with pytest.raises(error) as caught:
        keep(store)
    assert type(caught.value) is error
    disk.failing.clear()
    store.settle()
    assert files_below(tmp_path) == [store.absolute(first.path)]
    disk.failing.clear()
    assert store.absolute(keep(store).path).exists(), "it recovers by itself"


def test_a_file_given_up_for_another_is_removed_unless_the_other_is_lost(tmp_path: Path) -> None:
    clock = StoppedClock(NOW)
    store = a_store(tmp_path, clock=clock)
    first = keep(store)
    clock.at += timedelta(days=1)
    spare = keep(store)
    store.give_up(spare.path, in_favour_of=first.path)
    store.settle()
    assert files_below(tmp_path) == [store.absolute(first.path)]
    store.remove(first.path)
    store.absolute(first.path).parent.rmdir()
    spare = keep(store)
    store.give_up(spare.path, in_favour_of=first.path)
    store.settle()
    assert files_below(tmp_path) == [store.absolute(first.path)]


def test_a_file_that_cannot_be_given_up_is_left_to_the_sweep_unless_the_other_is_lost(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    first, spare = keep(store), keep(store)
    disk.failing["remove"] = errno.EIO
    store.give_up(spare.path, in_favour_of=first.path)
    assert store.absolute(spare.path).exists()
    disk.failing.clear()
    store.remove(first.path)
    disk.failing["link"] = errno.EIO
    with pytest.raises(OutOfResources):
        store.give_up(spare.path, in_favour_of=first.path)
    assert store.absolute(spare.path).exists()
    assert not store.absolute(first.path).exists()


def test_a_ready_file_that_cannot_be_looked_at_is_let_go(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    store.make_ready()
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - these are no files
    disk.failing["names_of"] = errno.EIO
    with pytest.raises(OutOfResources):
        begin(store)
    assert len(os.listdir("/proc/self/fd")) == open_before - 1  # noqa: PTH208


def test_below_the_reserve_nothing_is_begun_and_it_recovers(tmp_path: Path) -> None:
    disk = SickDisk(free_bytes=999)
    store = a_store(tmp_path, disk)
    assert not store.has_room()
    with pytest.raises(StorageFull):
        begin(store)
    disk.free_bytes = 1000
    assert store.has_room()
    keep(store)


def test_the_reserve_is_the_larger_of_bytes_and_share(tmp_path: Path) -> None:
    disk = SickDisk()
    total = disk.space(tmp_path).total_bytes
    store = DiskFileStore(
        tmp_path,
        StoppedClock(),
        implementation_class_uid="2.25.1",
        implementation_version_name="TEST",
        free_reserve_bytes=10,
        free_reserve_percent=5,
        disk=disk,
    )
    disk.free_bytes = int(total * 0.05) - 1
    assert not store.has_room()
    disk.free_bytes += 1
    assert store.has_room()


def test_one_huge_object_stops_at_the_reserve(tmp_path: Path) -> None:
    disk = SickDisk()
    store = a_store(tmp_path, disk)
    incoming = begin(store)
    piece = memoryview(bytes(8 * 1024 * 1024))
    for _ in range(3):
        incoming.write(piece)
    disk.free_bytes = 0
    with pytest.raises(StorageFull):
        incoming.write(piece)
    assert files_below(tmp_path) == []


def test_concurrent_receivers_share_folder_syncs_where_names_are_not_ready(tmp_path: Path) -> None:
    class Gated(NoLinks):
        gate = threading.Event()
        armed = False

        def sync_folder(self, path: Path) -> None:
            super().sync_folder(path)
            if self.armed:
                self.gate.wait(20)

    disk = Gated()
    store = a_store(tmp_path, disk)
    keep(store)
    store.make_ready()
    disk.calls.clear()
    disk.armed = True
    kept: list[StoredFile] = []
    threads = [threading.Thread(target=lambda: kept.append(keep(store))) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while disk.calls.count("rename") < 8 and datetime.now(UTC) < deadline:
        threading.Event().wait(0.001)
    disk.gate.set()
    for thread in threads:
        thread.join()
    assert len({file.path for file in kept}) == 8
    assert all(store.absolute(file.path).exists() for file in kept)
    assert disk.calls.count("sync_folder") < 8


def nobody(names: Sequence[str]) -> set[str]:
    return set()


def test_the_sweep_removes_what_dead_receivers_left_and_nothing_younger(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    old, young = begin(store), begin(store)
    old.write(memoryview(b"x"))
    young.write(memoryview(b"x"))
    first, _ = files_below(tmp_path)
    os.utime(first, (0, 0))
    assert store.sweep_incoming(nobody, older_than=datetime.now(UTC) - timedelta(hours=1)) == 1
    assert len(files_below(tmp_path)) == 1


def test_the_sweep_takes_no_incoming_name_whose_object_could_be_lost_by_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    rowless, lost, there = keep(store, b"1"), keep(store, b"2"), keep(store, b"3")
    store.absolute(lost.path).unlink()
    far = datetime.now(UTC) + timedelta(hours=1)
    assert store.sweep_incoming(lambda _: {lost.path, there.path}, older_than=far) == 2
    assert store.absolute(lost.path).read_bytes().endswith(b"2"), "named again before the incoming name went"
    assert list(store.unsettled()) == [Path(rowless.path).stem], "it has a final name and perhaps soon a row"
    store.remove(rowless.path)
    assert store.sweep_incoming(nobody, older_than=far) == 1


def test_the_sweep_removes_files_without_rows_and_no_others(tmp_path: Path) -> None:
    clock = StoppedClock(NOW)
    store = a_store(tmp_path, clock=clock)
    stray, owned = keep(store), keep(store)
    clock.at = NOW + timedelta(minutes=90)
    young = keep(store)
    for file in (stray, owned, young):
        at = (NOW if file is not young else clock.at).timestamp()
        os.utime(store.absolute(file.path), (at, at))
    asked: list[str] = []

    def known(paths: Sequence[str]) -> set[str]:
        asked.extend(paths)
        return {owned.path}

    limit = clock.at - timedelta(hours=1)
    assert store.sweep_strays(known, older_than=limit) == 1
    assert not store.absolute(stray.path).exists()
    assert store.absolute(owned.path).exists()
    assert store.absolute(young.path).exists()
    assert young.path not in asked
    assert store.sweep_strays(known, older_than=limit, newer_than=NOW + timedelta(minutes=5)) == 0
