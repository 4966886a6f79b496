"""Decides where received instances go and makes the deliveries, many instances in one transaction.

The decision of an instance, its state and its place in a delivery change together or not at all, and its state
leaves RECEIVED once: routing the same instance twice, or by two workers at once, does nothing the second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.events import Event, EventName, Subject
from broker.domain.facts import CALLING_AE_TITLE, FactValues, order_facts, routing_facts
from broker.domain.rules import Route, Unit, decide
from broker.failpoints import failpoint
from broker.workflow.clock import Clock
from broker.workflow.decisions_port import StoredDecision
from broker.workflow.images_port import Instance, InstanceState
from broker.workflow.placement import DEFAULT_PRIORITY, HELD_FOR_IDENTITY, Placement, Target
from broker.workflow.probe_port import PROBE
from broker.workflow.reconciliation import IDENTITY, JoinedOrder, join_key, join_order
from broker.workflow.routing_policy import Purpose, RoutedDestination, RoutingPolicy, purpose_of
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork
from broker.workflow.wake_ups import Task, WakeUp

__all__ = [
    "HELD_FOR_IDENTITY",
    "Purpose",
    "Routed",
    "RoutedDestination",
    "RoutingPolicy",
    "purpose_of",
    "reroute",
    "route",
    "route_received",
]

BATCH_INSTANCES = 200
SLICE_S = 60.0
_PRIORITIES = {"STAT": 1, "HIGH": 2, "ROUTINE": 4, "MEDIUM": 4, "LOW": 6}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    """What is to become of one instance, if it is still undecided."""

    instance: Instance
    joined: JoinedOrder
    facts: FactValues
    matched: tuple[Route, ...]
    targets: tuple[Target, ...]
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
        self._placement = Placement(uow, policy.completion, now)
        self._series: dict[tuple[str, str, str, int | None], _Series] = {}
        self._synthetic: set[str] = set()
        self._doubtful: dict[str, tuple[_Proposal, int]] = {}

    def route(self, instances: Sequence[int]) -> Routed:
        undecided = [
            instance
            for instance in self._uow.instances.get_many(instances)
            if instance.state is InstanceState.RECEIVED
        ]
        self._synthetic = self._uow.probes.among(instance.study_instance_uid for instance in undecided)
        proposed = [self._propose(instance) for instance in undecided]
        failpoint("route.after_facts")
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
                self._placement.add(target, proposal.instance.id, priority=proposal.priority)
            self._count(proposal)
        self._placement.place()
        self._record()
        routed = sum(proposal.state is InstanceState.ROUTED for proposal in decided)
        return Routed(routed, len(decided) - routed)

    def _propose(self, instance: Instance) -> _Proposal:
        joined, facts_of_order = self._order_of(instance)
        facts = routing_facts(
            instance.facts, calling_ae_title=instance.calling_ae_title, order=facts_of_order
        )
        # No rule of the site is asked about an exam of nobody: none of it may reach an archive.
        is_synthetic = instance.study_instance_uid in self._synthetic
        matched = () if is_synthetic else self._matching(facts)
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
    ) -> tuple[list[Target], list[str]]:
        if instance.study_instance_uid in self._synthetic:
            return self._probe_targets(instance, joined), []
        targets: list[Target] = []
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
                    Target(
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

    def _probe_targets(self, instance: Instance, joined: JoinedOrder) -> list[Target]:
        if self._policy.probe is None:
            return []
        return [
            Target(
                route=PROBE,
                destination=self._policy.probe,
                unit=Unit.INSTANCE,
                unit_uid=instance.series_instance_uid,
                study_instance_uid=instance.study_instance_uid,
                order=joined.order,
                held=False,
            )
        ]

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
        (_PRIORITIES.get(value.upper(), DEFAULT_PRIORITY) for value in values), default=DEFAULT_PRIORITY
    )
