"""One object on its way into the store."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING, Final

from broker.errors import OutOfResources, StorageFull
from broker.failpoints import failpoint
from broker.files.disk import Disk
from broker.files.ready_files import ReadyFile
from broker.files.shadow_digest import Digester, ShadowDigest
from broker.workflow.images_port import StoredFile

if TYPE_CHECKING:
    from broker.files.store import DiskFileStore

SPACE_CHECK_BYTES: Final = 32 * 1024 * 1024
"""How much one object may grow before the reserve is looked at again."""
HAND_OVER_BYTES: Final = 1024 * 1024
"""How much is written before another thread begins to digest it: a small object is digested while it is synced."""
WRITE_BACK_BYTES: Final = 4 * 1024 * 1024
"""How much of a large object is written before the disk begins with it, while the rest still comes in."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoredUnderWay:
    """Implements the IncomingFile port; used by one thread."""

    __slots__ = (
        "_digest",
        "_disk",
        "_file",
        "_handed_over",
        "_head",
        "_is_done",
        "_is_open",
        "_offset",
        "_sha256",
        "_size",
        "_store",
        "_unchecked",
        "_written_back",
    )

    def __init__(
        self, store: DiskFileStore, disk: Disk, file: ReadyFile, *, head: bytes, digester: Digester | None
    ) -> None:
        """Write into `file`, behind `head`; without a digester the digest is computed as the bytes come."""
        self._store = store
        self._disk = disk
        self._file = file
        self._head = head
        self._offset = len(head)
        self._size = 0
        self._unchecked = 0
        self._handed_over = 0
        self._written_back = 0
        self._sha256 = hashlib.sha256()
        self._digest: ShadowDigest | None = None
        if digester is not None:
            self._digest = digester.begin(file.handle, self._offset)
        self._is_open = True
        self._is_done = False

    def write(self, data: memoryview) -> None:
        """Append to the data set. Raises StorageFull or OutOfResources; then nothing is left behind."""
        if not self._is_open:
            raise OutOfResources("The file is closed.")
        count = len(data)
        try:
            self._unchecked += count
            if self._unchecked >= SPACE_CHECK_BYTES:
                self._unchecked = 0
                if not self._store.has_room():
                    raise StorageFull
            if self._head:
                self._disk.write(self._file.handle, (self._head, data))
                self._head = b""
            else:
                self._disk.write(self._file.handle, (data,))
            reached = self._size + count
            if reached - self._written_back >= WRITE_BACK_BYTES:
                since, self._written_back = self._written_back, reached
                self._disk.begin_sync(self._file.handle, self._offset + since, reached - since)
        except OSError as error:
            self.discard()
            raise trouble(error) from error
        except StorageFull:
            self.discard()
            raise
        self._size += count
        if self._digest is None:
            self._sha256.update(data)
        elif self._size - self._handed_over >= HAND_OVER_BYTES:
            self._handed_over = self._size
            self._digest.extend(self._offset + self._size)

    def keep(self) -> StoredFile:
        """Sync and give the final name. Raises StorageFull or OutOfResources; then nothing is left behind."""
        if not self._is_open:
            raise OutOfResources("The file is closed.")
        file, disk = self._file, self._disk
        try:
            if self._head:
                disk.write(file.handle, (self._head,))
            if self._digest is not None:
                self._digest.extend(self._offset + self._size)
            disk.sync(file.handle)
            failpoint("cstore.after_sync")
            sha256 = self._sha256.digest() if self._digest is None else self._digest.finish()
            self._close()
            path = self._store.place(file)
        except OSError as error:
            self.discard()
            raise trouble(error) from error
        # From here on its names are the store's: nobody may take them from an object that has a row.
        self._is_done = True
        return StoredFile(path, self._offset + self._size, self._offset, sha256)

    def discard(self) -> None:
        """Let go of it; nothing is left behind. A disk that cannot remove it leaves it to the sweep."""
        if self._is_done:
            return
        self._is_done = True
        try:
            self._close()
        finally:
            try:
                self._disk.remove(self._file.path)
            except OSError:
                return

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._digest is not None:
            self._digest.stop()
        try:
            self._disk.close(self._file.handle)
        finally:
            self._store.let_go()


def trouble(error: OSError) -> OutOfResources:
    """Say what a failing disk means for whoever wanted to store something."""
    if error.errno in _FULL:
        return StorageFull("The disk is full.")
    return OutOfResources(f"The disk failed: {errno.errorcode.get(error.errno or 0, 'unknown error')}.")
