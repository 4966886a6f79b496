"""Report what a peer confirmed in batches: progress is durable, and not one commit per image."""

from __future__ import annotations

from broker.domain.delivery import ItemState
from broker.failpoints import failpoint
from broker.workflow.clock import Clock
from broker.workflow.destinations_port import ItemResult, ParcelItem, Settled

BATCH_ITEMS = 20
BATCH_INTERVAL_S = 0.5


class Progress:
    """Collects item results and settles them every few items or every half second.

    Whoever sends must call `flush` before it returns, whatever happened: what the peer has confirmed is
    never sent again because we forgot to say so.
    """

    def __init__(
        self,
        settled: Settled,
        clock: Clock,
        *,
        batch_items: int = BATCH_ITEMS,
        interval_s: float = BATCH_INTERVAL_S,
    ) -> None:
        self._settled = settled
        self._clock = clock
        self._batch_items = batch_items
        self._interval_s = interval_s
        self._waiting: list[ItemResult] = []
        self._flushed_at_s = clock.monotonic()
        self.delivered = 0
        self.rejected = 0
        self.first_refusal: str | None = None

    def deliver(self, item: ParcelItem, *, wire_status: str | None = None, reason: str | None = None) -> None:
        """Note that the peer has confirmed `item`."""
        self.delivered += 1
        self._add(ItemResult(item.id, ItemState.DELIVERED, wire_status, reason))

    def reject(self, item: ParcelItem, reason: str, *, wire_status: str | None = None) -> None:
        """Note that `item` will never be taken as it is."""
        self.rejected += 1
        if self.first_refusal is None:
            self.first_refusal = reason
        self._add(ItemResult(item.id, ItemState.REJECTED, wire_status, reason))

    def flush(self) -> None:
        """Make durable what is waiting. Raises LeaseLost: stop at once."""
        if self._waiting:
            # Given away before the call: after LeaseLost the results belong to a lost lease and are not tried again.
            results, self._waiting = self._waiting, []
            self._settled(results)
        self._flushed_at_s = self._clock.monotonic()

    def renew(self) -> None:
        """Settle nothing or something, but renew the lease: for work that takes long before it confirms."""
        results, self._waiting = self._waiting, []
        self._settled(results)
        self._flushed_at_s = self._clock.monotonic()

    def _add(self, result: ItemResult) -> None:
        self._waiting.append(result)
        if len(self._waiting) > 1:
            failpoint("deliver.mid_batch")
        is_full = len(self._waiting) >= self._batch_items
        if is_full or self._clock.monotonic() - self._flushed_at_s >= self._interval_s:
            self.flush()
