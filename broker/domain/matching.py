"""Decides whether a worklist entry matches a C-FIND, and says why not (PS3.4 C.2.2.2 and K.2.2).

A query is a tuple of criteria, one per matching key; an entry matches when every criterion holds. This file is
the authority: the database may only narrow, never decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final

from broker.domain.orders import AttributeValue, Code, EntityIdentifier, WorklistEntry
from broker.domain.steps import StepStatus
from broker.domain.values import DateRange, TimeRange, fold_name, parse_date, parse_time


class Key(Enum):
    """The attributes a worklist query can match on, by DICOM keyword (PS3.4 table K.6-1)."""

    STATION_AE_TITLE = "ScheduledStationAETitle"
    START_DATE = "ScheduledProcedureStepStartDate"
    START_TIME = "ScheduledProcedureStepStartTime"
    MODALITY = "Modality"
    PERFORMING_PHYSICIAN = "ScheduledPerformingPhysicianName"
    SPS_ID = "ScheduledProcedureStepID"
    SPS_STATUS = "ScheduledProcedureStepStatus"
    SPS_DESCRIPTION = "ScheduledProcedureStepDescription"
    STATION_NAME = "ScheduledStationName"
    SPS_LOCATION = "ScheduledProcedureStepLocation"
    PROTOCOL_CODE = "ScheduledProtocolCodeSequence"
    PATIENT_NAME = "PatientName"
    PATIENT_ID = "PatientID"
    ISSUER_OF_PATIENT_ID = "IssuerOfPatientID"
    BIRTH_DATE = "PatientBirthDate"
    SEX = "PatientSex"
    ACCESSION_NUMBER = "AccessionNumber"
    RP_ID = "RequestedProcedureID"
    RP_DESCRIPTION = "RequestedProcedureDescription"
    RP_PRIORITY = "RequestedProcedurePriority"
    RP_CODE = "RequestedProcedureCodeSequence"
    STUDY_INSTANCE_UID = "StudyInstanceUID"
    ADMISSION_ID = "AdmissionID"
    REQUESTING_PHYSICIAN = "RequestingPhysician"
    REFERRING_PHYSICIAN = "ReferringPhysicianName"
    PLACER_ORDER_NUMBER = "PlacerOrderNumberImagingServiceRequest"
    FILLER_ORDER_NUMBER = "FillerOrderNumberImagingServiceRequest"
    WORKLIST_LABEL = "WorklistLabel"

    # Members are singletons; Enum's own hash is computed in Python, and views are asked thousands of times.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class MatchingPolicy:
    """What the standard leaves open in matching, decided per device."""

    prefix_names: bool = True
    """A name key with fewer components than the name matches it: DOE finds DOE^JOHN."""
    ignore_ae_title_case: bool = True
    wrap_time: bool = False
    """Read a time range that runs backwards, 2200-0200, as one over midnight; PS3.4 C.2.2.2.5 says nothing."""
    empty_matches: frozenset[Key] = frozenset()
    """Keys for which an entry without a value is not hidden, against PS3.4 K.2.2.1.1.1."""


DEFAULT_POLICY = MatchingPolicy()


@dataclass(frozen=True, slots=True)
class StepView:
    """Shows an entry to the criteria: text values in DICOM form, and the items of its code sequences.

    Values are as stored: without the padding PS3.5 6.2 allows around them, code strings in upper case.
    """

    values: Mapping[Key, tuple[str, ...]]
    codes: Mapping[Key, tuple[Code, ...]] = field(default_factory=dict)
    time_unspecified: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Says whether one key of a query holds for one entry."""

    key: Key
    holds: bool
    asked: str
    found: tuple[str, ...]
    reason: str


_PADDING = " \x00\t\r\n"


