"""What the use cases need of stored deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.domain.delivery import DeliveryState
from broker.workflow.destinations_port import ItemResult, ParcelItem
from broker.workflow.selection import Selection


@dataclass(frozen=True, slots=True)
class Delivery:
    """A stored delivery."""

    id: int
    destination: str
    kind: str
    route: str | None
    unit: str
    unit_uid: str
    state: DeliveryState
    attempt: int
    failures: int
    due_at: datetime
    created_at: datetime
    study_instance_uid: str | None = None
    order: int | None = None
    ordering_key: str | None = None
    reason: str | None = None
    failure_class: str | None = None
    priority: int = 4
    collect_until: datetime | None = None
    lease_until: datetime | None = None
    worker: str | None = None
    payload: bytes | None = None
    items: int = 0
    items_delivered: int = 0
    items_rejected: int = 0
    cause: str | None = None
    """What the reason stands for; written with it."""
    operation: int | None = None
    """The bulk operation that touched it last."""


class Deliveries(Protocol):
    """Stored deliveries. Every state change is one conditional UPDATE; the answer says who won."""

    def add(self, delivery: Delivery, *, now: datetime) -> int: ...
    def open_for(self, *, destination: str, route: str, unit_uid: str) -> Delivery | None:
        """Answer the open delivery (COLLECTING, PENDING, IN_PROGRESS) of a unit, locked for this transaction."""
        ...

    def add_items(self, delivery: int, instances: Sequence[int]) -> int:
        """Add instances not yet in it (an item already there is left), answer how many were new."""
        ...

    def collect(self, delivery: int, *, due_at: datetime, now: datetime) -> None:
        """Move the quiet period of a COLLECTING delivery, never past its cap."""
        ...

    def get(self, delivery: int) -> Delivery: ...
    def claim(self, delivery: int, *, worker: str, now: datetime, lease: timedelta) -> Delivery | None:
        """Move a due PENDING row to IN_PROGRESS with attempt + 1.

        None when its destination is paused or open, when it is not the first of its ordering key, or when
        another worker was first.
        """
        ...

    def renew(self, delivery: int, attempt: int, *, now: datetime, lease: timedelta) -> bool: ...
    def waiting_items(self, delivery: int, *, after: int, limit: int) -> list[ParcelItem]: ...
    def contexts(self, delivery: int) -> tuple[tuple[str, str], ...]: ...
    def settle_items(
        self, delivery: int, attempt: int, results: Sequence[ItemResult], *, now: datetime
    ) -> bool:
        """Store results under the fence (state IN_PROGRESS and this attempt); False when it is lost."""
        ...

    def count_waiting(self, delivery: int) -> int: ...
    def settle(
        self,
        delivery: int,
        attempt: int,
        *,
        state: DeliveryState,
        reason: str | None,
        failure_class: str | None,
        failures: int,
        due_at: datetime,
        now: datetime,
    ) -> bool:
        """Leave IN_PROGRESS under the fence; False when it is lost."""
        ...

    def move(
        self,
        delivery: int,
        *,
        source: DeliveryState,
        to: DeliveryState,
        due_at: datetime,
        reason: str | None,
        now: datetime,
        failures: int | None = None,
        attempt: int | None = None,
        operation: int | None = None,
    ) -> bool:
        """Move by a conditional UPDATE on the source state; False when it moved on.

        Out of IN_PROGRESS only while its lease has run out or, whatever its lease says, `attempt` holds it.
        """
        ...

    def due(self, *, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Answer (id, kind) of PENDING rows that are due, by priority, then oldest; paused ones left out.

        Every destination gets its share of `limit`: a long queue to one must not hide the others.
        """
        ...

    def next_due(self, destination: str, *, now: datetime, limit: int = 1) -> list[int]:
        """Answer ids of due PENDING rows of one destination, by priority, then oldest.

        Only the first of each ordering key.
        """
        ...

    def more_urgent(self, destination: str, *, than: int, now: datetime) -> int | None:
        """Answer what may be claimed there now before anything of priority `than`, if there is something."""
        ...

    def prioritise(
        self,
        delivery: int,
        *,
        source: DeliveryState,
        priority: int,
        operation: int | None = None,
    ) -> bool:
        """Change the priority while the row is in `source`; False when it moved on."""
        ...

    def waits_up_to(self, destination: str, delivery: int) -> bool:
        """Answer whether anything planned up to this delivery is still to be sent there."""
        ...

    def newest_id(self) -> int:
        """Answer the id of the delivery planned last; 0 when there is none."""
        ...

    def select(
        self, selection: Selection, *, states: Sequence[DeliveryState], after: int, limit: int
    ) -> list[Delivery]:
        """Answer those that fit in one of `states` with ids greater than `after`, ascending."""
        ...

    def undelivered(self, delivery: int) -> list[int]:
        """Answer the instances of a delivery that are not delivered, in their order."""
        ...

    def find_ids(
        self,
        *,
        state: DeliveryState,
        destination: str | None = None,
        study_instance_uid: str | None = None,
        after: int = 0,
        limit: int = 500,
    ) -> list[int]:
        """Answer ids greater than `after`, ascending, of the rows that fit every filter given."""
        ...

    def reopen_items(self, delivery: int) -> int:
        """Put REJECTED items back to WAITING, answer how many; delivered ones stay delivered."""
        ...

    def mend_waits(self, *, now: datetime, tolerance: timedelta, limit: int) -> int:
        """Let rows that were written later than now wait from now on as long as was meant; answer how many.

        A clock that was set back by an hour would let them wait an hour longer.
        """
        ...

    def quiet(self, *, now: datetime, limit: int) -> list[int]:
        """Answer COLLECTING rows whose quiet period or cap is over."""
        ...

    def held(self, *, limit: int) -> list[Delivery]:
        """Answer IN_PROGRESS rows."""
        ...

    def in_progress(self, destination: str) -> int: ...
    def of_instance(self, instance: int) -> list[Delivery]: ...
    def collecting_of_series(self, series_instance_uid: str) -> list[int]: ...
