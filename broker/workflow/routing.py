"""Decides where received instances go and makes the deliveries, many instances in one transaction.

The decision of an instance, its state and its place in a delivery change together or not at all, and its state
leaves RECEIVED once: routing the same instance twice, or by two workers at once, does nothing the second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.facts import CALLING_AE_TITLE, FactValues, order_facts, routing_facts
from broker.domain.rules import Route, Routes, Unit, decide
from broker.workflow.completion import CompletionPolicy, release_complete_series
from broker.workflow.ports import (
    Clock,
    Delivery,
    Instance,
    InstanceState,
    StoredDecision,
    Task,
    UnitOfWork,
    UnitsOfWork,
    WakeUp,
)
from broker.workflow.reconciliation import IDENTITY, JoinedOrder, join_key, join_order

BATCH_INSTANCES = 200
SLICE_S = 60.0
HELD_FOR_IDENTITY = "The patient of the image is not the patient of its order: look at both before this is printed, then retry."
_PRIORITIES = {"STAT": 1, "HIGH": 2, "ROUTINE": 4, "MEDIUM": 4, "LOW": 6}
_DEFAULT_PRIORITY = 4


class Purpose(Enum):
    """What a destination does with an image, as far as it matters here."""

    STORAGE = "storage"
    """Keeps it: gets every instance at once, and gets it again when it is resent."""
    ALGORITHM = "algorithm"
    """Works on it: gets a series when it is complete."""
    PRINT = "print"
    """Shows it to people: waits for a person when the patient is in doubt."""


def purpose_of(kind: str, *, safekeeping: bool) -> Purpose:
    """Tell what a destination is for by its kind and whether it is an archive."""
    if kind == "print":
        return Purpose.PRINT
    if safekeeping or kind == "folder":
        return Purpose.STORAGE
    return Purpose.ALGORITHM


@dataclass(frozen=True, slots=True)
class RoutedDestination:
    """What routing knows of a destination."""

    name: str
    kind: str
    purpose: Purpose
    ae_title: str | None = None
    """How it is called; an object that came from there does not go back."""

    @property
    def unit(self) -> Unit:
        """Answer the unit it prefers."""
        return Unit.INSTANCE if self.purpose is Purpose.STORAGE else Unit.SERIES


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """The routes in force and what they need."""

    routes: Routes
    configuration: int
    """Row of the configuration version these routes come from."""
    destinations: Mapping[str, RoutedDestination]
    completion: CompletionPolicy = field(default_factory=CompletionPolicy)


@dataclass(frozen=True, slots=True)
class Routed:
    """What one slice of routing did."""

    routed: int = 0
    unrouted: int = 0
    more: bool = False
    """Time was up with instances left; a wake-up for them is on its way."""

    def __add__(self, other: Routed) -> Routed:
        """Add what another batch did."""
        return Routed(self.routed + other.routed, self.unrouted + other.unrouted, other.more)


def route_received(
    units_of_work: UnitsOfWork,
    clock: Clock,
    policy: RoutingPolicy,
    *,
    slice_s: float = SLICE_S,
    batch_instances: int = BATCH_INSTANCES,
) -> Routed:
    """Route everything nobody has decided about, in batches, for at most a slice of time."""
    until_s = clock.monotonic() + slice_s
    total = Routed()
    while True:
        with units_of_work() as uow:
            # One worker routes at a time: a second one would look at the same rows and wait for each of them.
            uow.lock("routing")
            undecided = uow.instances.undecided(batch_instances)
            if not undecided:
                return total
            is_late = clock.monotonic() >= until_s
            if is_late:
                uow.wake(WakeUp(Task.ROUTE, undecided[0]))
                uow.commit()
                return Routed(total.routed, total.unrouted, more=True)
            total += route(uow, undecided, policy, now=clock.now())
            uow.commit()


def route(uow: UnitOfWork, instances: Sequence[int], policy: RoutingPolicy, *, now: datetime) -> Routed:
    """Route some instances within a transaction; those that are decided already are left alone."""
    return _Batch(uow, policy, now).route(instances)


def reroute(study_instance_uid: str, units_of_work: UnitsOfWork, *, actor: str) -> int:
    """Let routing look again at what no route took of a study, answer how many instances."""
    with units_of_work() as uow:
        again = uow.instances.reconsider(study_instance_uid)
        if again:
            uow.record(
                Event(
                    EventName.UNROUTED,
                    Subject.STUDY,
                    study_instance_uid=study_instance_uid,
                    actor=actor,
                    details={"instances": again, "again": True},
                )
            )
            for undecided in uow.instances.undecided(1):
                uow.wake(WakeUp(Task.ROUTE, undecided))
            uow.commit()
        return again


@dataclass(frozen=True, slots=True)
class _Target:
    """One delivery an instance belongs to."""

    route: str
    destination: RoutedDestination
    unit: Unit
    unit_uid: str
    study_instance_uid: str
    order: int | None
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    """What is to become of one instance, if it is still undecided."""

    instance: Instance
    joined: JoinedOrder
    facts: FactValues
    matched: tuple[Route, ...]
    targets: tuple[_Target, ...]
    not_sent_back: tuple[str, ...]
    priority: int

    @property
    def state(self) -> InstanceState:
        return InstanceState.ROUTED if self.targets else InstanceState.UNROUTED


@dataclass(slots=True)
class _Series:
    """What the events of a batch say of one series."""

    instances: int = 0
    unrouted: int = 0
    routes: dict[str, None] = field(default_factory=dict)
    destinations: dict[str, None] = field(default_factory=dict)
    not_sent_back: dict[str, None] = field(default_factory=dict)


class _Batch:
    """Routes the instances of one transaction; what they share is looked up once."""

    def __init__(self, uow: UnitOfWork, policy: RoutingPolicy, now: datetime) -> None:
        self._uow = uow
        self._policy = policy
        self._now = now
        self._orders: dict[tuple[str, ...], tuple[JoinedOrder, FactValues]] = {}
        self._matches: dict[tuple[tuple[str, ...] | None, ...], tuple[Route, ...]] = {}
        self._keys = sorted(policy.routes.keys)
        self._targets: dict[_Target, list[int]] = {}
        self._priorities: dict[_Target, int] = {}
        self._series: dict[tuple[str, str, str, int | None], _Series] = {}
        self._doubtful: dict[str, tuple[_Proposal, int]] = {}

    def route(self, instances: Sequence[int]) -> Routed:
        proposed = [
            self._propose(instance)
            for instance in self._uow.instances.get_many(instances)
            if instance.state is InstanceState.RECEIVED
        ]
        alike: dict[tuple[InstanceState, int | None], list[int]] = {}
        for proposal in proposed:
            alike.setdefault((proposal.state, proposal.joined.order), []).append(proposal.instance.id)
        ours: set[int] = set()
        for (state, order), ids in alike.items():
            ours |= self._uow.instances.decide_many(ids, state, order=order)
        # What another worker decided meanwhile is its business.
        decided = [proposal for proposal in proposed if proposal.instance.id in ours]
        self._uow.decisions.add_many([self._decision(proposal) for proposal in decided])
        for proposal in decided:
            for target in proposal.targets:
                self._targets.setdefault(target, []).append(proposal.instance.id)
                known = self._priorities.get(target, proposal.priority)
                self._priorities[target] = min(proposal.priority, known)
            self._count(proposal)
        self._deliver()
        self._record()
        routed = sum(proposal.state is InstanceState.ROUTED for proposal in decided)
        return Routed(routed, len(decided) - routed)

    def _propose(self, instance: Instance) -> _Proposal:
        joined, facts_of_order = self._order_of(instance)
        facts = routing_facts(
            instance.facts, calling_ae_title=instance.calling_ae_title, order=facts_of_order
        )
        matched = self._matching(facts)
        targets, not_sent_back = self._targets_of(instance, joined, matched)
        return _Proposal(
            instance=instance,
            joined=joined,
            # The rest of the header stays where it is, with the instance.
            facts={key: facts[key] for key in (*self._keys, *facts_of_order) if key in facts},
            matched=matched,
            targets=tuple(targets),
            not_sent_back=tuple(not_sent_back),
            priority=_priority(facts),
        )

    def _decision(self, proposal: _Proposal) -> StoredDecision:
        return StoredDecision(
            id=0,
            instance=proposal.instance.id,
            study_instance_uid=proposal.instance.study_instance_uid,
            configuration=self._policy.configuration,
            decided_at=self._now,
            facts={**proposal.facts, CALLING_AE_TITLE: (proposal.instance.calling_ae_title,)},
            routes=tuple(route.name for route in proposal.matched),
            conflicts=proposal.joined.conflicts,
        )

    # ---- deciding --------------------------------------------------------------------------------------

    def _order_of(self, instance: Instance) -> tuple[JoinedOrder, FactValues]:
        key = join_key(instance)
        known = self._orders.get(key)
        if known is None:
            joined = join_order(self._uow, instance)
            known = joined, order_facts(joined.views, keys=self._policy.routes.order_keys)
            self._orders[key] = known
        return known

    def _matching(self, facts: FactValues) -> tuple[Route, ...]:
        # The slices of a series differ in nothing a rule asks: they are decided once.
        signature = tuple(facts.get(key) for key in self._keys)
        matched = self._matches.get(signature)
        if matched is None:
            matched = self._matches[signature] = decide(self._policy.routes, facts).matched
        return matched

    def _targets_of(
        self, instance: Instance, joined: JoinedOrder, matched: tuple[Route, ...]
    ) -> tuple[list[_Target], list[str]]:
        targets: list[_Target] = []
        named: set[str] = set()
        not_sent_back: list[str] = []
        for route in matched:
            for name in route.send:
                destination = self._policy.destinations.get(name)
                # Two routes that name one destination send it one copy, as the first of them says.
                if destination is None or name in named:
                    continue
                named.add(name)
                if _same_ae_title(destination.ae_title, instance.calling_ae_title):
                    not_sent_back.append(name)
                    continue
                unit = route.unit or destination.unit
                study = instance.study_instance_uid
                targets.append(
                    _Target(
                        route=route.name,
                        destination=destination,
                        unit=unit,
                        unit_uid=study if unit is Unit.STUDY else instance.series_instance_uid,
                        study_instance_uid=study,
                        order=joined.order,
                        held=IDENTITY in joined.conflicts and destination.purpose is Purpose.PRINT,
                    )
                )
        return targets, not_sent_back

    # ---- delivering ------------------------------------------------------------------------------------

    def _deliver(self) -> None:
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

    def _join(self, target: _Target, instances: list[int]) -> DeliveryState:
        """Put instances into the open delivery of their unit, or into a new one; answer its state."""
        deliveries, now = self._uow.deliveries, self._now
        quiet = self._policy.completion.quiet(target.unit)
        found = deliveries.open_for(
            destination=target.destination.name, route=target.route, unit_uid=target.unit_uid
        )
        if found is None:
            found = self._create(
                target,
                state=DeliveryState.PENDING if quiet is None else DeliveryState.COLLECTING,
                due_at=now if quiet is None else now + min(quiet, self._policy.completion.cap),
            )
        elif found.state is DeliveryState.COLLECTING and quiet is not None:
            deliveries.collect(found.id, due_at=now + quiet, now=now)
        deliveries.add_items(found.id, instances)
        if found.state is DeliveryState.PENDING and found.due_at <= now:
            kind = target.destination.kind
            self._uow.wake(WakeUp(Task.DELIVER, found.id, kind, target.destination.name))
        return found.state

    def _hold(self, target: _Target, instances: list[int]) -> None:
        """Keep what must not be printed before a person has looked: dead, with the reason, ready to retry."""
        held = self._held(target, instances[0])
        if held is None:
            held = self._create(target, state=DeliveryState.DEAD, due_at=self._now, reason=HELD_FOR_IDENTITY)
        self._uow.deliveries.add_items(held.id, instances)

    def _held(self, target: _Target, newcomer: int) -> Delivery | None:
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
        self, target: _Target, *, state: DeliveryState, due_at: datetime, reason: str | None = None
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
            priority=self._priorities.get(target, _DEFAULT_PRIORITY),
            collect_until=self._now + self._policy.completion.cap if collecting else None,
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

    # ---- telling ---------------------------------------------------------------------------------------

    def _count(self, proposal: _Proposal) -> None:
        instance, joined = proposal.instance, proposal.joined
        key = (
            instance.study_instance_uid,
            instance.series_instance_uid,
            instance.calling_ae_title,
            joined.order,
        )
        series = self._series.setdefault(key, _Series())
        series.instances += 1
        series.unrouted += not proposal.targets
        series.routes.update(dict.fromkeys(route.name for route in proposal.matched))
        series.destinations.update(dict.fromkeys(target.destination.name for target in proposal.targets))
        series.not_sent_back.update(dict.fromkeys(proposal.not_sent_back))
        if joined.conflicts:
            _, so_far = self._doubtful.get(instance.study_instance_uid, (proposal, 0))
            self._doubtful[instance.study_instance_uid] = (proposal, so_far + 1)

    def _record(self) -> None:
        """Write events: per series and batch, for one per instance would cost more than routing it."""
        for (study, uid, calling_ae_title, order), series in self._series.items():
            names = [EventName.INSTANCE_RECEIVED]
            names += [EventName.ROUTED] if series.destinations else []
            names += [EventName.UNROUTED] if series.unrouted else []
            for name in names:
                self._uow.record(
                    Event(
                        name,
                        Subject.SERIES,
                        study_instance_uid=study,
                        order=order,
                        actor=calling_ae_title if name is EventName.INSTANCE_RECEIVED else "broker",
                        details=_details(name, uid, series),
                    )
                )
        for study, (proposal, count) in self._doubtful.items():
            self._uow.record(
                Event(
                    EventName.IDENTITY_CONFLICT,
                    Subject.STUDY,
                    subject_id=proposal.instance.id,
                    study_instance_uid=study,
                    order=proposal.joined.suspected,
                    actor=proposal.instance.calling_ae_title,
                    details={"instances": count},
                )
            )


def _details(
    name: EventName, uid: str, series: _Series
) -> dict[str, str | int | float | bool | list[str] | None]:
    if name is EventName.INSTANCE_RECEIVED:
        return {"series_instance_uid": uid, "instances": series.instances}
    if name is EventName.UNROUTED:
        return {
            "series_instance_uid": uid,
            "instances": series.unrouted,
            "not_sent_back_to": list(series.not_sent_back),
        }
    return {
        "series_instance_uid": uid,
        "instances": series.instances - series.unrouted,
        "routes": list(series.routes),
        "destinations": list(series.destinations),
        "not_sent_back_to": list(series.not_sent_back),
    }


def _same_ae_title(ours: str | None, theirs: str) -> bool:
    return ours is not None and ours.strip().upper() == theirs.strip().upper()


def _priority(facts: FactValues) -> int:
    values = facts.get("order.priority", ())
    return min(
        (_PRIORITIES.get(value.upper(), _DEFAULT_PRIORITY) for value in values), default=_DEFAULT_PRIORITY
    )