# --- wildcards -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A pattern of literal characters, `?` for any one and `*` for any run (PS3.4 C.2.2.2.4).

    Matching goes left to right once, each piece between stars at its first possible place: a hostile pattern
    costs at most length times length, never more.
    """

    pattern: str

    def matches(self, value: str) -> bool:
        """Tell whether the whole value fits the pattern."""
        pattern = self.pattern
        position, index, star, resume = 0, 0, -1, 0
        length, pattern_length = len(value), len(pattern)
        while position < length:
            wanted = pattern[index] if index < pattern_length else ""
            if wanted == "*":
                star, resume = index, position
                index += 1
            elif wanted and wanted in ("?", value[position]):
                index += 1
                position += 1
            elif star >= 0:
                # Only the last star can need a longer run: what lies before it already fits.
                resume += 1
                index, position = star + 1, resume
            else:
                return False
        return not pattern[index:].strip("*")


def is_wildcard(text: str) -> bool:
    """Tell whether a text holds a wildcard character."""
    return "*" in text or "?" in text


def is_universal(text: str) -> bool:
    """Tell whether a key value leaves no entry out: empty, blank, or nothing but stars (PS3.4 C.2.2.2.3)."""
    return not text.strip(_PADDING + "*")


# --- criteria --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextCriterion:
    """Wants one of several texts or patterns; any value of the entry may fit (PS3.4 C.2.2.2.1, .2, .4)."""

    key: Key
    exact: frozenset[str]
    patterns: tuple[Wildcard, ...]
    asked: str
    fold_case: bool = False
    empty_matches: bool = False

    @classmethod
    def parse(
        cls,
        key: Key,
        text: str,
        *,
        policy: MatchingPolicy = DEFAULT_POLICY,
        wildcards: bool = True,
        comma_lists: bool = False,
    ) -> TextCriterion | None:
        """Read a key value, a list being separated by backslashes; nothing when it is universal."""
        fold = key is Key.STATION_AE_TITLE and policy.ignore_ae_title_case
        if comma_lists:
            text = text.replace(",", "\\")
        exact: set[str] = set()
        patterns: list[Wildcard] = []
        for part in text.split("\\"):
            value = part.strip(_PADDING)
            if wildcards and is_universal(value):
                if "*" in value or text.strip(_PADDING + "\\") == "":
                    return None
                continue  # an empty alternative in `CR\\DX` is a typing slip, not a wish for everything
            if not value:
                continue
            if fold or key in _UPPER:
                value = value.upper()
            if wildcards and is_wildcard(value):
                patterns.append(Wildcard(value))
            else:
                exact.add(value)
        if not exact and not patterns:
            return None
        return cls(
            key,
            frozenset(exact),
            tuple(patterns),
            text.strip(_PADDING),
            fold_case=fold,
            empty_matches=key in policy.empty_matches,
        )

    def holds(self, view: StepView) -> bool:
        """Tell whether any value of the entry is wanted."""
        values = view.values.get(self.key, ())
        for value in values:
            text = value.upper() if self.fold_case else value
            if text in self.exact:
                return True
            for pattern in self.patterns:
                if text and pattern.matches(text):
                    return True
        return self.empty_matches and not any(values)


@dataclass(frozen=True, slots=True)
class NameCriterion:
    """Wants a person: case and accents do not count (PS3.4 C.2.2.2.1, PS3.5 6.2.1)."""

    key: Key
    groups: tuple[str, ...]
    """Folded groups of the key; a key without `=` has one and fits any group of the name."""
    asked: str
    prefix: bool = True
    empty_matches: bool = False

    @classmethod
    def parse(cls, key: Key, text: str, *, policy: MatchingPolicy = DEFAULT_POLICY) -> NameCriterion | None:
        """Read a name key; nothing when it is universal. `DOE, JOHN` is how people write DOE^JOHN."""
        text = text.strip(_PADDING)
        if is_universal(text.replace("^", "").replace("=", "")):
            return None
        if "^" not in text and "," in text:
            text = "^".join(part.strip() for part in text.split(","))
        groups = tuple(fold_name(group) for group in text.split("="))
        return cls(key, groups, text, prefix=policy.prefix_names, empty_matches=key in policy.empty_matches)

    def holds(self, view: StepView) -> bool:
        """Tell whether any name of the entry is wanted."""
        names = view.values.get(self.key, ())
        for name in names:
            folded = [fold_name(group) for group in name.split("=")]
            if len(self.groups) == 1:
                if any(group and self._group_holds(self.groups[0], group) for group in folded):
                    return True
            elif all(
                is_universal(wanted)
                or (place < len(folded) and folded[place] and self._group_holds(wanted, folded[place]))
                for place, wanted in enumerate(self.groups)
            ):
                return True
        return self.empty_matches and not any(fold_name(name) for name in names)

    def _group_holds(self, wanted: str, found: str) -> bool:
        if is_wildcard(wanted):
            if Wildcard(wanted).matches(found):
                return True
            return (
                self.prefix
                and wanted.count("^") < found.count("^")
                and Wildcard(wanted + "^*").matches(found)
            )
        if wanted == found:
            return True
        if not self.prefix:
            return False
        # DOE fits DOE^JOHN, and so does ^JOHN: a component that is not given asks for nothing.
        wanted_parts, found_parts = wanted.split("^"), found.split("^")
        return len(wanted_parts) <= len(found_parts) and all(
            not part or part == found_parts[place] for place, part in enumerate(wanted_parts)
        )


@dataclass(frozen=True, slots=True)
class DateCriterion:
    """Wants a date in a range (PS3.4 C.2.2.2.5.1)."""

    key: Key
    dates: DateRange
    asked: str

    @classmethod
    def parse(cls, key: Key, text: str) -> DateCriterion | None:
        """Read a date key; nothing when it is universal. Raises ValueError when it is no date."""
        dates = parse_date_key(text)
        return None if dates is None else cls(key, dates, text.strip(_PADDING))

    def holds(self, view: StepView) -> bool:
        """Tell whether any date of the entry is wanted."""
        for value in view.values.get(self.key, ()):
            day = parse_date(value)
            if day is not None and self.dates.contains(day):
                return True
        return False


@dataclass(frozen=True, slots=True)
class StartCriterion:
    """Wants a step that starts in a span of dates, times of day, or both (PS3.4 C.2.2.2.5.3, K.2.2.1.1).

    In the worklist service two ranges of the same form are always one span: from the first date and time to
    the last date and time. Other combinations are tested one by one.
    """

    dates: DateRange | None
    times: TimeRange | None
    asked_date: str = ""
    asked_time: str = ""
    wrap_time: bool = False

    @property
    def is_combined(self) -> bool:
        """Tell whether date and time are one span."""
        dates, times = self.dates, self.times
        if dates is None or times is None or dates.is_single or times.is_single:
            return False
        return (dates.first is None) == (times.first is None) and (dates.last is None) == (times.last is None)

    def holds(self, view: StepView) -> bool:
        """Tell whether the entry starts when it is wanted."""
        return self.date_holds(view) and (self.times is None or self.time_holds(view))

    def date_holds(self, view: StepView) -> bool:
        """Tell whether the day is wanted; of a combined span, whether it touches the day."""
        if self.dates is None:
            return True
        day = _first(view, Key.START_DATE)
        when = parse_date(day) if day else None
        return when is not None and self.dates.contains(when)

    def time_holds(self, view: StepView) -> bool:
        """Tell whether the time is wanted; an entry without a time of day is wanted all day.

        An order that came without a time must not vanish from a query for the next two hours.
        """
        if self.times is None or view.time_unspecified:
            return True
        text = _first(view, Key.START_TIME)
        span = parse_time(text) if text else None
        if span is None or span.first is None:
            return False
        moment, times = span.first, self.times
        if self.dates is None or not self.is_combined:
            if self.wrap_time and times.is_empty:
                return not (times.last is not None and times.first is not None) or (
                    moment >= times.first or moment <= times.last
                )
            return times.contains(moment)
        day = parse_date(_first(view, Key.START_DATE))
        if day is None:
            return False
        start = datetime.combine(day, moment)
        dates = self.dates
        too_early = (
            dates.first is not None
            and times.first is not None
            and start < datetime.combine(dates.first, times.first)
        )
        too_late = (
            dates.last is not None
            and times.last is not None
            and start > datetime.combine(dates.last, times.last)
        )
        return not (too_early or too_late)


@dataclass(frozen=True, slots=True)
class CodeCriterion:
    """Wants a code item all of whose given parts agree (PS3.4 C.2.2.2.6)."""

    key: Key
    value: TextCriterion | None
    scheme: TextCriterion | None
    meaning: TextCriterion | None
    asked: str

    @classmethod
    def parse(
        cls,
        key: Key,
        *,
        value: str = "",
        scheme: str = "",
        meaning: str = "",
    ) -> CodeCriterion | None:
        """Read the one item of a code sequence key; nothing when it is universal."""
        parts = [TextCriterion.parse(key, text) for text in (value, scheme, meaning)]
        if not any(parts):
            return None
        asked = " ".join(text for text in (value, scheme, meaning) if text)
        return cls(key, parts[0], parts[1], parts[2], asked)

    def holds(self, view: StepView) -> bool:
        """Tell whether one item of the entry's sequence has all wanted parts."""
        return any(
            self._part_holds(self.value, code.value)
            and self._part_holds(self.scheme, code.scheme)
            and self._part_holds(self.meaning, code.meaning)
            for code in view.codes.get(self.key, ())
        )

    def _part_holds(self, part: TextCriterion | None, found: str) -> bool:
        return part is None or part.holds(StepView({self.key: (found,)}))


