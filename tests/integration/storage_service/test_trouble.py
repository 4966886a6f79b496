"""Storage when something fails: what is acknowledged is durable, and what is not leaves nothing."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.network.failures import AssociationError
from broker.dicom.network.payload import PayloadUnreadable
from broker.errors import DatabaseUnavailable
from broker.strays import remove_unfinished, restore_names
from broker.workflow.clock import SystemClock
from tests.fakes.task_queue import RecordingTaskQueue
from tests.integration.storage_service.receiving_site import FillingDisk, Site, wait_until
from tests.storage_listener import CT, EXPLICIT, SERVER, a_data_set, a_file_store, an_association, store


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
    site.files.close()  # its thread would go on to take incoming names away
    rows = site.rows()
    for number, row in enumerate(rows):
        path = site.files.absolute(row.path)
        # What is found after a power cut that came before the names were settled.
        (site.root / "incoming" / f"{path.stem}.part").hardlink_to(path)
        if number < 2:
            path.unlink()
    again = a_file_store(site.root)
    assert restore_names(again, site.units_of_work) == 2
    assert restore_names(again, site.units_of_work) == 0
    assert {row.sop_instance_uid: site.data_set(row) for row in rows} == data
    assert remove_unfinished(again, site.units_of_work, now=SystemClock().now() + timedelta(hours=2)) == 3
    assert {row.sop_instance_uid: site.data_set(row) for row in rows} == data
    assert list((site.root / "incoming").iterdir()) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_in_the_middle_everything_acknowledged_is_there_and_whole(
    tmp_path: Path, sqlite_url: str, seed: int
) -> None:
    root = tmp_path / "objects"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, sqlite_url, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
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
    try:
        wait_until(lambda: len(acknowledged) > 20 * seed, timeout_s=60)
        time.sleep(random.Random(seed).random() / 20)
    finally:
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
