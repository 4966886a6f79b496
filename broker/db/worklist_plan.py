"""Chooses how a worklist query is narrowed: which key drives, and with what parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.domain.matching import (
    Key,
    NameCriterion,
    StartCriterion,
    TextCriterion,
    WorklistQuery,
    is_wildcard,
)
from broker.domain.steps import OFFERED_BY_DEFAULT
from broker.domain.values import DateRange, date_text
from broker.workflow.worklist import Visibility

_MAX_LISTED = 500
_MAX_PATTERNS = 4
_NAME_PREFIX_CHARACTERS = 60
_MAX_STORED_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Shape:
    """What two queries have in common that run the same statement with other parameters."""

    driver: str
    """`study`, `accession`, `patient_id`, `name`, `station`, `modality` or `date`."""
    keys: frozenset[Key]
    has_first: bool = False
    has_last: bool = False
    # how many values are listed of each
    exact: int = 0
    prefixes: int = 0
    stations: int = 0
    modalities: int = 0
    statuses: int = 0
    """None are listed when the device sees what can still be done."""
    started_modalities: int = 0
    offered_only: bool = True
    discontinued: bool = False
    synthetic: bool = False
    """Synthetic exams alone, or none of them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement and its parameters."""

    shape: Shape
    parameters: dict[str, Any] = field(default_factory=dict)


def plan_query(query: WorklistQuery, visibility: Visibility, *, is_postgresql: bool) -> Plan | None:
    """Choose what drives the query; nothing when no step can match.

    The moments since when steps are still shown are not among the parameters: they move, the plan stays.
    """
    parameters: dict[str, Any] = {}
    traits: dict[str, Any] = {"synthetic": visibility.synthetic}
    statuses = visibility.statuses
    if not statuses:
        return None
    if statuses != OFFERED_BY_DEFAULT:
        traits["statuses"] = _list(parameters, "status", sorted(status.value for status in statuses))
    else:
        if visibility.started_since is not None:
            modalities_shown = visibility.started_modalities
            traits["started_modalities"] = _list(parameters, "started_modality", modalities_shown)
        traits["discontinued"] = visibility.discontinued_since is not None
    dates = dates_of(query)
    if dates is not None:
        if dates.is_empty:
            return None
        if dates.first is not None:
            parameters["first"], traits["has_first"] = date_text(dates.first), True
        if dates.last is not None:
            parameters["last"], traits["has_last"] = date_text(dates.last), True
    driver = "date"
    for name, key in IDENTIFYING:
        found = identifying(query, key)
        if found is not None:
            exact, prefixes = found
            if not exact and not prefixes:
                return None
            driver = name
            traits["exact"] = _list(parameters, "exact", exact)
            traits["prefixes"] = len(prefixes)
            for number, prefix in enumerate(prefixes):
                parameters |= _prefix_parameters(number, prefix, is_postgresql=is_postgresql)
            break
    else:
        stations, modalities = listed(query, Key.STATION_AE_TITLE, fold=True), listed(query, Key.MODALITY)
        if any(not values for values in (stations, modalities) if values is not None):
            return None
        if stations is not None:
            driver = "station"
            traits["stations"] = _list(parameters, "station", stations)
        elif modalities is not None:
            driver = "modality"
            traits["modalities"] = _list(parameters, "modality", modalities)
    return Plan(Shape(driver, query.keys, offered_only=statuses <= OFFERED_BY_DEFAULT, **traits), parameters)


def _list(parameters: dict[str, Any], name: str, values: Sequence[str]) -> int:
    """Name each value of a list as a parameter of its own; answer how many they are."""
    parameters |= {f"{name}{number}": value for number, value in enumerate(values)}
    return len(values)


IDENTIFYING = (
    ("study", Key.STUDY_INSTANCE_UID),
    ("accession", Key.ACCESSION_NUMBER),
    ("patient_id", Key.PATIENT_ID),
    ("name", Key.PATIENT_NAME),
)


def dates_of(query: WorklistQuery) -> DateRange | None:
    """Give the days a query wants."""
    criterion = query.criterion(Key.START_DATE)
    return criterion.dates if isinstance(criterion, StartCriterion) else None


def listed(query: WorklistQuery, key: Key, *, fold: bool = False) -> list[str] | None:
    """Give the exact values a key wants, or nothing when it wants more than those."""
    criterion = query.criterion(key)
    if not isinstance(criterion, TextCriterion) or criterion.patterns or criterion.empty_matches:
        return None
    if len(criterion.exact) > _MAX_LISTED:
        return None
    values = {value.upper() if fold else value for value in criterion.exact}
    return sorted(value for value in values if "\x00" not in value)


def identifying(query: WorklistQuery, key: Key) -> tuple[list[str], list[str]] | None:
    """Give the exact values and the prefixes that cover everything a key wants, if there are such."""
    criterion = query.criterion(key)
    if criterion is None or getattr(criterion, "empty_matches", False):
        return None
    if isinstance(criterion, NameCriterion):
        prefix = _name_prefix(criterion)
        return None if not prefix or "\x00" in prefix else ([], [prefix])
    if not isinstance(criterion, TextCriterion) or criterion.fold_case:
        return None
    if len(criterion.exact) > _MAX_LISTED or len(criterion.patterns) > _MAX_PATTERNS:
        return None
    prefixes = [_literal_prefix(pattern.pattern) for pattern in criterion.patterns]
    if not all(prefixes):
        return None
    # PostgreSQL cannot hold NUL, so no stored value has one.
    return (
        sorted(value for value in criterion.exact if "\x00" not in value),
        [prefix for prefix in prefixes if "\x00" not in prefix],
    )


def _literal_prefix(pattern: str) -> str:
    for place, character in enumerate(pattern):
        if character in "*?":
            return pattern[:place]
    return pattern


def _name_prefix(criterion: NameCriterion) -> str:
    """Give what a matching group of a name must begin with (see NameCriterion)."""
    wanted = next((group for group in criterion.groups if group.strip("*^ ")), "")
    if is_wildcard(wanted):
        return _literal_prefix(wanted)[:_NAME_PREFIX_CHARACTERS]
    head, gap, _ = wanted.partition("^^")
    return (head + ("^" if gap and head else ""))[:_NAME_PREFIX_CHARACTERS]


def _prefix_parameters(number: int, prefix: str, *, is_postgresql: bool) -> dict[str, str]:
    if is_postgresql:
        return {f"like{number}": escaped(prefix) + "%", f"inner{number}": "%=" + escaped(prefix) + "%"}
    return {
        f"low{number}": prefix,
        f"high{number}": after(prefix),
        f"inner{number}": "%=" + escaped(prefix) + "%",
    }


def escaped(text: str) -> str:
    """Write a text so that LIKE takes it literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def after(prefix: str) -> str:
    """Give the first text, by code point, behind all that begin with a prefix."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return "\U0010ffff" * (len(prefix) + _MAX_STORED_CHARACTERS)
    last = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)
