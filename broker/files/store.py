"""Keeps received objects: one file each, whole and synced under its name, or not there at all.

A file is written beside its place, synced, renamed, and its folder synced; only then is it `kept`. Names are
made of our own ids and the minute of arrival, never of anything a peer sent. The minute folders let a whole
crowd of receivers share one folder sync.
"""

from __future__ import annotations

import errno
import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from broker.errors import InvalidValue, OutOfResources, StorageFull
from broker.files.disk import Disk, LocalDisk
from broker.files.part10 import part10_head
from broker.workflow.ports import Clock, IncomingFile, StoredFile

DEFAULT_FREE_RESERVE_BYTES: Final = 2 * 1024**3
DEFAULT_FREE_RESERVE_PERCENT: Final = 5.0
SPACE_CHECK_BYTES: Final = 32 * 1024 * 1024
"""How much one object may grow before the reserve is looked at again."""
SWEEP_BATCH: Final = 500

_PATH = re.compile(r"\d{8}/\d{4}/[0-9a-f]{32}\.dcm\Z")
_DAY, _MINUTE = re.compile(r"\d{8}\Z"), re.compile(r"\d{4}\Z")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FolderSync:
    """Syncs folders, once for everybody who asked before the sync began."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._folders: dict[Path, _FolderTurn] = {}

    def sync(self, folder: Path) -> None:
        """Return when a sync of the folder that began after this call has ended well."""
        with self._lock:
            turn = self._folders.setdefault(folder, _FolderTurn())
            turn.asked += 1
            mine = turn.asked
        try:
            with turn.lock:
                if turn.synced >= mine:
                    return
                with self._lock:
                    target = turn.asked
                self._disk.sync_folder(folder)
                turn.synced = target
        finally:
            with self._lock:
                turn.left += 1
                if turn.left == turn.asked:
                    self._folders.pop(folder, None)


class _FolderTurn:
    __slots__ = ("asked", "left", "lock", "synced")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = 0
        self.left = 0
        self.synced = 0


class DiskFileStore:
    """Implements the FileStore port on a folder of one filesystem."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        implementation_class_uid: str,
        implementation_version_name: str,
        free_reserve_bytes: int = DEFAULT_FREE_RESERVE_BYTES,
        free_reserve_percent: float = DEFAULT_FREE_RESERVE_PERCENT,
        disk: Disk | None = None,
    ) -> None:
        """Keep files below `root`; refuse new ones while free space is below the larger reserve."""
        self._root = root
        self._incoming = root / "incoming"
        self._clock = clock
        self._class_uid = implementation_class_uid
        self._version_name = implementation_version_name
        self._reserve_bytes = free_reserve_bytes
        self._reserve_percent = free_reserve_percent
        self._disk: Disk = disk or LocalDisk()
        self._folder_sync = FolderSync(self._disk)
        self._folder_lock = threading.Lock()
        self._folder = ""

    def prepare(self) -> None:
        """Make the store's folders; once at start."""
        for folder in (self._root, self._incoming):
            if self._disk.make_folder(folder):
                self._disk.sync_folder(folder.parent)

    def create(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> IncomingFile:
        """Begin a file. Raises StorageFull when the reserve is reached, OutOfResources when it cannot be made."""
        if not self.has_room():
            raise StorageFull
        head = part10_head(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            source_ae_title=calling_ae_title,
            implementation_class_uid=self._class_uid,
            implementation_version_name=self._version_name,
        )
        name = secrets.token_hex(16)
        try:
            return _Incoming(self, self._disk, self._incoming / f"{name}.part", name=name, head=head)
        except OSError as error:
            raise _trouble(error) from error

    def open(self, path: str) -> BinaryIO:
        """Open a kept file for reading."""
        return self.absolute(path).open("rb")

    def absolute(self, path: str) -> Path:
        """Answer where a kept file lies; refuse every path that is not one of ours."""
        if not _PATH.match(path):
            raise InvalidValue("that is not the path of a stored object")
        return self._root / path

    def remove(self, path: str) -> None:
        """Remove a kept file; one that is gone already is fine."""
        self._disk.remove(self.absolute(path))

    def give_up(self, path: str, *, in_favour_of: str) -> None:
        """Remove a file whose content is kept elsewhere; should that one be lost, this takes its place."""
        spare, first = self.absolute(path), self.absolute(in_favour_of)
        if self._disk.exists(first):
            self._disk.remove(spare)
            return
        self._disk.make_folder(first.parent.parent)
        self._disk.make_folder(first.parent)
        self._disk.rename(spare, first)
        for folder in (first.parent, first.parent.parent, self._root):
            self._disk.sync_folder(folder)

    def has_room(self) -> bool:
        """Answer whether the free-space reserve is untouched."""
        try:
            space = self._disk.space(self._root)
        except OSError:
            return False
        reserve = max(self._reserve_bytes, int(space.total_bytes * self._reserve_percent / 100))
        return space.free_bytes >= reserve

    def place(self, incoming: Path, name: str) -> str:
        """Move a synced file to its place and make the name durable; answer the path."""
        folder = self._todays_folder()
        path = f"{folder}/{name}.dcm"
        target = self._root / path
        self._disk.rename(incoming, target)
        try:
            self._folder_sync.sync(target.parent)
        except OSError:
            self._disk.remove(target)
            raise
        return path

    def _todays_folder(self) -> str:
        folder = self._clock.now().strftime("%Y%m%d/%H%M")
        if folder == self._folder:
            return folder
        with self._folder_lock:
            if folder != self._folder:
                day = self._root / folder[:8]
                self._disk.make_folder(day)
                self._disk.make_folder(self._root / folder)
                # Also when they were there: another process may have made them and not yet synced them.
                self._disk.sync_folder(self._root)
                self._disk.sync_folder(day)
                self._folder = folder
        return folder

    # ---- sweeping --------------------------------------------------------------------------------------

    def sweep_incoming(self, *, older_than: datetime) -> int:
        """Remove what receivers that died left behind, answer how many files."""
        limit = older_than.timestamp()
        stale = [
            name for name, at in self._disk.entries(self._incoming) if at < limit and name.endswith(".part")
        ]
        for name in stale:
            self._disk.remove(self._incoming / name)
        return len(stale)

    def sweep_strays(
        self,
        known: Callable[[Sequence[str]], Collection[str]],
        *,
        older_than: datetime,
        newer_than: datetime | None = None,
    ) -> int:
        """Remove kept files that have no row: their receiver died before the commit. Answer how many.

        `known` answers which of some paths have a row. Only folders of minutes in between are looked at.
        """
        removed = 0
        for folder in self._minutes(newer_than, older_than):
            removed += self._sweep_folder(folder, known, older_than.timestamp())
        return removed

    def _minutes(self, newer_than: datetime | None, older_than: datetime) -> Iterator[str]:
        first = newer_than.astimezone(UTC).strftime("%Y%m%d/%H%M") if newer_than else ""
        last = older_than.astimezone(UTC).strftime("%Y%m%d/%H%M")
        for day in sorted(name for name, _ in self._disk.entries(self._root) if _DAY.match(name)):
            if not first[:8] <= day <= last[:8]:
                continue
            for minute in sorted(name for name, _ in self._disk.entries(self._root / day)):
                if _MINUTE.match(minute) and first <= f"{day}/{minute}" <= last:
                    yield f"{day}/{minute}"

    def _sweep_folder(
        self, folder: str, known: Callable[[Sequence[str]], Collection[str]], limit: float
    ) -> int:
        removed = 0
        paths = sorted(
            f"{folder}/{name}"
            for name, at in self._disk.entries(self._root / folder)
            if at < limit and _PATH.match(f"{folder}/{name}")
        )
        for start in range(0, len(paths), SWEEP_BATCH):
            batch = paths[start : start + SWEEP_BATCH]
            rows = known(batch)
            for path in batch:
                if path not in rows:
                    self._disk.remove(self._root / path)
                    removed += 1
        return removed


class _Incoming:
    """Implements the IncomingFile port; used by one thread."""

    __slots__ = (
        "_disk",
        "_handle",
        "_head",
        "_name",
        "_offset",
        "_path",
        "_sha256",
        "_size",
        "_store",
        "_unchecked",
    )

    def __init__(self, store: DiskFileStore, disk: Disk, path: Path, *, name: str, head: bytes) -> None:
        self._store = store
        self._disk = disk
        self._path = path
        self._name = name
        self._head = head
        self._offset = len(head)
        self._size = 0
        self._unchecked = 0
        self._sha256 = hashlib.sha256()
        self._handle: int | None = disk.create(path)

    def write(self, data: memoryview) -> None:
        """Append to the data set. Raises StorageFull or OutOfResources; then nothing is left behind."""
        handle = self._handle
        if handle is None:
            raise OutOfResources("The file is closed.")
        try:
            self._unchecked += len(data)
            if self._unchecked >= SPACE_CHECK_BYTES:
                self._unchecked = 0
                if not self._store.has_room():
                    raise StorageFull
            if self._head:
                self._disk.write(handle, (self._head, data))
                self._head = b""
            else:
                self._disk.write(handle, (data,))
        except OSError as error:
            self.discard()
            raise _trouble(error) from error
        except StorageFull:
            self.discard()
            raise
        self._size += len(data)
        self._sha256.update(data)

    def keep(self) -> StoredFile:
        """Sync and give the final name. Raises StorageFull or OutOfResources; then nothing is left behind."""
        handle = self._handle
        if handle is None:
            raise OutOfResources("The file is closed.")
        try:
            if self._head:
                self._disk.write(handle, (self._head,))
            self._disk.sync(handle)
            self._handle = None
            self._disk.close(handle)
            path = self._store.place(self._path, self._name)
        except OSError as error:
            self.discard()
            raise _trouble(error) from error
        return StoredFile(path, self._offset + self._size, self._offset, self._sha256.digest())

    def discard(self) -> None:
        """Let go of it; nothing is left behind. A disk that cannot remove it leaves it to the sweep."""
        handle, self._handle = self._handle, None
        try:
            if handle is not None:
                self._disk.close(handle)
        finally:
            try:
                self._disk.remove(self._path)
            except OSError:
                return


def _trouble(error: OSError) -> OutOfResources:
    if error.errno in _FULL:
        return StorageFull("The disk is full.")
    return OutOfResources(f"The disk failed: {errno.errorcode.get(error.errno or 0, 'unknown error')}.")
