"""Where the bytes of captures lie: a folder each, one file of every process that writes, for nobody else to read."""

from __future__ import annotations

import heapq
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from broker.files.disk import LocalDisk
from broker.files.pcap import FILE_HEADER, records
from broker.workflow.captures_port import Recorded

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
SUFFIX: Final = ".pcap"
TALLY: Final = ".json"
_CHUNK_BYTES: Final = 64 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """What captures may use of the disk."""

    max_bytes: int = 256 * 1024 * 1024
    """Of one capture."""
    reserve_bytes: int = 2 * 1024**3
    reserve_percent: float = 5.0
    """Below the larger of these two nothing is written."""


@dataclass(slots=True)
class Tally:
    """What one process knows about what it wrote, and did not write."""

    connections: int = 0
    packets: int = 0
    left_out_bytes: int = 0
    why: list[str] = field(default_factory=list)

    def leave_out(self, number: int, why: str) -> None:
        """Count bytes that are not in the file."""
        self.left_out_bytes += number
        if why not in self.why:
            self.why.append(why)


class CaptureStore:
    """Implements CaptureFiles on a folder of the data directory."""

    def __init__(self, root: Path, limits: CaptureLimits) -> None:
        self.root = root
        self.limits = limits
        self._disk = LocalDisk()

    def has_room(self) -> bool:
        """Tell whether the disk is above its reserve."""
        try:
            space = self._disk.space(self.root if self.root.exists() else self.root.parent)
        except OSError:
            return False
        return space.is_above(self.limits.reserve_bytes, self.limits.reserve_percent)

    def folder(self, capture: int) -> Path:
        """Answer where the bytes of a capture lie."""
        return self.root / str(capture)

    def recorded(self, capture: int) -> Recorded:
        """Answer what lies there; what cannot be read counts as nothing."""
        size, tallies = 0, []
        for path in self._files(capture):
            try:
                size += path.stat().st_size
                tallies.append(_tally(path))
            except FileNotFoundError:  # removed meanwhile
                continue
        return Recorded(
            size_bytes=size,
            connections=sum(tally.connections for tally in tallies),
            packets=sum(tally.packets for tally in tallies),
            left_out_bytes=sum(tally.left_out_bytes for tally in tallies),
            why=tuple(dict.fromkeys(why for tally in tallies for why in tally.why)),
        )

    def read(self, capture: int) -> Iterator[bytes]:
        """Answer one pcap file, the packets of all processes by time, in pieces."""
        with ExitStack() as opened:
            files = [opened.enter_context(path.open("rb")) for path in self._files(capture)]
            piece = bytearray(FILE_HEADER)
            for _, record in heapq.merge(*(records(file) for file in files), key=lambda one: one[0]):
                piece += record
                if len(piece) >= _CHUNK_BYTES:
                    yield bytes(piece)
                    piece.clear()
            if piece:
                yield bytes(piece)

    def remove(self, capture: int) -> bool:
        """Remove the bytes; False when that did not succeed."""
        try:
            shutil.rmtree(self.folder(capture))
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("capture not removed", capture=capture, error=os.strerror(error.errno or 0))
            return False
        return True

    def kept(self) -> list[int]:
        """Answer the captures of which there are bytes."""
        try:
            return sorted(int(entry.name) for entry in self.root.iterdir() if entry.name.isdecimal())
        except FileNotFoundError:
            return []

    def _files(self, capture: int) -> list[Path]:
        return sorted(self.folder(capture).glob(f"*{SUFFIX}"))


def _tally(path: Path) -> Tally:
    try:
        told: dict[str, Any] = json.loads(path.with_suffix(TALLY).read_text(encoding="ascii"))
        return Tally(**told)
    except (FileNotFoundError, ValueError, TypeError):  # not written yet
        return Tally()
