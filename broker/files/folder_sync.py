"""Syncs folders once for a whole crowd."""

from __future__ import annotations

import threading
from pathlib import Path

from broker.files.disk import Disk


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
