"""Why did it go there, and why not: computed again from what was kept when it was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from broker.domain.conditions import Operator, Verdict
from broker.domain.facts import FactValues, order_facts, routing_facts
from broker.domain.rules import Routes, RouteVerdict, decide
from broker.workflow.reconciliation import JoinedOrder, join_key, join_order
from broker.workflow.unit_of_work import UnitOfWork

RoutesOf = Callable[[str], Routes]
"""Body of a stored configuration -> its compiled routes."""


@dataclass(frozen=True, slots=True)
class ExplainedClause:
    """One clause held against what was found."""

    clause: str
    holds: bool
    seen: str
    depth: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class ExplainedRoute:
    """Why a route took some instances, or did not."""

    route: str
    matched: bool
    instances: int
    """How many instances had this very explanation."""
    destinations: tuple[str, ...]
    clauses: tuple[ExplainedClause, ...]
    conflicts: tuple[str, ...] = ()
    configuration: int | None = None
    example: int | None = None
    """Row of one of these instances."""


def explain_facts(routes: Routes, facts: FactValues) -> list[ExplainedRoute]:
    """Explain what would be decided about these facts."""
    return [_explained(verdict, instances=1) for verdict in decide(routes, facts).verdicts()]


def explain_study(uow: UnitOfWork, study_instance_uid: str, *, routes_of: RoutesOf) -> list[ExplainedRoute]:
    """Explain every decision about a study; instances decided alike are told once, with their number.

    In the order of the routes; a route that took some instances and not others stands there once for each.
    """
    compiled: dict[int, Routes] = {}
    groups: dict[tuple[int, tuple[str, ...], tuple[tuple[str, ...] | None, ...]], list[int]] = {}
    samples: dict[tuple[int, tuple[str, ...], tuple[tuple[str, ...] | None, ...]], FactValues] = {}
    for decision in uow.decisions.of_study(study_instance_uid):
        if decision.configuration not in compiled:
            body = uow.decisions.configuration_body(decision.configuration)
            compiled[decision.configuration] = routes_of(body)
        keys = sorted(compiled[decision.configuration].keys)
        group = (
            decision.configuration,
            decision.conflicts,
            tuple(decision.facts.get(key) for key in keys),
        )
        groups.setdefault(group, []).append(decision.instance)
        samples.setdefault(group, decision.facts)
    answers: list[tuple[int, int, ExplainedRoute]] = []
    for group, instances in groups.items():
        configuration, conflicts, _ = group
        verdicts = decide(compiled[configuration], samples[group]).verdicts()
        answers.extend(
            (
                -configuration,
                place,
                _explained(
                    verdict,
                    instances=len(instances),
                    conflicts=conflicts,
                    configuration=configuration,
                    example=instances[0],
                ),
            )
            for place, verdict in enumerate(verdicts)
        )
    answers.sort(key=lambda answer: answer[:2])
    return [explained for _, _, explained in answers]


def try_study(uow: UnitOfWork, study_instance_uid: str, *, routes: Routes) -> list[ExplainedRoute]:
    """Explain what these routes would decide about what has come of a study, if it came now; nothing is changed.

    A header field no route asked for when an image came was not kept with it, and shows as missing.
    """
    joined: dict[tuple[str, ...], JoinedOrder] = {}
    groups: dict[tuple[tuple[str, ...], tuple[tuple[str, ...] | None, ...]], list[int]] = {}
    samples: dict[tuple[tuple[str, ...], tuple[tuple[str, ...] | None, ...]], FactValues] = {}
    keys = sorted(routes.keys)
    for instance in uow.instances.of_study(study_instance_uid):
        key = join_key(instance)
        if key not in joined:
            joined[key] = join_order(uow, instance)
        facts = routing_facts(
            instance.facts,
            calling_ae_title=instance.calling_ae_title,
            order=order_facts(joined[key].views, keys=routes.order_keys),
        )
        group = (joined[key].conflicts, tuple(facts.get(key) for key in keys))
        groups.setdefault(group, []).append(instance.id)
        samples.setdefault(group, facts)
    answers = [
        (
            place,
            _explained(verdict, instances=len(instances), conflicts=group[0], example=instances[0]),
        )
        for group, instances in groups.items()
        for place, verdict in enumerate(decide(routes, samples[group]).verdicts())
    ]
    answers.sort(key=lambda answer: answer[0])
    return [explained for _, explained in answers]


def _explained(
    verdict: RouteVerdict,
    *,
    instances: int,
    conflicts: tuple[str, ...] = (),
    configuration: int | None = None,
    example: int | None = None,
) -> ExplainedRoute:
    clauses = tuple(_clauses(verdict.clauses))
    if verdict.stopped_by is not None:
        asked = ExplainedClause("no earlier route stops the list", False, f"stopped by {verdict.stopped_by}")
        clauses = (asked, *clauses)
    return ExplainedRoute(
        route=verdict.route.name,
        matched=verdict.matched,
        instances=instances,
        destinations=verdict.route.send,
        clauses=clauses,
        conflicts=conflicts,
        configuration=configuration,
        example=example,
    )


def _clauses(verdict: Verdict) -> Iterator[ExplainedClause]:
    if not verdict.parts:
        yield ExplainedClause("always", True, "", path=verdict.path)
    yield from _parts(verdict.parts, depth=0)


def _parts(parts: Iterable[Verdict], *, depth: int) -> Iterator[ExplainedClause]:
    """Flatten the tree of a condition: each clause is followed by its parts, one deeper."""
    for part in parts:
        if part.key is not None:
            yield ExplainedClause(
                f"{part.key} {part.asked}", part.holds, _seen(part), depth=depth, path=part.path
            )
            continue
        if part.operator is Operator.ALL and len(part.parts) == 1:
            yield from _parts(part.parts, depth=depth)
            continue
        yield ExplainedClause(part.asked, part.holds, "", depth=depth, path=part.path)
        yield from _parts(part.parts, depth=depth + 1)


def _seen(part: Verdict) -> str:
    value = "missing" if part.found is None else (", ".join(part.found) or "empty")
    return f"{value} ({part.source.value})" if part.source else value
