"""Routes: which facts send an instance where. Compiled strictly once, decided totally ever after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from broker.domain.conditions import AllOf, Operator, Verdict
from broker.domain.facts import FactValues, Source, source_of
from broker.domain.rule_syntax import ConditionReader, KnownKeyword, RouteSyntaxError, suggestion

__all__ = [
    "KnownKeyword",
    "Operator",
    "Route",
    "RouteDecision",
    "RouteSyntaxError",
    "RouteVerdict",
    "Routes",
    "Unit",
    "Verdict",
    "compile_routes",
    "decide",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_KEYS = ("name", "when", "send", "unit", "stop")


class Unit(Enum):
    """What one delivery of a route carries."""

    INSTANCE = "instance"
    """Each instance at once; those of one series that wait together travel together."""
    SERIES = "series"
    """The series when it has come to rest."""
    STUDY = "study"
    """The study when it has come to rest."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route: when its condition holds, the instance goes to every destination it names."""

    name: str
    when: AllOf
    send: tuple[str, ...]
    unit: Unit | None = None
    """None: as the destination prefers."""
    stop: bool = False
    """Look at no further route once this one has matched."""


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes of one configuration, in their order."""

    routes: tuple[Route, ...] = ()
    keys: frozenset[str] = frozenset()
    """Every fact any route looks at."""

    @property
    def image_keys(self) -> frozenset[str]:
        """List the keywords and paths that must be read from the image's header."""
        return frozenset(key for key in self.keys if source_of(key) is Source.IMAGE)

    @property
    def order_keys(self) -> frozenset[str]:
        """List the `order.` facts that are asked for."""
        return frozenset(key for key in self.keys if source_of(key) is Source.ORDER)


@dataclass(frozen=True, slots=True)
class RouteVerdict:
    """Says why one route matched, or did not."""

    route: Route
    matched: bool
    clauses: Verdict
    stopped_by: str | None = None
    """An earlier route with `stop` matched: this one was not asked."""


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where one instance goes. The verdicts are computed when somebody asks why."""

    matched: tuple[Route, ...]
    routes: Routes
    facts: FactValues

    def verdicts(self) -> tuple[RouteVerdict, ...]:
        """Answer every route's verdict, clause by clause, also those behind a stop."""
        answers: list[RouteVerdict] = []
        stopped_by: str | None = None
        for route in self.routes.routes:
            clauses = route.when.verdict(self.facts)
            matched = clauses.holds and stopped_by is None
            answers.append(RouteVerdict(route, matched, clauses, stopped_by))
            if matched and route.stop:
                stopped_by = route.name
        return tuple(answers)


def decide(routes: Routes, facts: FactValues) -> RouteDecision:
    """Decide which routes match. Total: no fact makes it raise."""
    matched: list[Route] = []
    for route in routes.routes:
        if route.when.holds(facts):
            matched.append(route)
            if route.stop:
                break
    return RouteDecision(tuple(matched), routes, facts)


def compile_routes(raw: Sequence[Mapping[str, object]] | object, *, known_keyword: KnownKeyword) -> Routes:
    """Compile the `routes` of a site file. Raises RouteSyntaxError with every problem and its path."""
    reader = ConditionReader(known_keyword)
    if not isinstance(raw, Sequence) or isinstance(raw, (str, bytes)):
        raise RouteSyntaxError([("routes", "must be a list of routes")])
    routes: list[Route] = []
    seen: set[str] = set()
    for number, item in enumerate(raw):
        path = f"routes.{number}"
        if not isinstance(item, Mapping):
            reader.problem(path, "must be a mapping with name, when and send")
            continue
        route = _route(reader, item, path)
        if route.name in seen:
            reader.problem(f"{path}.name", f"{route.name!r} is the name of an earlier route")
        seen.add(route.name)
        routes.append(route)
    if reader.problems:
        raise RouteSyntaxError(reader.problems)
    return Routes(tuple(routes), frozenset(key for route in routes for key in route.when.fact_keys()))


def _route(reader: ConditionReader, raw: Mapping[object, object], path: str) -> Route:
    for key in raw:
        if key not in _KEYS:
            reader.problem(f"{path}.{key}", f"is not a key of a route{suggestion(str(key), _KEYS)}")
    name = raw.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        reader.problem(
            f"{path}.name" if "name" in raw else path,
            "needs a name of letters, digits, dots, dashes and underscores, at most 64 of them",
        )
        name = ""
    send = raw.get("send")
    targets: list[str] = []
    if not isinstance(send, Sequence) or isinstance(send, (str, bytes)) or not send:
        reader.problem(f"{path}.send" if "send" in raw else path, "needs a list of destinations in `send`")
    else:
        for number, target in enumerate(send):
            if not isinstance(target, str) or not target:
                reader.problem(f"{path}.send.{number}", "must be the name of a destination")
            elif target in targets:
                reader.problem(f"{path}.send.{number}", f"names {target!r} twice")
            else:
                targets.append(target)
    unit: Unit | None = None
    if raw.get("unit") is not None:
        try:
            unit = Unit(raw["unit"])
        except ValueError:
            units = [member.value for member in Unit]
            hint = suggestion(str(raw["unit"]), units)
            reader.problem(f"{path}.unit", f"must be one of {', '.join(units)}{hint}")
    stop = raw.get("stop", False)
    if not isinstance(stop, bool):
        reader.problem(f"{path}.stop", "must be true or false")
        stop = False
    return Route(name, reader.mapping(raw.get("when"), f"{path}.when"), tuple(targets), unit, stop)
