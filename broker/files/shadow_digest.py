"""Computes a digest of a file while its receiver waits for the network or the disk.

hashlib lets go of the interpreter while it works, so on a second core the digest costs the receiver nothing but
handing over; on a busy machine, where no thread has come to it in time, the receiver does it itself. The bytes
come from the page cache, where they have just been written.
"""

from __future__ import annotations

import hashlib
import threading
from queue import SimpleQueue
from typing import Final

from broker.files.disk import Disk

CHUNK_BYTES: Final = 256 * 1024
OWN_CHUNK_BYTES: Final = 64 * 1024
"""For a receiver that digests itself: small enough to come from the heap."""
THREADS: Final = 2


class Digester:
    """Hashes for the receivers of one process, in a few threads that start with the first work."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._lock = threading.Lock()
        self._work: SimpleQueue[ShadowDigest | None] = SimpleQueue()
        self._threads = 0

    def begin(self, handle: int, offset: int) -> ShadowDigest:
        """Begin the digest of what is to be written into a file from `offset` on."""
        return ShadowDigest(self, handle, offset)

    def take(self, digest: ShadowDigest) -> None:
        """Let one of the threads go on with a digest."""
        if not self._threads:
            with self._lock:
                # All at once: what a listener holds is what it held after its first image.
                while self._threads < THREADS:
                    self._threads += 1
                    threading.Thread(target=self._run, name="digest", daemon=True).start()
        self._work.put(digest)

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            for _ in range(self._threads):
                self._work.put(None)
            self._threads = THREADS

    def _run(self) -> None:
        space = memoryview(bytearray(CHUNK_BYTES))
        while (digest := self._work.get()) is not None:
            digest.go_on(space)


class ShadowDigest:
    """The SHA-256 of one growing file."""

    __slots__ = (
        "_digester",
        "_done",
        "_error",
        "_handle",
        "_idle",
        "_is_busy",
        "_is_running",
        "_lock",
        "_sha256",
        "_until",
    )

    def __init__(self, digester: Digester, handle: int, offset: int) -> None:
        self._digester = digester
        self._handle = handle
        self._done = offset
        self._until = offset
        self._sha256 = hashlib.sha256()
        self._error: OSError | None = None
        self._lock = threading.Lock()
        self._idle = threading.Lock()
        self._is_busy = False
        self._is_running = False

    def extend(self, until: int) -> None:
        """Let the digest reach as far as `until`, in the background."""
        with self._lock:
            self._until = until
            if self._is_busy or self._error is not None:
                return
            self._is_busy = True
            self._idle.acquire()
        self._digester.take(self)

    def finish(self) -> bytes:
        """Answer the digest, computing what no thread has begun with. Raises OSError when the file cannot be read."""
        if self._claim():
            self._work_off(memoryview(bytearray(max(1, min(OWN_CHUNK_BYTES, self._until - self._done)))))
        with self._idle:
            if self._error is not None:
                raise self._error
            return self._sha256.digest()

    def stop(self) -> None:
        """Return when nobody reads the file any more."""
        with self._lock:
            self._until = 0
        if self._claim():
            self._work_off(memoryview(b""))
        with self._idle:
            return

    def go_on(self, space: memoryview) -> None:
        """Digest what there is, unless somebody else does."""
        if self._claim():
            self._work_off(space)

    def _claim(self) -> bool:
        """Tell whether there is work nobody has begun with; it is the caller's then."""
        with self._lock:
            if not self._is_busy or self._is_running:
                return False
            self._is_running = True
            return True

    def _work_off(self, space: memoryview) -> None:
        while True:
            with self._lock:
                wanted = min(self._until - self._done, len(space))
                if wanted <= 0 or self._error is not None:
                    self._is_busy = self._is_running = False
                    self._idle.release()
                    return
            try:
                count = self._digester.disk.read(self._handle, space[:wanted], self._done)
                if not count:
                    raise OSError(0, "a file is shorter than what was written into it")
                self._sha256.update(space[:count])
                self._done += count
            except OSError as error:
                self._error = error
