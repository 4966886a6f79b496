"""What a rule may ask of the facts: a closed set of operators, each total, each able to explain itself.

Nothing here raises on a fact, whatever it says: a value that is no number is in no number range. `holds` is the
fast path; `verdict` answers the same question with the value seen, where it came from, and every part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from broker.domain.facts import FactValues, Source, source_of
from broker.domain.matching import Wildcard
from broker.domain.values import parse_date, parse_time

MAX_COMPARED_CHARACTERS = 1024
"""More of one value is never looked at: a pattern costs at most its length times this."""


class Operator(Enum):
    """What a clause does; the value is its name in explanations and in docs/rules.md."""

    EQUALS = "equals"
    GLOB = "glob"
    IN = "in"
    EXISTS = "exists"
    MISSING = "missing"
    RANGE = "range"
    NOT = "not"
    ANY = "any"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Says whether one clause holds, and what it looked at."""

    path: str
    """Where the clause stands: `routes.0.when.Modality`."""
    operator: Operator
    holds: bool
    asked: str
    """What the rule wants, in words."""
    key: str | None = None
    found: tuple[str, ...] | None = None
    """The values seen; None where there is no such fact, () where it has no value."""
    source: Source | None = None
    parts: tuple[Verdict, ...] = ()

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        if self.key is None or self.source is None:
            return self.asked
        seen = "missing" if self.found is None else (", ".join(self.found) or "empty")
        return f"{self.key} {self.asked}: {seen} ({self.source.value})"


def _leaf(facts: FactValues, key: str, *, path: str, operator: Operator, asked: str, holds: bool) -> Verdict:
    return Verdict(path, operator, holds, asked, key=key, found=facts.get(key), source=source_of(key))


@dataclass(frozen=True, slots=True)
class Equals:
    """Any value of the fact equals any of the wanted ones; `*` and `?` stand for anything."""

    path: str
    key: str
    texts: frozenset[str]
    patterns: tuple[Wildcard, ...]
    numbers: frozenset[float]
    """Wanted numbers, for attributes that are numbers: 5 equals `5.000`."""
    ignore_case: bool
    asked: tuple[str, ...]

    def holds(self, facts: FactValues) -> bool:
        """Tell whether it holds."""
        for found in facts.get(self.key, ()):
            value = found.upper() if self.ignore_case else found
            if value in self.texts:
                return True
            if self.patterns and value:
                value = value[:MAX_COMPARED_CHARACTERS]
                if any(pattern.matches(value) for pattern in self.patterns):
                    return True
            if self.numbers and number_of(found) in self.numbers:
                return True
        return False

    def verdict(self, facts: FactValues) -> Verdict:
        """Answer with the values seen."""
        operator = Operator.IN
        asked = "is one of " + ", ".join(self.asked)
        if len(self.asked) == 1:
            operator = Operator.GLOB if self.patterns else Operator.EQUALS
            asked = f"is like {self.asked[0]}" if self.patterns else f"is {self.asked[0]}"
        return _leaf(facts, self.key, path=self.path, operator=operator, asked=asked, holds=self.holds(facts))

    def fact_keys(self) -> Iterator[str]:
        """List the facts it looks at."""
        yield self.key


@dataclass(frozen=True, slots=True)
class Exists:
    """The fact is there and not empty, or it is not."""

    path: str
    key: str
    wanted: bool

    def holds(self, facts: FactValues) -> bool:
        """Tell whether it holds."""
        return any(facts.get(self.key, ())) is self.wanted

    def verdict(self, facts: FactValues) -> Verdict:
        """Answer with the values seen."""
        operator = Operator.EXISTS if self.wanted else Operator.MISSING
        asked = "is present" if self.wanted else "is missing or empty"
        return _leaf(facts, self.key, path=self.path, operator=operator, asked=asked, holds=self.holds(facts))

    def fact_keys(self) -> Iterator[str]:
        """List the facts it looks at."""
        yield self.key


class Scale(Enum):
    """How the values of a range are put in order."""

    NUMBER = "number"
    DATE = "date"
    TIME = "time"
    AGE = "age"