Criterion = TextCriterion | NameCriterion | DateCriterion | StartCriterion | CodeCriterion


@dataclass(frozen=True, slots=True, weakref_slot=True)
class WorklistQuery:
    """What one C-FIND wants: every criterion must hold. No criteria: everything that is visible."""

    criteria: tuple[Criterion, ...] = ()
    statuses: frozenset[StepStatus] | None = None
    """The statuses (0040,0020) names; None when the query leaves that to the broker."""
    ignored: tuple[str, ...] = ()
    """Keys that had a value but could not be used for matching, with the reason, for the record."""

    def criterion(self, key: Key) -> Criterion | None:
        """Give the criterion on a key, if there is one."""
        for criterion in self.criteria:
            if isinstance(criterion, StartCriterion):
                if key is Key.START_DATE and criterion.dates is not None:
                    return criterion
                if key is Key.START_TIME and criterion.times is not None:
                    return criterion
            elif criterion.key is key:
                return criterion
        return None

    @property
    def keys(self) -> frozenset[Key]:
        """Name the attributes of an entry that must be seen to decide."""
        keys: set[Key] = set()
        for criterion in self.criteria:
            if isinstance(criterion, StartCriterion):
                keys |= {Key.START_DATE} if criterion.dates is not None else set()
                keys |= {Key.START_TIME} if criterion.times is not None else set()
            else:
                keys.add(criterion.key)
        return frozenset(keys)


