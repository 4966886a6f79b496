"""Makes final names durable, many at once, and only then takes the incoming names away.

Whoever received an object does not wait for this: until then the object survives a power cut under its incoming
name, and its row says what its final name is.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Final

from broker.failpoints import failpoint
from broker.files.disk import Disk

_REMEMBERED_FOLDERS: Final = 64


class Settler:
    """Collects objects that have both names. `settle` may run in other threads than `add`."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk = disk
        self._root = root
        self._waiting: deque[tuple[Path, str]] = deque()
        self._settling = threading.Lock()
        self._rooted: set[str] = set()

    def add(self, incoming: Path, folder: str) -> None:
        """Take note of an object that was linked into a minute folder of the store."""
        self._waiting.append((incoming, folder))

    @property
    def waiting(self) -> int:
        """Answer how many objects have both names."""
        return len(self._waiting)

    def settle(self) -> int:
        """Sync the folders, then remove the incoming names; answer how many. Raises OSError.

        A sync that failed is not tried again, for it might then say that all is well: those objects keep
        their incoming names.
        """
        with self._settling:  # who finds nothing left to do may rely on that it is done
            return self._settle()

    def _settle(self) -> int:
        folders: dict[str, list[Path]] = {}
        for _ in range(len(self._waiting)):
            incoming, folder = self._waiting.popleft()
            folders.setdefault(folder, []).append(incoming)
        settled, trouble = 0, None
        for folder, names in folders.items():
            try:
                self.sync_names(folder)
                failpoint("cstore.after_name_sync")
                for incoming in names:
                    self._disk.remove(incoming)
                    settled += 1
            except OSError as error:
                trouble = error
        if trouble is not None:
            raise trouble
        return settled

    def sync_names(self, folder: str) -> None:
        """Make everything in a minute folder findable after a power cut. Raises OSError."""
        self._disk.sync_folder(self._root / folder)
        if folder in self._rooted:
            return
        # Also when they were there: another process may have made them and not yet synced them.
        self._disk.sync_folder(self._root / folder[:8])
        self._disk.sync_folder(self._root)
        if len(self._rooted) >= _REMEMBERED_FOLDERS:
            self._rooted.clear()
        self._rooted.add(folder)
