"""A FileStore on a disk that fails or fills, and the sweep of what was left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.errors import OutOfResources, StorageFull
from broker.files.store import DiskFileStore
from tests.contract.sick_disk import NOW, SickDisk, StoppedClock, a_store, begin, files_below, keep, nobody


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
    open_before = set(disk.handles)
    disk.failing["names_of"] = errno.EIO
    with pytest.raises(OutOfResources):
        begin(store)
    assert disk.handles < open_before
    assert len(disk.handles) == len(open_before) - 1


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