def matches(query: WorklistQuery, view: StepView) -> bool:
    """Tell whether an entry matches a query; visibility by status is decided elsewhere."""
    for criterion in query.criteria:  # noqa: SIM110 - a generator would cost as much as the criteria
        if not criterion.holds(view):
            return False
    return True


def explain(query: WorklistQuery, view: StepView) -> tuple[Verdict, ...]:
    """Say for every key of a query whether it holds for an entry, and why not."""
    verdicts: list[Verdict] = []
    for criterion in query.criteria:
        if isinstance(criterion, StartCriterion):
            if criterion.dates is not None:
                verdicts.append(
                    _verdict(Key.START_DATE, criterion.asked_date, view, holds=criterion.date_holds(view))
                )
            if criterion.times is not None:
                verdicts.append(
                    _verdict(Key.START_TIME, criterion.asked_time, view, holds=criterion.time_holds(view))
                )
        else:
            verdicts.append(_verdict(criterion.key, criterion.asked, view, holds=criterion.holds(view)))
    return tuple(verdicts)


def _verdict(key: Key, asked: str, view: StepView, *, holds: bool) -> Verdict:
    found = view.values.get(key, ()) or tuple(
        f"{code.value} {code.scheme}" for code in view.codes.get(key, ())
    )
    found = tuple(value for value in found if value)
    if holds:
        reason = "matches"
        if key is Key.START_TIME and view.time_unspecified:
            reason = "matches: no time of day was ordered"
    elif not found:
        # PS3.4 K.2.2.1.1.1: an unknown value fails, other than in query/retrieve (C.2.2.1.2).
        reason = f"{key.value} is empty, and an empty value does not match"
    else:
        reason = f"{key.value} is {', '.join(found)}, asked for {asked}"
    return Verdict(key, holds, asked, found, reason)


def _first(view: StepView, key: Key) -> str:
    values = view.values.get(key, ())
    return values[0] if values else ""


_UPPER = frozenset({Key.MODALITY, Key.SEX, Key.SPS_STATUS, Key.RP_PRIORITY})
"""Code strings of the standard: a query in lower case means the same."""

