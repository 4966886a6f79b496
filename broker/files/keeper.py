"""The store's one thread: it fills up ready files and settles names, so that no receiver does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

SETTLE_AFTER_S: Final = 0.5


class Keeper:
    """Runs `fill` when asked to, and `settle` a moment after there was something to settle."""

    def __init__(self, *, fill: Callable[[], object], settle: Callable[[], object]) -> None:
        self._fill = fill
        self._settle = settle
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wants_fill = False
        self._settle_at_s: float | None = None
        self._is_closed = False

    def want_fill(self) -> None:
        """Ask for ready files; never waits for them."""
        if not self._wants_fill:
            with self._changed:
                self._wants_fill = True
                self._wake()

    def want_settle(self) -> None:
        """Say that there is something to settle."""
        if self._settle_at_s is None:
            with self._changed:
                self._settle_at_s = time.monotonic() + SETTLE_AFTER_S
                self._wake()

    def close(self) -> None:
        """End the thread; what is left to do is the caller's."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        if self._thread is None and not self._is_closed:
            self._thread = threading.Thread(target=self._run, name="files", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not self._wants_fill and (left_s := self._left_s()) != 0.0:
                    self._changed.wait(left_s)
                if self._is_closed:
                    return
                fill, settle = self._wants_fill, self._left_s() == 0.0
                self._wants_fill = False
                if settle:
                    self._settle_at_s = None
            if fill:
                self._try("no files made ready", self._fill)
            if settle:
                self._try("final names not durable; incoming names stay", self._settle)

    def _left_s(self) -> float | None:
        return None if self._settle_at_s is None else max(0.0, self._settle_at_s - time.monotonic())

    def _try(self, trouble: str, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            log.error(trouble, error=type(error).__name__, errno=error.errno)
