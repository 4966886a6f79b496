"""Empty files whose names are durable already, so that receiving an object waits for no folder.

A file that is to survive a power cut needs its name synced as much as its content. One sync of the folder makes
a whole batch of names durable, long before there is anything to write into them.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.files.disk import Disk
from broker.files.folder_sync import FolderSync
from broker.workflow.clock import Clock

SUFFIX: Final = ".part"
MAX_AGE_S: Final = 600.0
"""Of a ready file: the sweep of unfinished files takes what lies about for an hour."""
_TIME_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """An empty file, open, whose name in the incoming folder is durable."""

    name: str
    path: Path
    handle: int
    made_at_s: float


def new_name(clock: Clock) -> str:
    """Answer an id of ours that says when it was made: 12 hexadecimal digits of milliseconds, 20 of chance."""
    return f"{round(clock.now().timestamp() * 1000):0{_TIME_DIGITS}x}{secrets.token_hex(10)}"


def made_at(name: str) -> float:
    """Answer the seconds since 1970 that an id of ours says."""
    return int(name[:_TIME_DIGITS], 16) / 1000


class ReadyFiles:
    """Keeps a batch of ready files for the receivers of one process."""

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        folder_sync: FolderSync,
        clock: Clock,
        *,
        batch: int,
        refill: Callable[[], None],
    ) -> None:
        """Keep up to two batches in `folder`; `refill` is called when it is time for `fill`."""
        self._disk = disk
        self._folder = folder
        self._folder_sync = folder_sync
        self._clock = clock
        self._batch = batch
        self._refill = refill
        self._files: deque[ReadyFile] = deque()

    def take(self) -> ReadyFile:
        """Answer a file nobody else has; made now, with a sync of its own, when none is ready. Raises OSError."""
        try:
            while True:
                file = self._files.popleft()
                # When the clock has stepped, the sweep has taken them for old.
                if self._clock.monotonic() - file.made_at_s < MAX_AGE_S and self._is_there(file):
                    return file
                self._let_go(file)
        except IndexError:
            return self._make(1)[0]
        finally:
            if len(self._files) < self._batch:
                self._refill()

    def fill(self) -> None:
        """Make a batch ready, unless there is one. Raises OSError."""
        if len(self._files) < self._batch:
            self._files.extend(self._make(self._batch))

    def give_back(self) -> None:
        """Remove those that nobody took."""
        with suppress(IndexError):
            while True:
                self._let_go(self._files.popleft())

    def _make(self, count: int) -> list[ReadyFile]:
        made: list[ReadyFile] = []
        try:
            for _ in range(count):
                name = new_name(self._clock)
                path = self._folder / (name + SUFFIX)
                made.append(ReadyFile(name, path, self._disk.create(path), self._clock.monotonic()))
            self._folder_sync.sync(self._folder)
        except OSError:
            for file in made:
                self._let_go(file)
            raise
        return made

    def _is_there(self, file: ReadyFile) -> bool:
        try:
            return self._disk.names_of(file.path) > 0
        except OSError:
            self._let_go(file)
            raise

    def _let_go(self, file: ReadyFile) -> None:
        with suppress(OSError):  # it is empty; the sweep of unfinished files takes what stays
            self._disk.close(file.handle)
            self._disk.remove(file.path)
