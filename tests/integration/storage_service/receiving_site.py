"""A listener with a disk that fills when told, and what it has stored."""

from __future__ import annotations

import time
from pathlib import Path

from broker.files.disk import LocalDisk, Space
from tests.storage_listener import a_file_store, a_listener


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


def wait_until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
