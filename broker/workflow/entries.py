"""One order as scanners see it: each value with its source, and whether a device would be shown it, and why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.domain.attributes import shown
from broker.domain.devices import DeviceProfile
from broker.domain.matching import Criterion, Key, StartCriterion, TextCriterion, WorklistQuery
from broker.domain.orders import AttributeValue, EntityIdentifier, WorklistEntry
from broker.domain.values import DateRange, date_text
from broker.workflow.worklist import Worklist

Devices = Callable[[str], DeviceProfile]


@dataclass(frozen=True, slots=True)
class EntryValue:
    """One attribute of a worklist entry."""

    level: str
    """patient, order, procedure, or step and its id."""
    keyword: str
    value: str
    source: str
    """The place in the message it was read from, or how else it came; empty: not recorded."""


@dataclass(frozen=True, slots=True)
class InstanceLine:
    """One received object."""

    instance_id: int
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    path: str
    """In the store."""


@dataclass(frozen=True, slots=True)
class LastQuery:
    """The newest recorded query of a device."""

    at: datetime
    keys: tuple[str, ...]
    """Keywords of the keys that had a value."""
    answers: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a device puts into its query."""

    own_station: bool = True
    own_modality: bool = True
    today: bool = True


@dataclass(frozen=True, slots=True)
class Clause:
    """One reason for or against showing a step."""

    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class Sight:
    """Whether a device would be shown one step."""

    step: int
    sps_id: str
    seen: bool
    clauses: tuple[Clause, ...]


class EntryReports(Protocol):
    """Reads one order with everything a scanner is told of it."""

    def order_entries(self, order_id: int) -> Sequence[tuple[WorklistEntry, datetime]]:
        """Answer the entries of an order, at most 100, and since when each is in its status."""
        ...

    def instance(self, instance_id: int) -> InstanceLine:
        """Answer one received object. Raises NotFound."""
        ...

    def last_query(self, ae_title: str) -> LastQuery | None:
        """Answer the newest query of a device among the recent ones of all."""
        ...


def values_of(entries: Sequence[WorklistEntry]) -> list[EntryValue]:
    """List the attributes of an order, each once, with their sources."""
    return list(dict.fromkeys(value for entry in entries for value in _of_entry(entry)))


def _of_entry(entry: WorklistEntry) -> Iterator[EntryValue]:
    patient, order, procedure, step = entry.patient, entry.order, entry.procedure, entry.step
    yield from _level(
        "patient",
        {
            "PatientName": patient.name,
            "PatientID": patient.patient_id,
            "IssuerOfPatientID": patient.issuer,
            "PatientBirthDate": patient.birth_date,
            "PatientSex": patient.sex,
        },
        patient.attributes,
        patient.sources,
    )
    yield from _level(
        "order",
        {
            "AccessionNumber": order.accession_number,
            "PlacerOrderNumber": _number(order.placer_order_number),
            "FillerOrderNumber": _number(order.filler_order_number),
        },
        order.attributes,
        order.sources,
    )
    yield from _level(
        "procedure",
        {
            "StudyInstanceUID": procedure.study_instance_uid,
            "RequestedProcedureID": procedure.requested_procedure_id,
        },
        procedure.attributes,
        procedure.sources,
    )
    yield from _level(
        f"step {step.scheduled_procedure_step_id}",
        {
            "ScheduledProcedureStepID": step.scheduled_procedure_step_id,
            "Modality": step.modality,
            "ScheduledStationAETitle": step.station_ae_titles,
            "ScheduledProcedureStepStartDate": step.start_date,
            "ScheduledProcedureStepStartTime": step.start_time,
        },
        step.attributes,
        step.sources,
    )


def _level(
    level: str,
    own: Mapping[str, AttributeValue | None],
    attributes: Mapping[str, AttributeValue],
    sources: Mapping[str, str],
) -> Iterator[EntryValue]:
    for keyword, value in {**own, **{key: attributes[key] for key in sorted(attributes)}}.items():
        if value:
            yield EntryValue(level, keyword, shown(value), sources.get(keyword, ""))


def _number(identifier: EntityIdentifier | None) -> str | None:
    return None if identifier is None else identifier.value


# ---- would a device see it -----------------------------------------------------------------------------


def asked_like(last: LastQuery | None) -> Asked:
    """Answer what a device asks for, as it last did; what most scanners ask when it never has."""
    if last is None:
        return Asked()
    keys = set(last.keys)
    return Asked(
        own_station=Key.STATION_AE_TITLE.value in keys,
        own_modality=Key.MODALITY.value in keys,
        today=Key.START_DATE.value in keys,
    )


def query_of(asked: Asked, device: DeviceProfile, *, now: datetime) -> WorklistQuery:
    """Write the query a device would send at this local time."""
    criteria: list[Criterion | None] = []
    if asked.own_station:
        criteria.append(TextCriterion.parse(Key.STATION_AE_TITLE, device.ae_title, policy=device.matching))
    if asked.own_modality and device.modalities:
        criteria.append(
            TextCriterion.parse(Key.MODALITY, "\\".join(device.modalities), policy=device.matching)
        )
    if asked.today:
        today = now.date()
        criteria.append(StartCriterion(DateRange(today, today), None, date_text(today)))
    return WorklistQuery(tuple(criterion for criterion in criteria if criterion is not None))


def sights(
    entries: Sequence[tuple[WorklistEntry, datetime]],
    query: WorklistQuery,
    device: DeviceProfile,
    worklist: Worklist,
) -> list[Sight]:
    """Say for every step of an order whether a query of a device would find it, clause by clause."""
    found = []
    for entry, status_since in entries:
        miss = worklist.judge(query, device, entry, status_since)
        against = [Clause(False, reason) for _, reason in miss.reasons]
        held = [Clause(True, f"{v.key.value} is {v.asked}") for v in miss.verdicts if v.holds]
        found.append(
            Sight(
                entry.step.id,
                entry.step.scheduled_procedure_step_id,
                seen=not against,
                clauses=(*against, *held),
            )
        )
    return found