NAME_KEYS = frozenset(
    {Key.PATIENT_NAME, Key.PERFORMING_PHYSICIAN, Key.REQUESTING_PHYSICIAN, Key.REFERRING_PHYSICIAN}
)
CODE_KEYS = frozenset({Key.PROTOCOL_CODE, Key.RP_CODE})
DATE_KEYS = frozenset({Key.START_DATE, Key.BIRTH_DATE})


def parse_date_key(text: str) -> DateRange | None:
    """Read a date key; nothing when it is universal. Raises ValueError when it is no date."""
    text = text.strip(_PADDING)
    if not text.strip("*?- "):
        return None
    dates = DateRange.parse(text)
    if dates is None:
        raise ValueError("not a date or a range of dates")
    return None if dates.is_universal else dates


def parse_time_key(text: str) -> TimeRange | None:
    """Read a time key; nothing when it is universal. Raises ValueError when it is no time."""
    text = text.strip(_PADDING)
    if not text.strip("*?- "):
        return None
    times = TimeRange.parse(text)
    if times is None:
        raise ValueError("not a time or a range of times")
    return None if times.is_universal and not times.is_single else times


# --- seeing an entry -------------------------------------------------------------------------------------


def view_of(entry: WorklistEntry) -> StepView:
    """Show a whole entry to the criteria."""
    values: dict[Key, tuple[str, ...]] = {}
    codes: dict[Key, tuple[Code, ...]] = {}
    for key in Key:
        value = attribute_of(entry, key.value)
        if isinstance(value, str):
            values[key] = (value,)
        else:
            texts = tuple(item for item in value if isinstance(item, str))
            items = tuple(item for item in value if isinstance(item, Code))
            if items:
                codes[key] = items
            else:
                values[key] = texts
    return StepView(values, codes, entry.step.time_unspecified)


def attribute_of(entry: WorklistEntry, keyword: str) -> str | tuple[str, ...] | tuple[Code, ...]:
    """Give the value of an attribute of an entry by its keyword; empty when it is not known."""
    read = _FIELDS.get(keyword)
    if read is not None:
        return read(entry) or ""
    for part in (entry.step, entry.procedure, entry.order, entry.patient):
        value = part.attributes.get(keyword)
        if value:
            return value
    return ""


def attributes_of(entry: WorklistEntry) -> dict[str, AttributeValue]:
    """Give every attribute of an entry that has a value, as `attribute_of` gives each."""
    found = {
        **entry.patient.attributes,
        **{keyword: value for keyword, value in entry.order.attributes.items() if value},
        **{keyword: value for keyword, value in entry.procedure.attributes.items() if value},
        **{keyword: value for keyword, value in entry.step.attributes.items() if value},
    }
    for keyword, read in _FIELDS.items():
        found[keyword] = read(entry) or ""
    return {keyword: value for keyword, value in found.items() if value}


_FIELDS: Final[Mapping[str, Callable[[WorklistEntry], str | tuple[str, ...] | None]]] = {
    "PatientName": lambda entry: entry.patient.name,
    "PatientID": lambda entry: entry.patient.patient_id,
    "IssuerOfPatientID": lambda entry: entry.patient.issuer,
    "PatientBirthDate": lambda entry: entry.patient.birth_date,
    "PatientSex": lambda entry: entry.patient.sex,
    "AccessionNumber": lambda entry: entry.order.accession_number,
    "PlacerOrderNumberImagingServiceRequest": lambda entry: _number(entry.order.placer_order_number),
    "FillerOrderNumberImagingServiceRequest": lambda entry: _number(entry.order.filler_order_number),
    "RequestedProcedureID": lambda entry: entry.procedure.requested_procedure_id,
    "StudyInstanceUID": lambda entry: entry.procedure.study_instance_uid,
    "ScheduledProcedureStepID": lambda entry: entry.step.scheduled_procedure_step_id,
    "Modality": lambda entry: entry.step.modality,
    "ScheduledStationAETitle": lambda entry: entry.step.station_ae_titles,
    "ScheduledProcedureStepStartDate": lambda entry: entry.step.start_date,
    "ScheduledProcedureStepStartTime": lambda entry: entry.step.start_time,
    "ScheduledProcedureStepStatus": lambda entry: entry.step.status.value,
}
"""Attributes that are fields of their own; nothing in `attributes` stands in for them."""


def _number(identifier: EntityIdentifier | None) -> str | None:
    return None if identifier is None else identifier.value
