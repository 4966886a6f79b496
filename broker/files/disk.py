"""The few calls by which the store touches a disk, so that a model can take the disk's place and be cut off."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FILE_MODE = 0o640
FOLDER_MODE = 0o750


@dataclass(frozen=True, slots=True)
class Space:
    """How much room a disk has."""

    free_bytes: int
    total_bytes: int

    def is_above(self, reserve_bytes: int, reserve_percent: float) -> bool:
        """Tell whether more is free than the larger of the two reserves."""
        return self.free_bytes >= max(reserve_bytes, int(self.total_bytes * reserve_percent / 100))


class Disk(Protocol):
    """What the store needs of a disk. Every call may raise OSError."""

    def make_folder(self, path: Path) -> bool:
        """Make a folder; False when it was there."""
        ...

    def create(self, path: Path) -> int:
        """Create a file that was not there, answer its handle."""
        ...

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of it."""
        ...

    def read(self, handle: int, space: memoryview, offset: int) -> int:
        """Read what was written, from `offset`; answer how many bytes."""
        ...

    def begin_sync(self, handle: int, offset: int, count: int) -> None:
        """Let the disk begin with what was written there, without waiting: `sync` then has less to do."""
        ...

    def sync(self, handle: int) -> None:
        """Make the content of a file durable."""
        ...

    def close(self, handle: int) -> None:
        """Close a file."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file one more name. Raises FileExistsError when that name is taken."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is fine."""
        ...

    def exists(self, path: Path) -> bool:
        """Tell whether there is something of this name."""
        ...

    def names_of(self, path: Path) -> int:
        """Answer how many names the file of this name has; 0 when there is no such file."""
        ...

    def space(self, path: Path) -> Space:
        """Answer how much room there is."""
        ...

    def entries(self, path: Path) -> Iterator[tuple[str, float]]:
        """Answer (name, time of last change in seconds since 1970) of everything in a folder."""
        ...


class LocalDisk:
    """The operating system's."""

    def make_folder(self, path: Path) -> bool:
        """Make a folder; False when it was there."""
        try:
            path.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            return False
        return True

    def create(self, path: Path) -> int:
        """Create a file that was not there, never through a link."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, FILE_MODE)

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Write all of it."""
        written = os.writev(handle, pieces)
        for piece in pieces:
            if written >= len(piece):
                written -= len(piece)
                continue
            rest = memoryview(piece)[written:]
            written = 0
            while rest:
                rest = rest[os.write(handle, rest) :]

    def read(self, handle: int, space: memoryview, offset: int) -> int:
        """Read back from the page cache."""
        return os.preadv(handle, (space,), offset)

    def begin_sync(self, handle: int, offset: int, count: int) -> None:
        """Begin to write back. Linux does so on this advice, and keeps in memory what is being written."""
        os.posix_fadvise(handle, offset, count, os.POSIX_FADV_DONTNEED)

    def sync(self, handle: int) -> None:
        """Make the content of a file durable, with the metadata needed to read it back."""
        os.fdatasync(handle)

    def close(self, handle: int) -> None:
        """Close it."""
        os.close(handle)

    def link(self, source: Path, target: Path) -> None:
        """Give a file one more name, never through a link."""
        os.link(source, target, follow_symlinks=False)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name."""
        os.rename(source, target)  # noqa: PTH104 - a syscall by its name

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is fine."""
        path.unlink(missing_ok=True)

    def exists(self, path: Path) -> bool:
        """Tell whether there is something of this name."""
        return path.exists()

    def names_of(self, path: Path) -> int:
        """Count the names of a file."""
        try:
            return path.stat(follow_symlinks=False).st_nlink
        except FileNotFoundError:
            return 0

    def space(self, path: Path) -> Space:
        """Ask how much room there is for us."""
        answer = os.statvfs(path)
        return Space(answer.f_bavail * answer.f_frsize, answer.f_blocks * answer.f_frsize)

    def entries(self, path: Path) -> Iterator[tuple[str, float]]:
        """List a folder; what vanishes meanwhile is left out."""
        with os.scandir(path) as found:
            for entry in found:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False).st_mtime
                except FileNotFoundError:
                    continue
