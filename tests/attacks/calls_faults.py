"""Makes the n-th call of this thread to the disk or the database fail, at the edge where `os` and the driver are."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import event

TAKES_ROOM = frozenset(
    {"open", "write", "writev", "fsync", "fdatasync", "rename", "replace", "link", "mkdir"}
)
CHANGES = frozenset({"fsync", "fdatasync", "rename", "replace", "link", "mkdir", "unlink", "close", "commit"})
READS = frozenset({"stat", "lstat", "fstat", "scandir", "listdir", "statvfs", "posix_fadvise"})
FILE_CALLS = TAKES_ROOM | CHANGES - {"commit"} | READS
WRITING = frozenset({"begin", "insert", "update", "delete", "commit", "savepoint", "release"})


@dataclass(frozen=True)
class Trouble:
    """A way in which calls fail."""

    name: str
    error: int
    sqlite: str
    calls: frozenset[str] | None = None
    """Those that can fail like this; None: every one."""
    is_done: bool = False
    """The call has had its effect, and only its answer is an error."""


TROUBLES = (
    Trouble("full", errno.ENOSPC, "SQLITE_FULL", TAKES_ROOM | WRITING),
    Trouble("broken", errno.EIO, "SQLITE_IOERR"),
    Trouble("done, and told to have failed", errno.EIO, "SQLITE_IOERR", CHANGES, is_done=True),
)
_armed: Faults | None = None


class Faults:
    """Counts the calls of a block; one of them fails, once."""

    def __init__(self, trouble: Trouble, fail_at: int) -> None:
        self.trouble, self.fail_at = trouble, fail_at
        self.seen = 0
        self.failed: str | None = None
        """The call that did."""
        self._thread = threading.get_ident()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Let it fail in the block."""
        global _armed
        before = {name: getattr(os, name) for name in FILE_CALLS}
        opened = io.open
        try:
            for name, call in before.items():
                setattr(os, name, self._failing(name, call))
            io.open = _opening(opened)
            _armed = self
            yield
        finally:
            _armed = None
            io.open = opened
            for name, call in before.items():
                setattr(os, name, call)

    def _failing(self, name, call):
        def instead(*args, **kwargs):
            makes_nothing = name == "open" and not args[1] & os.O_CREAT
            # Linux lets go of a descriptor also when `close` answers an error.
            return self.run(
                "open to read" if makes_nothing else name,
                lambda: call(*args, **kwargs),
                is_done=name == "close",
            )

        return instead

    def run(self, name, call, *, is_done=False, in_database=False):
        """Make a call, unless it is the one that fails."""
        if not self._is_due(name, in_database=in_database):
            return call()
        if is_done or self.trouble.is_done:
            call()
        # No name for the error here: with one it would hold this frame, and connections, until the next collection.
        raise (
            self._database_error()
            if in_database
            else OSError(self.trouble.error, os.strerror(self.trouble.error))
        )

    def _database_error(self) -> sqlite3.OperationalError:
        error = sqlite3.OperationalError("disk trouble")
        error.sqlite_errorcode = getattr(sqlite3, self.trouble.sqlite)
        error.sqlite_errorname = self.trouble.sqlite
        return error

    def _is_due(self, name: str, *, in_database: bool) -> bool:
        can_fail = self.trouble.calls is None or name in self.trouble.calls
        if threading.get_ident() != self._thread or not can_fail:
            return False
        self.seen += 1
        if self.seen != self.fail_at:
            return False
        self.failed = f"database {name}" if in_database else name
        return True


def _look(name, call, *, in_database=False):
    return call() if _armed is None else _armed.run(name, call, in_database=in_database)


class _File(io.FileIO):
    """What `open` gives for a file of bytes, below its buffer."""

    def write(self, data):
        return _look("write", lambda: super(_File, self).write(data))

    def readinto(self, space):
        return _look("read", lambda: super(_File, self).readinto(space))

    def readall(self):
        return _look("read", super().readall)


def _opening(opened):
    buffers = {"rb": io.BufferedReader, "xb": io.BufferedWriter, "wb": io.BufferedWriter}

    def instead(file, mode="r", *args, **kwargs):
        name = "open to read" if mode.startswith("r") else "open"
        if mode not in buffers:
            return _look(name, lambda: opened(file, mode, *args, **kwargs))
        return _look(name, lambda: buffers[mode](_File(file, mode)))

    return instead


class _Cursor(sqlite3.Cursor):
    def execute(self, statement, *more):
        run = super().execute
        return _look(_verb(statement), lambda: run(statement, *more), in_database=True)

    def executemany(self, statement, *more):
        run = super().executemany
        return _look(_verb(statement), lambda: run(statement, *more), in_database=True)

    def fetchall(self):
        return self._fetch(super().fetchall)

    def fetchone(self):
        return self._fetch(super().fetchone)

    def _fetch(self, call):
        try:
            return _look("fetch", call, in_database=True)
        except sqlite3.Error:
            self.close()  # a statement that fails is at its end
            raise


class _Connection(sqlite3.Connection):
    def cursor(self, factory=_Cursor):
        return super().cursor(factory)

    def execute(self, statement, *more):
        return self.cursor().execute(statement, *more)

    def commit(self):
        _look("commit", super().commit, in_database=True)

    def rollback(self):
        _look("rollback", super().rollback, in_database=True)


def _verb(statement: str) -> str:
    return statement.split(None, 1)[0].lower()


def listen(engine) -> None:
    """Let connections of an engine be ones that can fail, their opening included."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect, _record, args, kwargs):
        return _look(
            "connect", lambda: sqlite3.connect(*args, **{**kwargs, "factory": _Connection}), in_database=True
        )
