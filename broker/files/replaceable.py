"""A small file that is replaced whole: whoever reads it sees what was or what comes, also after a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from broker.errors import Conflict

_MODE = 0o640
"""Of a file that was not there."""
_PRIVATE = 0o600
"""Until it has the owner and mode of the one whose place it takes."""


class ReplaceableFile:
    """One file and the folder it lies in. A link stays a link: what it leads to is replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        """Answer what is in it; None when there is no such file. Raises OSError."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def why_fixed(self) -> str:
        """Say why it cannot be replaced by this process; empty when it can."""
        target = self.path.resolve()
        if not os.access(target.parent, os.W_OK | os.X_OK):
            return f"the folder {target.parent} is not writable for this process"
        if target.exists() and not os.access(target, os.W_OK):
            return f"{target} is not writable for this process"
        return ""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep everybody else who asks this from replacing it, on this machine. Raises OSError."""
        folder = os.open(self.path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    @contextmanager
    def prepared(self, content: bytes) -> Iterator[PreparedContent]:
        """Lay content ready beside it, durable; it goes away unless it was put in place. Raises OSError.

        Only while nobody else does: what a crash left behind has the same name, and goes first.
        """
        target = self.path.resolve()
        ready = target.with_name(f".{target.name}.next")
        ready.unlink(missing_ok=True)
        descriptor = os.open(ready, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                _take_after(file.fileno(), target)
                os.fsync(file.fileno())
            yield PreparedContent(self, ready, target)
        finally:
            ready.unlink(missing_ok=True)


class PreparedContent:
    """Content that lies beside the file it is to become."""

    def __init__(self, file: ReplaceableFile, ready: Path, target: Path) -> None:
        self._file, self._ready, self._target = file, ready, target

    def put(self, *, instead_of: bytes | None) -> None:
        """Give it the name. Raises Conflict when the file holds something else by now, or OSError."""
        if self._file.read() != instead_of:
            raise Conflict(f"{self._target} was changed in this very moment; look again.")
        self._ready.replace(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the name is durable only when its folder is
        finally:
            os.close(folder)


def _take_after(descriptor: int, target: Path) -> None:
    """Give a file the owner, group and mode of the one whose place it takes."""
    try:
        was = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, _MODE)
        return
    with suppress(PermissionError):  # only root gives files away
        os.fchown(descriptor, was.st_uid, was.st_gid)
    os.fchmod(descriptor, was.st_mode & 0o7777)