_AGE = re.compile(r"(\d{1,3})([DWMY])\Z")
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}


def number_of(text: str) -> float | None:
    """Read a decimal number (PS3.5 6.2, DS and IS); nothing when it is none."""
    if "_" in text or len(text) > 32:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def age_days(text: str) -> float | None:
    """Read an age such as `045Y` or `6M` in days (PS3.5 6.2, AS); nothing when it is none."""
    match = _AGE.match(text.strip().upper())
    return None if match is None else int(match[1]) * _DAYS[match[2]]


def position_of(text: str, scale: Scale) -> float | None:
    """Place a value on a scale; nothing when it does not belong there."""
    match scale:
        case Scale.NUMBER:
            return number_of(text)
        case Scale.AGE:
            return age_days(text)
        case Scale.DATE:
            day = parse_date(text)
            return None if day is None else float(day.toordinal())
        case Scale.TIME:
            span = parse_time(text)
            first = None if span is None else span.first
            return None if first is None else first.hour * 3600.0 + first.minute * 60.0 + first.second


@dataclass(frozen=True, slots=True)
class Between:
    """Any value of the fact lies in a closed range; an open end is None."""

    path: str
    key: str
    scale: Scale
    low: float | None
    high: float | None
    asked: str

    def holds(self, facts: FactValues) -> bool:
        """Tell whether it holds."""
        for value in facts.get(self.key, ()):
            place = position_of(value, self.scale)
            if (
                place is not None
                and (self.low is None or self.low <= place)
                and (self.high is None or place <= self.high)
            ):
                return True
        return False

    def verdict(self, facts: FactValues) -> Verdict:
        """Answer with the values seen."""
        return _leaf(
            facts,
            self.key,
            path=self.path,
            operator=Operator.RANGE,
            asked=self.asked,
            holds=self.holds(facts),
        )

    def fact_keys(self) -> Iterator[str]:
        """List the facts it looks at."""
        yield self.key


@dataclass(frozen=True, slots=True)
class Not:
    """Its part does not hold."""

    path: str
    part: Condition

    def holds(self, facts: FactValues) -> bool:
        """Tell whether it holds."""
        return not self.part.holds(facts)

    def verdict(self, facts: FactValues) -> Verdict:
        """Answer with the verdict of the part."""
        part = self.part.verdict(facts)
        return Verdict(self.path, Operator.NOT, not part.holds, "this does not hold", parts=(part,))

    def fact_keys(self) -> Iterator[str]:
        """List the facts it looks at."""
        return self.part.fact_keys()


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without parts it always does."""

    path: str
    parts: tuple[Condition, ...]

    def holds(self, facts: FactValues) -> bool:
        """Tell whether it holds."""
        return all(part.holds(facts) for part in self.parts)

    def verdict(self, facts: FactValues) -> Verdict:
        """Answer with the verdict of every part, also behind the first that fails."""
        parts = tuple(part.verdict(facts) for part in self.parts)
        asked = "all of these hold" if parts else "always"
        return Verdict(self.path, Operator.ALL, all(part.holds for part in parts), asked, parts=parts)

    def fact_keys(self) -> Iterator[str]:
        """List the facts it looks at."""
        return (key for part in self.parts for key in part.fact_keys())


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    path: str
    parts: tuple[Condition, ...]

    def holds(self, facts: FactValues) -> bool:
        """Tell whether it holds."""
        return any(part.holds(facts) for part in self.parts)

    def verdict(self, facts: FactValues) -> Verdict:
        """Answer with the verdict of every part."""
        parts = tuple(part.verdict(facts) for part in self.parts)
        return Verdict(
            self.path, Operator.ANY, any(part.holds for part in parts), "one of these holds", parts=parts
        )

    def fact_keys(self) -> Iterator[str]:
        """List the facts it looks at."""
        return (key for part in self.parts for key in part.fact_keys())


Condition = Equals | Exists | Between | Not | AllOf | AnyOf
