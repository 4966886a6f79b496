"""Where a study is and where it is not: one line for each destination its images might go to, with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker.domain.delivery import DeliveryState
from broker.domain.wording import counted
from broker.workflow.explain import ExplainedClause, ExplainedRoute
from broker.workflow.reports_port import DeliveryLine

NOT_SENT = "not sent"
_S = DeliveryState
_WORST_FIRST = [state.value for state in (_S.DEAD, _S.PENDING, _S.IN_PROGRESS, _S.COLLECTING, _S.CANCELLED, _S.DELIVERED)]  # fmt: skip
_MOST_CLAUSES = 3


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """How one destination stands to a study."""

    destination: str
    state: str
    """Of its deliveries, the worst of them; NOT_SENT when there is none."""
    said: str
    """How far it is, or why it is not sent."""
    delivery: int | None = None
    """The delivery the state is of."""


def whereabouts(routes: Sequence[ExplainedRoute], deliveries: Sequence[DeliveryLine]) -> list[Whereabouts]:
    """Answer every destination a rule names or a delivery goes to; where the study is not comes first."""
    sent: dict[str, list[DeliveryLine]] = defaultdict(list)
    for line in deliveries:
        sent[line.destination].append(line)
    naming: dict[str, list[ExplainedRoute]] = defaultdict(list)
    for route in routes:
        for destination in route.destinations:
            naming[destination].append(route)
    found = [_not_sent(name, naming[name]) for name in naming if name not in sent]
    found += sorted(
        (_sent(name, lines) for name, lines in sent.items()), key=lambda line: _WORST_FIRST.index(line.state)
    )
    return found


def _sent(name: str, lines: Sequence[DeliveryLine]) -> Whereabouts:
    worst = min(lines, key=lambda line: (_WORST_FIRST.index(line.state), -line.id))
    items, delivered = sum(line.items for line in lines), sum(line.delivered for line in lines)
    said = f"{delivered:,} of {counted(items, 'image')} delivered" if items else ""
    if worst.state != _S.DELIVERED.value and worst.reason:
        said = f"{said}; {worst.reason}" if said else worst.reason
    return Whereabouts(name, worst.state, said, worst.id)


def _not_sent(name: str, routes: Sequence[ExplainedRoute]) -> Whereabouts:
    if any(route.matched for route in routes):
        return Whereabouts(
            name, NOT_SENT, "a rule took it; its delivery is not planned yet, or is over and gone"
        )
    return Whereabouts(name, NOT_SENT, "; ".join(dict.fromkeys(_against(route) for route in routes)))


def _against(route: ExplainedRoute) -> str:
    reasons = [f"{clause.clause}, found {clause.seen}" for clause in _failed(route.clauses)]
    more = "" if len(reasons) <= _MOST_CLAUSES else f" and {len(reasons) - _MOST_CLAUSES} more"
    return f"rule {route.route} wants {' and '.join(reasons[:_MOST_CLAUSES])}{more}"


def _failed(clauses: Sequence[ExplainedClause]) -> Iterator[ExplainedClause]:
    """Answer the clauses that did not hold and that ask something themselves, not of others."""
    return (clause for clause in clauses if not clause.holds and clause.seen)
