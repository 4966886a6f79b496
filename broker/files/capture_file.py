"""The file one process writes of one capture: bounded together with those of the others, whole after every write."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from broker.files.capture_store import FILE_MODE, FOLDER_MODE, SUFFIX, TALLY, CaptureStore, Tally
from broker.files.pcap import FILE_HEADER

FULL = "the capture is full (captures.max_bytes)"
NO_ROOM = "the disk reserve is reached (limits.storage)"
TOO_FAST = "more came than could be written"
BROKEN = "the disk did not take it"


class Piece(NamedTuple):
    """Something heard, as it is to be written."""

    packets: bytes
    number: int
    """Of packets."""
    said_bytes: int
    connections: int = 0
    """That begin with it."""


class CaptureFile:
    """Appends packets. Every call may raise OSError; then a new file is begun with the next."""

    def __init__(self, store: CaptureStore, capture: int, name: str) -> None:
        """Begin with the first packet; `name` tells this process from the others of the same protocol."""
        self._store = store
        self._capture = capture
        self._folder = store.folder(capture)
        self._name = name
        self._path: Path | None = None
        self._handle = -1
        self._told = ""
        self.tally = Tally()
        self.is_full = False

    def append(self, pieces: Sequence[Piece]) -> None:
        """Write the pieces that fit, and count the others."""
        if not self._store.has_room():
            self.tally.leave_out(sum(piece.said_bytes for piece in pieces), NO_ROOM)
            return
        self._open()
        try:
            with self._alone():
                left = self._store.limits.max_bytes - self._used()
                taken: list[Piece] = []
                for piece in pieces:
                    left -= len(piece.packets)
                    self.is_full = self.is_full or left < 0
                    if self.is_full:
                        self.tally.leave_out(piece.said_bytes, FULL)
                    else:
                        taken.append(piece)
                self._write(b"".join(piece.packets for piece in taken))
            self.tally.packets += sum(piece.number for piece in taken)
            self.tally.connections += sum(piece.connections for piece in taken)
        except OSError:
            self.close()  # the next file begins whole; of this one a reader takes what is whole
            raise

    def tell(self) -> None:
        """Write beside the file what is to be known about it, when that has changed."""
        text = json.dumps(asdict(self.tally))
        if self._path is None or text == self._told:
            return
        fresh = self._path.with_suffix(".new")
        handle = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE
        )
        try:
            os.write(handle, text.encode("ascii"))
        finally:
            os.close(handle)
        fresh.replace(self._path.with_suffix(TALLY))
        self._told = text

    def close(self) -> None:
        """Close; what comes after begins another file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        if self._handle >= 0:
            return
        for folder in (self._store.root, self._folder):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        number = 0
        while True:  # a process before us may have had our number
            path = self._folder / f"{self._name}-{number}{SUFFIX}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._handle = os.open(path, flags, FILE_MODE)
                break
            except FileExistsError:
                number += 1
        if self._path is not None:
            self.tell()  # what is known of the file before stands beside that one
            self.tally = Tally()
        self._path = path
        self._write(FILE_HEADER)

    def _used(self) -> int:
        with os.scandir(self._folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name.endswith(SUFFIX))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off the other writers of this capture, so that the bound is one for all."""
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
