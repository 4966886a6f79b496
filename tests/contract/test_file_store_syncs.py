"""When a FileStore syncs which file and folder, and which names it has ready."""

from __future__ import annotations

import errno
import hashlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.files.store import DiskFileStore
from broker.workflow.images_port import StoredFile
from tests.contract.sick_disk import (
    NOW,
    NoLinks,
    SickDisk,
    StoppedClock,
    a_store,
    begin,
    files_below,
    keep,
    nobody,
)


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


def test_who_settles_waits_for_what_another_thread_has_under_way(tmp_path: Path) -> None:
    class SlowDisk(SickDisk):
        def sync_folder(self, path: Path) -> None:
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                returned.wait(0.1)
            super().sync_folder(path)

    entered, returned = threading.Event(), threading.Event()
    store = a_store(tmp_path, SlowDisk())
    kept = keep(store)
    other = threading.Thread(target=store.settle)
    other.start()
    assert entered.wait(20)
    store.settle()
    left = files_below(tmp_path)
    returned.set()
    other.join(20)
    assert left == [store.absolute(kept.path)]


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
