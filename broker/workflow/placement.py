"""Puts routed instances into deliveries: the open one of their unit, or a new one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.rules import Unit
from broker.workflow.completion import CompletionPolicy, release_complete_series
from broker.workflow.deliveries_port import Delivery
from broker.workflow.routing_policy import RoutedDestination
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import Task, WakeUp

HELD_FOR_IDENTITY = (
    "The patient of the image is not the patient of its order: "
    "look at both before this is printed, then retry."
)
DEFAULT_PRIORITY = 4


@dataclass(frozen=True, slots=True)
class Target:
    """One delivery an instance belongs to."""

    route: str
    destination: RoutedDestination
    unit: Unit
    unit_uid: str
    study_instance_uid: str
    order: int | None
    held: bool


class Placement:
    """Collects the instances of one transaction by delivery, then joins or makes those deliveries."""

    def __init__(self, uow: UnitOfWork, completion: CompletionPolicy, now: datetime) -> None:
        """Take the transaction to write in."""
        self._uow = uow
        self._completion = completion
        self._now = now
        self._targets: dict[Target, list[int]] = {}
        self._priorities: dict[Target, int] = {}

    def add(self, target: Target, instance: int, *, priority: int) -> None:
        """Note an instance for a delivery; the most urgent one gives the delivery its priority."""
        self._targets.setdefault(target, []).append(instance)
        self._priorities[target] = min(priority, self._priorities.get(target, priority))

    def place(self) -> None:
        """Join or make the deliveries of everything that was added."""
        collecting: dict[str, set[str]] = {}
        for target, instances in self._targets.items():
            if target.held:
                self._hold(target, instances)
                continue
            state = self._join(target, instances)
            if state is DeliveryState.COLLECTING and target.unit is Unit.SERIES:
                collecting.setdefault(target.study_instance_uid, set()).add(target.unit_uid)
        for study, series in collecting.items():
            release_complete_series(self._uow, study, now=self._now, among=series)

    def _join(self, target: Target, instances: list[int]) -> DeliveryState:
        """Put instances into the open delivery of their unit, or into a new one; answer its state."""
        deliveries, now = self._uow.deliveries, self._now
        quiet = self._completion.quiet(target.unit)
        found = deliveries.open_for(
            destination=target.destination.name, route=target.route, unit_uid=target.unit_uid
        )
        if found is None:
            found = self._create(
                target,
                state=DeliveryState.PENDING if quiet is None else DeliveryState.COLLECTING,
                due_at=now if quiet is None else now + min(quiet, self._completion.cap),
            )
        elif found.state is DeliveryState.COLLECTING and quiet is not None:
            deliveries.collect(found.id, due_at=now + quiet, now=now)
        urgency = self._priorities.get(target, DEFAULT_PRIORITY)
        if urgency < found.priority:
            # Its order came late, or was made urgent meanwhile.
            deliveries.prioritise(found.id, source=found.state, priority=urgency)
        deliveries.add_items(found.id, instances)
        if found.state is DeliveryState.PENDING and found.due_at <= now:
            kind = target.destination.kind
            self._uow.wake(WakeUp(Task.DELIVER, found.id, kind, target.destination.name))
        return found.state

    def _hold(self, target: Target, instances: list[int]) -> None:
        """Keep what must not be printed before a person has looked: dead, with the reason, ready to retry."""
        held = self._held(target, instances[0])
        if held is None:
            held = self._create(target, state=DeliveryState.DEAD, due_at=self._now, reason=HELD_FOR_IDENTITY)
        self._uow.deliveries.add_items(held.id, instances)

    def _held(self, target: Target, newcomer: int) -> Delivery | None:
        """Find the dead delivery that earlier images of the same unit are held in."""
        if target.unit is Unit.STUDY:
            siblings = self._uow.instances.of_study(target.study_instance_uid)
        else:
            siblings = self._uow.instances.of_series(target.unit_uid)
        for sibling in siblings[:1]:
            if sibling.id == newcomer:
                return None
            for delivery in self._uow.deliveries.of_instance(sibling.id):
                if (
                    delivery.state is DeliveryState.DEAD
                    and delivery.reason == HELD_FOR_IDENTITY
                    and (delivery.destination, delivery.route, delivery.unit_uid)
                    == (target.destination.name, target.route, target.unit_uid)
                ):
                    return delivery
        return None

    def _create(
        self, target: Target, *, state: DeliveryState, due_at: datetime, reason: str | None = None
    ) -> Delivery:
        collecting = state is DeliveryState.COLLECTING
        delivery = Delivery(
            id=0,
            destination=target.destination.name,
            kind=target.destination.kind,
            route=target.route,
            unit=target.unit.value,
            unit_uid=target.unit_uid,
            state=state,
            attempt=0,
            failures=0,
            due_at=due_at,
            created_at=self._now,
            study_instance_uid=target.study_instance_uid,
            order=target.order,
            reason=reason,
            priority=self._priorities.get(target, DEFAULT_PRIORITY),
            collect_until=self._now + self._completion.cap if collecting else None,
        )
        key = self._uow.deliveries.add(delivery, now=self._now)
        self._uow.record(
            Event(
                EventName.DELIVERY_CREATED if reason is None else EventName.DELIVERY_DIED,
                Subject.DELIVERY,
                subject_id=key,
                study_instance_uid=target.study_instance_uid,
                order=target.order,
                details={
                    "destination": target.destination.name,
                    "route": target.route,
                    "unit": target.unit.value,
                    "state": state.value,
                    "reason": reason,
                },
            )
        )
        return self._uow.deliveries.get(key)
