"""Writes what listeners hear, on a thread of its own: nobody who speaks ever waits for it.

What is heard is queued, bounded; what does not fit is counted and left out. The thread is started with the first
capture and sleeps while there is none.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import structlog

from broker.files.capture_file import BROKEN, FULL, TOO_FAST, CaptureFile, Piece
from broker.files.capture_store import CaptureStore
from broker.files.pcap import Packets
from broker.workflow.captures_port import Capture
from broker.workflow.once_a_minute import OnceAMinute

QUEUE_BYTES: Final = 16 * 1024 * 1024
INTERVAL_S: Final = 0.2
_ITEM_BYTES: Final = 300
"""What an item costs beside its bytes: many small ones are bounded, too."""
_NS: Final = 1_000_000_000

log = structlog.get_logger(__name__)


class Running:
    """One capture in force in this process."""

    def __init__(self, capture: Capture, file: CaptureFile) -> None:
        self.capture = capture
        self.until_ns = int(capture.until.timestamp() * _NS)
        self.is_on = True
        self.file = file
        self.unheard: Counter[str] = Counter()
        """Why -> bytes that were not even queued; guarded by the writer's lock."""


class Flow:
    """One connection as one capture sees it."""

    __slots__ = ("begun", "is_written", "lost", "opened_ns", "packets", "running")

    def __init__(
        self, running: Running, local: tuple[str, int], peer: tuple[str, int], *, opened_ns: int | None
    ) -> None:
        """Begin with the three packets of a new connection when it was `opened_ns`; None: it was there before."""
        self.running = running
        self.packets = Packets(local, peer)
        self.opened_ns = opened_ns
        self.begun = self.is_written = False
        self.lost = [0, 0]
        """Bytes left out since the last that were taken, of us and of the peer."""


class _Item(NamedTuple):
    flow: Flow
    at_ns: int
    by_peer: bool
    data: bytes
    """Empty: that direction ended."""
    reset: bool
    skipped: int


class CaptureWriter:
    """Queues what is heard, and writes it a moment later."""

    def __init__(
        self,
        store: CaptureStore,
        protocol: str,
        *,
        queue_bytes: int = QUEUE_BYTES,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._store = store
        self._name = f"{protocol}-{os.getpid()}"
        self._queue_bytes = queue_bytes
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._waiting: list[_Item] = []
        self._waiting_bytes = 0
        self._running: tuple[Running, ...] = ()
        self._over: list[Running] = []
        self._somebody = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = OnceAMinute()

    def follow(self, captures: Iterable[Capture]) -> tuple[Running, ...]:
        """Take note of what is captured from now on; answer the same object when nothing has changed."""
        known = {one.capture.id: one for one in self._running}
        running = tuple(
            known.get(one.id) or Running(one, CaptureFile(self._store, one.id, self._name))
            for one in captures
        )
        if running == self._running:
            return self._running
        gone = [one for one in self._running if one not in running]
        for one in gone:
            one.is_on = False
        with self._lock:
            self._over += gone
        self._running = running
        self._somebody.set()
        if self._thread is None and running:
            self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
            self._thread.start()
        return running

    def put(self, flow: Flow, at_ns: int, data: bytes, *, by_peer: bool, reset: bool = False) -> None:
        """Queue something said, or with no data the end of a direction; never waits for a disk."""
        running = flow.running
        if not running.is_on or at_ns >= running.until_ns:
            return
        with self._lock:
            if data:
                if running.file.is_full:
                    running.unheard[FULL] += len(data)
                    return
                if self._waiting_bytes + len(data) + _ITEM_BYTES > self._queue_bytes:
                    flow.lost[by_peer] += len(data)
                    running.unheard[TOO_FAST] += len(data)
                    return
            elif not flow.begun and (flow.running.capture.name or flow.opened_ns is None):
                return  # it never said who it is
            flow.begun = True
            skipped, flow.lost[by_peer] = flow.lost[by_peer], 0
            self._waiting_bytes += len(data) + _ITEM_BYTES
            self._waiting.append(_Item(flow, at_ns, by_peer, data, reset, skipped))

    def flush(self) -> None:
        """Write what waits."""
        with self._flush_lock:
            with self._lock:
                items, self._waiting = self._waiting, []
                over, self._over = self._over, []
                self._waiting_bytes = 0
            said: dict[Running, list[Piece]] = {}
            for item in items:
                said.setdefault(item.flow.running, []).append(_piece_of(item))
            for running in dict.fromkeys((*self._running, *said, *over)):
                with self._lock:
                    unheard, running.unheard = running.unheard, Counter()
                for why, number in unheard.items():
                    running.file.tally.leave_out(number, why)
                self._write(running, said.get(running, ()))
            for running in over:
                running.file.close()

    def _write(self, running: Running, pieces: Sequence[Piece]) -> None:
        file = running.file
        try:
            if pieces:
                file.append(pieces)
            file.tell()
        except OSError as error:
            file.tally.leave_out(sum(piece.said_bytes for piece in pieces), BROKEN)
            if (unsaid := self._told.unsaid(error.errno)) is not None:
                word = os.strerror(error.errno or 0)
                log.warning("capture not written", capture=running.capture.id, error=word, unsaid=unsaid)

    def stop(self) -> None:
        """Write what waits, and end."""
        self.follow(())
        self._stopping.set()
        self._somebody.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self.flush()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._somebody.wait()
            self._stopping.wait(self._interval_s)
            self.flush()
            if not self._running:
                self._somebody.clear()
                if self._running or self._waiting or self._stopping.is_set():  # came meanwhile
                    self._somebody.set()


def _piece_of(item: _Item) -> Piece:
    """Make the packets of an item."""
    flow = item.flow
    is_first, flow.is_written = not flow.is_written, True
    packets: list[bytes] = []
    if flow.opened_ns is not None:
        packets += flow.packets.opened(flow.opened_ns)
        flow.opened_ns = None
    if item.data:
        packets += flow.packets.said(item.at_ns, item.data, by_peer=item.by_peer, skipped_bytes=item.skipped)
    else:
        packets.append(
            flow.packets.ended(item.at_ns, by_peer=item.by_peer, reset=item.reset, skipped_bytes=item.skipped)
        )
    return Piece(b"".join(packets), len(packets), len(item.data), int(is_first))
