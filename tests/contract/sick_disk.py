"""A file store on a disk that can be told to fail, and what a test keeps in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from broker.files.disk import LocalDisk, Space
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
    handles: set[int] = field(default_factory=set)
    """Open ones."""

    def _call(self, name: str) -> None:
        if name != "read":  # comes from another thread at any time
            self.calls.append(name)
        self._fail(name)

    def _fail(self, name: str) -> None:
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def create(self, path: Path) -> int:
        self._call("create")
        handle = super().create(path)
        self.handles.add(handle)
        return handle

    def close(self, handle: int) -> None:
        super().close(handle)
        self.handles.discard(handle)

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


def nobody(names: Sequence[str]) -> set[str]:
    return set()
