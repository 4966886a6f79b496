"""Lets concurrent receivers share one transaction, without a thread in between.

Whoever comes while nobody commits, commits for all who wait; the others sleep until their turn has come or their
work is done. One receiver alone pays for nothing but its own commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from broker.errors import OutOfResources

T = TypeVar("T")
R = TypeVar("R")


class _Ticket(Generic[T, R]):
    __slots__ = ("error", "item", "result")

    def __init__(self, item: T) -> None:
        self.item = item
        self.result: list[R] = []
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.result) or self.error is not None


class GroupCommit(Generic[T, R]):
    """Collects items of concurrent threads and commits them in batches."""

    def __init__(self, commit: Callable[[Sequence[T]], Sequence[R]], *, max_batch: int = 64) -> None:
        """Take what makes a batch durable; it answers one result for each item, in order."""
        self._commit = commit
        self._max_batch = max_batch
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Ticket[T, R]] = []

    def submit(self, item: T) -> R:
        """Return when the item is durable. Raises what made that impossible."""
        ticket: _Ticket[T, R] = _Ticket(item)
        with self._lock:
            self._waiting.append(ticket)
        while not ticket.is_done:
            with self._turn:
                if not ticket.is_done:
                    self._commit_next()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result[0]

    def _commit_next(self) -> None:
        with self._lock:
            batch = self._waiting[: self._max_batch]
            del self._waiting[: self._max_batch]
        try:
            self._settle(batch)
        except OutOfResources as error:
            for ticket in batch:
                ticket.error = error
        except BaseException as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            # One item that cannot be stored must not take its neighbours with it.
            for ticket in batch:
                try:
                    self._settle([ticket])
                except BaseException as its_own:
                    ticket.error = its_own

    def _settle(self, batch: Sequence[_Ticket[T, R]]) -> None:
        results = self._commit([ticket.item for ticket in batch])
        for ticket, result in zip(batch, results, strict=True):
            ticket.result.append(result)
