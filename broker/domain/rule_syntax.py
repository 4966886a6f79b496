"""Reads the `when` of a route: plain data in, a condition out, or every problem with the path to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from difflib import get_close_matches

from broker.domain.conditions import (
    AllOf,
    AnyOf,
    Between,
    Condition,
    Equals,
    Exists,
    Not,
    Scale,
    number_of,
    position_of,
)
from broker.domain.facts import CALLING_AE_TITLE, ORDER_FIELDS, ORDER_PREFIX
from broker.domain.matching import Wildcard, is_wildcard
from broker.domain.values import date_text
from broker.errors import ConfigurationError

KnownKeyword = Callable[[str], str | None]
"""DICOM keyword -> its value representation (PS3.6), None when there is no such attribute."""

MAX_CONDITION_DEPTH = 16
MAX_PATTERN_CHARACTERS = 256

_IGNORE_CASE = frozenset({"AE", "CS", "PN"})
_NUMBERS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})
_SCALES = {"DA": Scale.DATE, "DT": Scale.DATE, "TM": Scale.TIME, "AS": Scale.AGE}
_TEXTS = frozenset({"AE", "CS", "PN", "LO", "SH", "LT", "ST", "UT", "UC", "UR", "UI"})
_OPERATIONS = ("exists", "min", "max", "not")


class RouteSyntaxError(ConfigurationError):
    """The routes have problems."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        """Keep all of them: (path such as `routes.1.when.Modality`, what is wrong there)."""
        super().__init__("\n".join(f"{path}: {text}" for path, text in problems))
        self.problems = tuple(problems)


def suggestion(word: str, known: Collection[str]) -> str:
    """Guess what a misspelt word should have been."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class ConditionReader:
    """Reads conditions and collects what is wrong with them."""

    def __init__(self, known_keyword: KnownKeyword) -> None:
        """Take the data dictionary as a function, so that rules need no DICOM library."""
        self._known_keyword = known_keyword
        self.problems: list[tuple[str, str]] = []

    def problem(self, path: str, text: str) -> None:
        """Take note of a problem."""
        self.problems.append((path, text))

    def mapping(self, raw: object, path: str, *, depth: int = 0) -> AllOf:
        """Read a mapping whose entries must all hold."""
        if raw is None:
            raw = {}
        if not isinstance(raw, Mapping):
            self.problem(path, "must be a mapping of facts to what they should be")
            return AllOf(path, ())
        if depth > MAX_CONDITION_DEPTH:
            self.problem(path, f"is nested deeper than {MAX_CONDITION_DEPTH} levels")
            return AllOf(path, ())
        parts: list[Condition] = []
        for key, value in raw.items():
            here = f"{path}.{key}"
            part: Condition | None
            if key in ("any", "all"):
                part = self._list(str(key), value, here, depth=depth + 1)
            elif key == "not":
                part = self._negation(value, here, depth=depth + 1)
            else:
                part = self._clause(str(key), value, here)
            if part is not None:
                parts.append(part)
        return AllOf(path, tuple(parts))

    def _list(self, key: str, raw: object, path: str, *, depth: int) -> Condition | None:
        if not _is_list(raw) or not raw:
            self.problem(path, "must be a list of mappings, at least one")
            return None
        parts = tuple(
            self.mapping(item, f"{path}.{number}", depth=depth) for number, item in enumerate(_items(raw))
        )
        for part in parts:
            if not part.parts:
                self.problem(part.path, "is empty: it would always hold")
        return AnyOf(path, parts) if key == "any" else AllOf(path, parts)

    def _negation(self, raw: object, path: str, *, depth: int) -> Condition | None:
        part = self.mapping(raw, path, depth=depth)
        if not part.parts:
            self.problem(path, "must be a mapping with at least one entry")
            return None
        return Not(path, part if len(part.parts) > 1 else part.parts[0])

    # ---- one fact --------------------------------------------------------------------------------------

    def _clause(self, key: str, raw: object, path: str) -> Condition | None:
        vr = self._vr(key, path)
        if vr is None:
            return None
        if isinstance(raw, Mapping):
            return self._operations(key, raw, path, vr=vr)
        return self._equals(key, raw, path, vr=vr)

    def _vr(self, key: str, path: str) -> str | None:
        """Answer how a fact is compared; note a problem when there is no such fact."""
        if key == CALLING_AE_TITLE:
            return "AE"
        if key.startswith(ORDER_PREFIX):
            field = key.removeprefix(ORDER_PREFIX)
            vr = ORDER_FIELDS.get(field) or self._known_keyword(field)
            if vr is None:
                self.problem(path, f"{field!r} is not a field of an order{suggestion(field, ORDER_FIELDS)}")
                return None
            return "SH" if vr == "SQ" else vr  # a code sequence of an order is compared by code value
        steps = key.split(".")
        if len(steps) > 2:
            self.problem(path, "names more than one sequence level")
            return None
        if len(steps) == 2:
            outer = self._keyword(steps[0], path)
            if outer is None:
                return None
            if outer != "SQ":
                self.problem(path, f"{steps[0]} is not a sequence")
                return None
        vr = self._keyword(steps[-1], path)
        if vr == "SQ":
            self.problem(
                path, f"{steps[-1]} is a sequence: name an attribute of its items, as in {key}.CodeValue"
            )
            return None
        if vr is not None and vr not in _TEXTS and vr not in _NUMBERS and vr not in _SCALES:
            self.problem(path, f"{steps[-1]} has no value a rule can compare ({vr})")
            return None
        return vr

    def _keyword(self, keyword: str, path: str) -> str | None:
        vr = self._known_keyword(keyword)
        if vr is not None:
            return vr.partition(" or ")[0]  # PS3.6 leaves a few to the pixel representation: US or SS
        capitalised = keyword[:1].upper() + keyword[1:]
        if capitalised != keyword and self._known_keyword(capitalised):
            hint = f"; did you mean {capitalised!r}?"
        elif keyword in ORDER_FIELDS:
            hint = f"; did you mean '{ORDER_PREFIX}{keyword}'?"
        else:
            hint = suggestion(keyword, ("any", "all", "not", CALLING_AE_TITLE))
        self.problem(path, f"{keyword!r} is not a DICOM keyword{hint}")
        return None

    def _operations(self, key: str, raw: Mapping[object, object], path: str, *, vr: str) -> Condition | None:
        parts: list[Condition] = []
        before = len(self.problems)
        for operation, value in raw.items():
            here = f"{path}.{operation}"
            if operation == "exists":
                if isinstance(value, bool):
                    parts.append(Exists(path, key, value))
                else:
                    self.problem(here, "must be true or false")
            elif operation == "not":
                part = self._equals(key, value, here, vr=vr)
                if part is not None:
                    parts.append(Not(path, part))
            elif operation == "missing":
                self.problem(here, "is written `exists: false`")
            elif operation not in ("min", "max"):
                known = suggestion(str(operation), _OPERATIONS)
                self.problem(here, f"is not an operator; known are {', '.join(_OPERATIONS)}{known}")
        if "min" in raw or "max" in raw:
            part = self._range(key, raw, path, vr=vr)
            if part is not None:
                parts.append(part)
        if not parts:
            if len(self.problems) == before:
                self.problem(path, f"is empty; known operators are {', '.join(_OPERATIONS)}")
            return None
        return parts[0] if len(parts) == 1 else AllOf(path, tuple(parts))

    def _range(self, key: str, raw: Mapping[object, object], path: str, *, vr: str) -> Condition | None:
        scale = Scale.NUMBER if vr in _NUMBERS else _SCALES.get(vr)
        if scale is None:
            self.problem(path, f"{key} is text ({vr}): a range needs a number, a date, a time or an age")
            return None
        bounds: dict[str, float] = {}
        words: list[str] = []
        for end, word in (("min", "at least"), ("max", "at most")):
            if end not in raw:
                continue
            place, text = _bound(raw[end], scale)
            if place is None:
                self.problem(f"{path}.{end}", f"must be {_EXAMPLES[scale]}")
                return None
            bounds[end] = place
            words.append(f"{word} {text}")
        low, high = bounds.get("min"), bounds.get("max")
        if low is not None and high is not None and low > high:
            self.problem(path, "has a min above its max: it could never hold")
            return None
        return Between(path, key, scale, low, high, "is " + " and ".join(words))

    def _equals(self, key: str, raw: object, path: str, *, vr: str) -> Condition | None:
        wanted = _items(raw) if _is_list(raw) else [raw]
        if not wanted:
            self.problem(path, "is an empty list: it could never hold")
            return None
        texts: set[str] = set()
        patterns: list[Wildcard] = []
        numbers: set[float] = set()
        asked: list[str] = []
        for number, item in enumerate(wanted):
            here = f"{path}.{number}" if _is_list(raw) else path
            text = self._scalar(item, here, vr=vr)
            if text is None:
                continue
            asked.append(text)
            text = text.upper() if vr in _IGNORE_CASE else text
            if is_wildcard(text):
                patterns.append(Wildcard(text))
            elif vr in _NUMBERS:
                value = number_of(text)
                if value is None:
                    self.problem(here, f"{text!r} is not a number")
                else:
                    numbers.add(value)
            else:
                texts.add(text)
        if not (texts or patterns or numbers):
            return None
        return Equals(
            path,
            key,
            frozenset(texts),
            tuple(patterns),
            frozenset(numbers),
            ignore_case=vr in _IGNORE_CASE,
            asked=tuple(asked),
        )

    def _scalar(self, raw: object, path: str, *, vr: str) -> str | None:
        """Read one wanted value as text, or note why it cannot be one."""
        if raw is None:
            self.problem(path, "has no value; to ask whether it is missing write { exists: false }")
        elif isinstance(raw, bool):
            self.problem(path, "is true or false; write the text in quotes, or { exists: true }")
        elif isinstance(raw, date) and vr in ("DA", "DT"):
            return date_text(raw)
        elif isinstance(raw, (int, float)):
            if vr in _NUMBERS or (vr == "DA" and isinstance(raw, int)):
                return str(raw)
            # 0042 would have become 42 on the way here, and silently never match.
            self.problem(path, f"is text ({vr}), not a number: write it in quotes")
        elif not isinstance(raw, str):
            self.problem(path, "must be a text, a list of texts, or a mapping of operators")
        elif not raw.strip():
            self.problem(path, "is empty; to ask whether it is missing write { exists: false }")
        elif "\\" in raw:
            self.problem(path, "has a backslash: values are compared one by one, write one of them")
        elif len(raw) > MAX_PATTERN_CHARACTERS:
            self.problem(path, f"is longer than {MAX_PATTERN_CHARACTERS} characters")
        else:
            return raw.strip()
        return None


_EXAMPLES = {
    Scale.NUMBER: "a number such as 2.5",
    Scale.DATE: 'a date such as "20261121"',
    Scale.TIME: 'a time in quotes such as "0730"',
    Scale.AGE: 'an age such as "018Y" or "6M"',
}


def _bound(raw: object, scale: Scale) -> tuple[float | None, str]:
    if isinstance(raw, bool):
        return None, ""
    if isinstance(raw, date):
        text = date_text(raw)
    elif isinstance(raw, (int, float)) and scale is not Scale.TIME:
        text = str(raw)
    elif isinstance(raw, str):
        text = raw.strip()
    else:
        return None, ""
    return position_of(text, scale), text


def _is_list(raw: object) -> bool:
    return isinstance(raw, Sequence) and not isinstance(raw, (str, bytes))


def _items(raw: object) -> list[object]:
    return list(raw) if isinstance(raw, Sequence) else []
