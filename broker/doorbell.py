"""Wake the sweep of this host without Redis: a datagram to a socket in the data directory.

Rung only while wake-ups cannot be published, so that an image is on its way in milliseconds then too. A ring is
a hint like every other: one that is lost costs an interval of the sweep.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from broker.valkey import require_private
from broker.workflow.wake_ups import Task, WakeUp

MAX_NAMED = 100
"""Wake-ups in one datagram; who comes for one goes on with what else is due."""
_MAX_BYTES = 8192
_MAX_DIGITS = 18


class Doorbell:
    """Rings at the sweep. Never blocks, never raises."""

    def __init__(self, path: Path) -> None:
        """Prepare; nothing is opened before the first ring."""
        self._path = str(path)
        self._socket: socket.socket | None = None

    def ring(self, wake_ups: Sequence[WakeUp]) -> None:
        """Tell the sweep what there is to do."""
        if not wake_ups:
            return
        with suppress(OSError):  # nobody listens, or its mailbox is full: it sweeps anyway
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(_written(wake_ups[:MAX_NAMED]), self._path)


class DoorbellListener:
    """Hears the doorbell in a thread of its own."""

    def __init__(self, path: Path, heard: Callable[[Sequence[WakeUp]], None]) -> None:
        """Prepare; `start` listens."""
        self._path = path
        self._heard = heard
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen in the place of whoever listened before. Raises ConfigurationError for a folder of others."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(self._path.parent)
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        threading.Thread(target=self._listen, args=(self._socket,), name="doorbell", daemon=True).start()

    def stop(self) -> None:
        """Hear no more. The name stays: the next sweep may have taken it already."""
        if self._socket is not None:
            with suppress(OSError):  # wakes the thread; a datagram socket without a peer says so too
                self._socket.shutdown(socket.SHUT_RD)
            self._socket.close()

    def _listen(self, bell: socket.socket) -> None:
        while True:
            try:
                datagram = bell.recv(_MAX_BYTES)
            except OSError:
                return
            if not datagram:
                return
            self._heard(_read(datagram))


def _written(wake_ups: Iterable[WakeUp]) -> bytes:
    return "\n".join(f"{one.task.value} {one.id}" for one in wake_ups).encode("ascii")


def _read(datagram: bytes) -> list[WakeUp]:
    """Read what was rung for; what is not ours is left out."""
    read = []
    for line in datagram.decode("ascii", "replace").splitlines():
        task, _, number = line.partition(" ")
        with suppress(ValueError):
            if (key := int(number[:_MAX_DIGITS])) > 0:
                read.append(WakeUp(Task(task), key))
    return read
