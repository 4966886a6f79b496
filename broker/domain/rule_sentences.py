"""A route in one sentence, for people who read no YAML."""

from __future__ import annotations

from broker.domain.conditions import Operator, Verdict
from broker.domain.rules import Route, Unit

_CARRIED = {
    Unit.INSTANCE: "each image goes at once to",
    Unit.SERIES: "each series, when complete, goes to",
    Unit.STUDY: "each study, when complete, goes to",
    None: "it goes to",
}


def sentence_of(route: Route) -> str:
    """Say when a route matches, what it sends where, and whether later routes are still asked."""
    # What a clause asks does not depend on the facts; held against none, it still says it.
    verdict = route.when.verdict({})
    wanted = [part for part in verdict.parts if part.operator is not Operator.NOT]
    unwanted = [part.parts[0] for part in verdict.parts if part.operator is Operator.NOT]
    when = "Whatever comes" if not wanted else f"When {_joined(wanted, 'and')}"
    if unwanted:
        when += f", but not when {_joined(unwanted, 'or')}"
    sentence = f"{when}: {_CARRIED[route.unit]} {_listed(route.send)}."
    return f"{sentence} No later rule is asked." if route.stop else sentence


def _said(verdict: Verdict) -> str:
    if verdict.key is not None:
        return f"{verdict.key} {verdict.asked}"
    match verdict.operator:
        case Operator.NOT:
            return f"not ({_said(verdict.parts[0])})"
        case Operator.ANY:
            return _grouped(verdict.parts, "or")
        case _:
            return _grouped(verdict.parts, "and") if verdict.parts else "anything holds"


def _grouped(parts: tuple[Verdict, ...], word: str) -> str:
    return _said(parts[0]) if len(parts) == 1 else f"({_joined(parts, word)})"


def _joined(parts: list[Verdict] | tuple[Verdict, ...], word: str) -> str:
    return f" {word} ".join(_said(part) for part in parts)


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
