"""Keeps received objects: one file each, whole and synced under its name, or not there at all.

An object is written into a file of the incoming folder whose name is durable already, synced, and linked to its
final name; only then is it `kept`. It waits for no folder: after a power cut the final name may be missing, and
is given again from the incoming name and the row (docs/adr/0003). Names are made of our own ids and the minute of
arrival, never of anything a peer sent.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from broker.errors import InvalidValue, StorageFull
from broker.files.disk import Disk, LocalDisk
from broker.files.folder_sync import FolderSync
from broker.files.incoming_file import StoredUnderWay, trouble
from broker.files.keeper import Keeper
from broker.files.minutes import FORMAT, minutes
from broker.files.part10 import part10_head
from broker.files.ready_files import SUFFIX, ReadyFile, ReadyFiles, made_at, new_name
from broker.files.settling import Settler
from broker.files.shadow_digest import Digester
from broker.workflow.clock import Clock
from broker.workflow.images_port import IncomingFile

DEFAULT_FREE_RESERVE_BYTES: Final = 2 * 1024**3
DEFAULT_FREE_RESERVE_PERCENT: Final = 5.0
DEFAULT_READY_FILES: Final = 32
SWEEP_BATCH: Final = 500
_CROWD_LASTS: Final = 16
"""Objects that must have come one after the other before another thread computes digests again."""

_PATH = re.compile(r"\d{8}/\d{4}/[0-9a-f]{32}\.dcm\Z")
_INCOMING = re.compile(r"[0-9a-f]{32}\.part\Z")
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})

log = structlog.get_logger(__name__)


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
        ready_files: int = DEFAULT_READY_FILES,
        in_background: bool = True,
        disk: Disk | None = None,
    ) -> None:
        """Keep files below `root`; refuse new ones while free space is below the larger reserve.

        A thread of the store calls `make_ready` and `settle`; without `in_background` whoever owns it does.
        """
        self._root = root
        self._incoming = root / "incoming"
        self._clock = clock
        self._class_uid = implementation_class_uid
        self._version_name = implementation_version_name
        self._reserve_bytes = free_reserve_bytes
        self._reserve_percent = free_reserve_percent
        self._disk: Disk = disk or LocalDisk()
        folder_sync = FolderSync(self._disk)
        self._folder_sync = folder_sync
        self._settler = Settler(self._disk, root)
        self._digester = Digester(self._disk)
        self._ready = ReadyFiles(
            self._disk,
            self._incoming,
            folder_sync,
            clock,
            batch=ready_files,
            refill=self._want_fill,
        )
        self._keeper = Keeper(fill=self.make_ready, settle=self.settle) if in_background else None
        self._folder_lock = threading.Lock()
        self._folder = ""
        self._minute: tuple[int, ...] = ()
        self._has_links = True
        self._synced_folder = ""
        self._open_lock = threading.Lock()
        self._open = 0
        self._crowd = 0

    def prepare(self) -> None:
        """Make the store's folders and look what the filesystem can do; once at start."""
        for folder in (self._root, self._incoming):
            if self._disk.make_folder(folder):
                self._disk.sync_folder(folder.parent)
        self._has_links = self._can_link()
        if not self._has_links:
            log.warning("no hard links on this filesystem: every object waits for one more sync")

    def close(self) -> None:
        """Settle what is left, so that nothing but kept files stays. Objects under way are not waited for."""
        if self._keeper is not None:
            self._keeper.close()
        self._digester.close()
        try:
            self._settler.settle()
        except OSError as error:
            log.error("final names not durable; incoming names stay", errno=error.errno)
        self._ready.give_back()

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
        try:
            file = self._ready.take()
        except OSError as error:
            raise trouble(error) from error
        with self._open_lock:
            self._open += 1
            self._crowd = _CROWD_LASTS if self._open > 1 else max(0, self._crowd - 1)
            is_alone = self._crowd == 0
        # With one receiver there is a core to spare for its digest; with several, handing over only costs, also
        # in the moments when the others wait for their rows.
        return StoredUnderWay(
            self, self._disk, file, head=head, digester=self._digester if is_alone else None
        )

    def _want_fill(self) -> None:
        if self._keeper is not None:
            self._keeper.want_fill()

    def let_go(self) -> None:
        """Take note that an object under way is kept or discarded."""
        with self._open_lock:
            self._open -= 1

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
        """Remove a file whose content is kept elsewhere; should that one be lost, this takes its place.

        Raises StorageFull or OutOfResources when it cannot.
        """
        spare, first = self.absolute(path), self.absolute(in_favour_of)
        try:
            if not self._disk.exists(first):
                self._stand_in(spare, first, in_favour_of[:13])
            elif not self._has_links:
                self._settler.sync_names(in_favour_of[:13])  # who renamed it may not have come so far
        except OSError as error:
            raise trouble(error) from error
        with suppress(OSError):  # no row names it: the sweep of strays takes it
            self._disk.remove(spare)

    def has_room(self) -> bool:
        """Answer whether the free-space reserve is untouched."""
        try:
            space = self._disk.space(self._root)
        except OSError:
            return False
        return space.is_above(self._reserve_bytes, self._reserve_percent)

    def place(self, file: ReadyFile) -> str:
        """Give a synced file its final name; answer the path. Raises OSError."""
        folder = self._todays_folder()
        path = f"{folder}/{file.name}.dcm"
        target = self._root / path
        if not self._has_links:
            self._move(file.path, target, folder)
            return path
        self._disk.link(file.path, target)
        self._settler.add(file.path, folder)
        if self._keeper is not None:
            self._keeper.want_settle()
        return path

    def make_ready(self) -> None:
        """Make files ready for the next receivers. Raises OSError."""
        self._ready.fill()

    def settle(self) -> int:
        """Make the final names of kept objects durable and give up the incoming ones; answer how many."""
        return self._settler.settle()

    def _move(self, incoming: Path, target: Path, folder: str) -> None:
        self._disk.rename(incoming, target)
        try:
            if folder != self._synced_folder:
                self._settler.sync_names(folder)
                self._synced_folder = folder
            else:
                self._folder_sync.sync(target.parent)
        except OSError:
            self._disk.remove(target)
            raise

    def _stand_in(self, spare: Path, first: Path, folder: str) -> None:
        """Give a kept file the name of one that was lost.

        A final name that is there is taken for safe by whoever comes next. So it is given like every other: after an
        incoming name of its own, which is durable and stays until the final one is.
        """
        self._disk.make_folder(first.parent.parent)
        self._disk.make_folder(first.parent)
        if not self._has_links:
            self._disk.rename(spare, first)
            self._settler.sync_names(folder)
            return
        incoming = self._incoming / (first.stem + SUFFIX)
        with suppress(FileExistsError):  # others may do the same
            self._disk.link(spare, incoming)
        self._folder_sync.sync(self._incoming)
        with suppress(FileExistsError):
            self._disk.link(incoming, first)
        self._settler.add(incoming, folder)
        if self._keeper is not None:
            self._keeper.want_settle()

    def _can_link(self) -> bool:
        name = new_name(self._clock)
        one, other = self._incoming / f"{name}{SUFFIX}", self._incoming / f"{name}.link"
        try:
            self._disk.close(self._disk.create(one))
            self._disk.link(one, other)
        except OSError as error:
            return error.errno not in _NO_HARD_LINKS  # a full disk says nothing about links
        finally:
            with suppress(OSError):
                self._disk.remove(one)
                self._disk.remove(other)
        return True

    def _todays_folder(self) -> str:
        now = self._clock.now()
        minute = (now.minute, now.hour, now.day, now.month, now.year)
        if minute == self._minute:
            return self._folder
        with self._folder_lock:
            if minute != self._minute:
                folder = now.strftime(FORMAT)
                self._disk.make_folder(self._root / folder[:8])
                self._disk.make_folder(self._root / folder)
                self._folder = folder
                self._minute = minute
            return self._folder

    # ---- after a power cut -----------------------------------------------------------------------------

    def unsettled(self, *, older_than: datetime | None = None) -> dict[str, datetime]:
        """Answer the ids of incoming files and when they were made: those of dead receivers, and of living ones."""
        limit = older_than.timestamp() if older_than is not None else None
        return {
            name.removesuffix(SUFFIX): _instant(made_at(name))
            for name, at in self._disk.entries(self._incoming)
            if _INCOMING.match(name) and (limit is None or at < limit)
        }

    def restore(self, path: str) -> bool:
        """Give a kept file its final name again from its incoming one; True when it had lost it."""
        target = self.absolute(path)
        if self._disk.exists(target):
            return False
        self._disk.make_folder(target.parent.parent)
        self._disk.make_folder(target.parent)
        incoming = self._incoming / (target.stem + SUFFIX)
        try:
            if self._has_links:
                self._disk.link(incoming, target)
            else:
                self._disk.rename(incoming, target)
        except (FileExistsError, FileNotFoundError):
            return False  # another process was first, or there is nothing left to restore
        self._settler.sync_names(path[:13])
        return True

    # ---- sweeping --------------------------------------------------------------------------------------

    def sweep_incoming(
        self, paths_of: Callable[[Sequence[str]], Collection[str]], *, older_than: datetime
    ) -> int:
        """Remove what receivers that died left behind, answer how many files.

        `paths_of` answers the paths of those ids that have a row: these files get their final name durably first.
        """
        stale = list(self.unsettled(older_than=older_than))
        removed = 0
        for start in range(0, len(stale), SWEEP_BATCH):
            batch = stale[start : start + SWEEP_BATCH]
            paths = {path[14:46]: path for path in paths_of(batch)}
            for name in batch:
                incoming = self._incoming / (name + SUFFIX)
                if name in paths:
                    self.restore(paths[name])
                    self._settler.sync_names(paths[name][:13])
                elif self._disk.names_of(incoming) > 1:
                    continue  # its row may be under way; without one, the sweep of strays takes the other name
                self._disk.remove(incoming)
                removed += 1
        return removed

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
        limit = older_than.timestamp()
        removed = 0
        for folder in minutes(self._disk, self._root, newer_than=newer_than, older_than=older_than):
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


def _instant(seconds: float) -> datetime:
    """Answer an instant, or the last there is: names of an older version say nothing about time."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)
