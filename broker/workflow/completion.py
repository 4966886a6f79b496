"""When a series or a study has come to rest: a quiet period, cut short by what the modality itself reports."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.domain.delivery import DeliveryEvent, DeliveryState, advance_delivery
from broker.domain.events import Event, EventName, Subject
from broker.domain.rules import Unit
from broker.domain.steps import PerformedStatus
from broker.workflow.images_port import InstanceState
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp


@dataclass(frozen=True, slots=True)
class CompletionPolicy:
    """How long no image must arrive before a unit counts as complete."""

    series_quiet: timedelta = timedelta(seconds=30)
    study_quiet: timedelta = timedelta(minutes=5)
    cap: timedelta = timedelta(hours=4)
    """A unit that never comes to rest is sent after this all the same."""

    def quiet(self, unit: Unit) -> timedelta | None:
        """Answer the quiet period of a unit; None where nothing is waited for."""
        if unit is Unit.INSTANCE:
            return None
        return self.series_quiet if unit is Unit.SERIES else self.study_quiet


def release_complete_series(
    uow: UnitOfWork, study_instance_uid: str, *, now: datetime, among: Collection[str] | None = None
) -> list[int]:
    """Send those series now whose every instance, as the finished performed steps list them, is here and routed.

    Shortens a wait and never lengthens one: a performed step is often finished long before or after its images.
    `among` limits the look to these series. Answers the deliveries that need not wait any longer.
    """
    listed: dict[str, set[str]] = {}
    unfinished: set[str] = set()
    for performed in uow.performed.of_study(study_instance_uid):
        for series, instances in performed.series.items():
            if performed.status is PerformedStatus.IN_PROGRESS:
                unfinished.add(series)
            listed.setdefault(series, set()).update(instances)
    released: list[int] = []
    for series, wanted in sorted(listed.items()):
        if not wanted or series in unfinished or (among is not None and series not in among):
            continue
        collecting = uow.deliveries.collecting_of_series(series)
        if not collecting:
            continue
        here = {
            instance.sop_instance_uid
            for instance in uow.instances.of_series(series)
            if instance.state is not InstanceState.RECEIVED
        }
        if wanted <= here:
            released += [key for key in collecting if _release(uow, key, now=now)]
    return released


def _release(uow: UnitOfWork, key: int, *, now: datetime) -> bool:
    delivery = uow.deliveries.get(key)
    if delivery.state is not DeliveryState.COLLECTING:
        return False
    target = advance_delivery(delivery.state, DeliveryEvent.COLLECTED)
    moved = uow.deliveries.move(
        key, source=DeliveryState.COLLECTING, to=target, due_at=now, reason=None, now=now
    )
    if moved:
        uow.record(
            Event(
                EventName.DELIVERY_COLLECTED,
                Subject.DELIVERY,
                subject_id=key,
                study_instance_uid=delivery.study_instance_uid,
                order=delivery.order,
                details={"destination": delivery.destination, "complete": "as the performed step lists it"},
            )
        )
        uow.wake(WakeUp(Task.DELIVER, key, delivery.kind, delivery.destination))
    return moved
