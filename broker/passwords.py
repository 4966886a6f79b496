"""Argon2id (RFC 9106): 64 MiB, three passes, one lane; only two at once, so that hashing starves nothing."""

from __future__ import annotations

import threading

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from broker.errors import OutOfResources

AT_ONCE = 2
WAITING = 6
_WAIT_S = 10.0


class Argon2idHasher:
    """Implements the PasswordHasher port."""

    def __init__(
        self,
        *,
        memory_kib: int = 64 * 1024,
        passes: int = 3,
        at_once: int = AT_ONCE,
        waiting: int = WAITING,
    ) -> None:
        self._argon2 = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        self._running = threading.BoundedSemaphore(at_once)
        # Whoever waits holds a thread of the pages: only so many may.
        self._here = threading.BoundedSemaphore(at_once + waiting)

    def hash(self, password: str) -> str:
        """Answer the hash with its salt and parameters. Raises OutOfResources when too many wait."""
        with self._turn():
            return self._argon2.hash(password)

    def verify(self, password_hash: str, password: str) -> bool:
        """Compare. Raises OutOfResources when too many wait."""
        with self._turn():
            try:
                return self._argon2.verify(password_hash, password)
            except (VerificationError, InvalidHashError):
                return False

    def is_outdated(self, password_hash: str) -> bool:
        """Tell whether it was made with other parameters than are used now."""
        return self._argon2.check_needs_rehash(password_hash)

    def _turn(self) -> _Turn:
        return _Turn(self._here, self._running)


class _Turn:
    def __init__(self, here: threading.BoundedSemaphore, running: threading.BoundedSemaphore) -> None:
        self._here, self._running = here, running

    def __enter__(self) -> None:
        if not self._here.acquire(blocking=False):
            raise OutOfResources("Too many people sign in at once; try again in a moment.")
        if not self._running.acquire(timeout=_WAIT_S):
            self._here.release()
            raise OutOfResources("Too many people sign in at once; try again in a moment.")

    def __exit__(self, *_: object) -> None:
        self._running.release()
        self._here.release()
