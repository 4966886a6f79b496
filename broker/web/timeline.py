"""Says in plain words what happened: one sentence per event, the wire facts small beside it, noise left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote

from broker.domain.events import EventName, Subject
from broker.workflow.reports_port import TimelineEntry

Say = Callable[[datetime], str]
GAP = timedelta(minutes=10)
MAX_RAW_CHARACTERS = 8000
_N = EventName
_MEANING = {
    _N.DELIVERY_DIED: "failing", _N.MESSAGE_REFUSED: "failing", _N.DEVICE_REFUSED: "failing",
    _N.DESTINATION_FAILING: "failing", _N.DESTINATION_PAUSED: "attention",
    _N.DELIVERY_RETRY: "attention", _N.DELIVERY_LEASE_EXPIRED: "attention", _N.UNROUTED: "attention",
    _N.MESSAGE_PARKED: "attention", _N.CONTROL_ID_REUSED: "attention", _N.ORDER_INCOMPLETE: "attention",
    _N.IDENTITY_CONFLICT: "attention", _N.MPPS_PATIENT_MISMATCH: "attention", _N.MPPS_UNMATCHED: "attention",
    _N.PATIENT_OVERLAY_SUSPECTED: "attention", _N.INSTANCE_VERSION_RECEIVED: "attention",
    _N.DELIVERY_DELIVERED: "ok",
}  # fmt: skip
_LINKS = {Subject.DELIVERY.value: "deliveries", Subject.MESSAGE.value: "messages"}
_NOISE = {
    "destination", "route", "routes", "destinations", "state", "event", "worker", "message", "configuration",
    "association", "items", "delivered", "rejected", "attempt", "due_at", "instances", "until", "conflicts",
    "last_received_at", "answers", "before", "after", "from", "missing", "outcome", "message_type", "actor",
    "not_sent_back_to", "again", "steps", "previews", "study", "times", "to", "instead", "priority",
}  # fmt: skip
_WIRE = {
    _N.MPPS_CREATED: (("N-CREATE", "IN PROGRESS"),),
    _N.MPPS_UPDATED: (("N-SET", ""),),
    _N.MPPS_FINISHED: (("N-SET", ""),),
}
"""What the words stand for on the wire."""
_LABELS = {
    "message_control_id": "MSH-10",
    "order_control": "ORC-1",
    "series_instance_uid": "series",
    "scheduled_procedure_step_id": "step",
    "station_ae_titles": "stations",
    "start_date": "on",
    "start_time": "at",
    "failure_class": "kind of failure",
    "performed_step": "performed step",
    "sop_instance_uid": "SOP instance",
    "duration_ms": "ms",
    "duration_s": "seconds",
    "wire": "answers",
    "operation": "bulk operation",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a timeline."""

    at: datetime
    sentence: str
    facts: tuple[tuple[str, str], ...]
    meaning: str
    who: str
    link: str
    label: str
    silence: timedelta | None = None
    """How long nothing had happened before, when that was long."""
    why: str = ""
    """Page that says why this was decided so."""
    previews: tuple[int, ...] = ()
    """Instances to show small."""
    raw: str = ""
    """The entry as it is kept."""


def tell(entries: Sequence[TimelineEntry], *, clock: Say) -> list[Told]:
    """Tell a timeline: what is said by the next line is left out, tries that failed alike are one line."""
    lines: list[Told] = []
    for entry, tries, first in _condensed(entries):
        line = _told(entry, clock, tries=tries, first=first)
        if lines and line.at - lines[-1].at >= GAP:
            line = replace(line, silence=line.at - lines[-1].at)
        lines.append(line)
    return lines


def _condensed(entries: Sequence[TimelineEntry]) -> list[tuple[TimelineEntry, int, datetime]]:
    """Answer the entries worth a line, each with how many tries it stands for and when the first was."""
    kept: list[tuple[TimelineEntry, int, datetime] | None] = []
    open_claim: dict[int, int] = {}
    last_try: dict[int, int] = {}
    for entry in entries:
        key = entry.subject_id
        tries, first = 1, entry.at
        if entry.subject == Subject.DELIVERY.value and key is not None:
            claim = open_claim.pop(key, None)
            if claim is not None:
                kept[claim] = None  # what came of it is told next
            if entry.what == _N.DELIVERY_CLAIMED.value:
                open_claim[key] = len(kept)
            elif entry.what == _N.DELIVERY_RETRY.value:
                before = kept[last_try[key]] if key in last_try else None
                if before is not None and before[0].details.get("reason") == entry.details.get("reason"):
                    tries, first = before[1] + 1, before[2]
                    kept[last_try[key]] = None
                last_try[key] = len(kept)
            else:
                last_try.pop(key, None)
        kept.append((entry, tries, first))
    return [line for line in kept if line is not None]


def _told(entry: TimelineEntry, clock: Say, *, tries: int, first: datetime) -> Told:
    name = _N(entry.what) if entry.what in _N._value2member_map_ else None
    details = entry.details
    sentence = _sentence(name, entry, clock)
    if tries > 1:
        sentence = (
            f"→ {_text(details, 'destination')}: {tries} attempts failed since {clock(first)}"
            + _next_try(details, clock)
        )
    facts = (*_WIRE.get(name, ()),) if name else ()
    facts += (
        _facts_of_query(details)
        if name is _N.WORKLIST_QUERIED
        else tuple(
            (_LABELS.get(key, key.replace("_", " ")), _shown(value))
            for key, value in details.items()
            if key not in _NOISE and _shown(value)
        )
    )
    page = _LINKS.get(entry.subject) if entry.subject_id is not None else None
    meaning = _MEANING.get(name, "") if name else ""
    return Told(
        at=entry.at,
        sentence=sentence,
        facts=facts,
        meaning="attention" if not meaning and details.get("conflicts") else meaning,
        who="" if entry.actor in ("", "broker") or entry.actor in sentence else entry.actor,
        link=f"/{page}/{entry.subject_id}" if page else "",
        why=_why(name, details),
        previews=tuple(key for key in _items(details.get("previews")) if isinstance(key, int)),
        raw=_raw(entry),
        label=f"{entry.subject} {entry.subject_id}" if page else "",
    )


def _facts_of_query(details: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    took = details.get("duration_ms")
    return (
        ("C-FIND", _text(details, "status")),
        ("keys", _text(details, "keys") or "none"),
        *((("took", f"{took:.1f} ms"),) if isinstance(took, int | float) else ()),
    )


def _why(name: EventName | None, details: Mapping[str, object]) -> str:
    if name in (_N.ROUTED, _N.UNROUTED) and (study := _text(details, "study")):
        return f"/studies/{quote(study, safe='')}#why"
    return "#entry" if name is _N.STEP_SCHEDULED else ""


def _raw(entry: TimelineEntry) -> str:
    kept = {
        "at": entry.at.isoformat(),
        "event": entry.what,
        "actor": entry.actor,
        "subject": entry.subject,
        "subject_id": entry.subject_id,
        "details": dict(entry.details),
    }
    return json.dumps(kept, indent=1, ensure_ascii=False, default=str)[:MAX_RAW_CHARACTERS]


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _sentence(name: EventName | None, entry: TimelineEntry, clock: Say) -> str:
    said, who, d = entry.what[:1].upper() + entry.what[1:], entry.actor, entry.details
    to = f"→ {_text(d, 'destination')}: "
    images = _counted(d.get("instances"), "image")
    match name:
        case _N.MESSAGE_RECEIVED:
            outcome = _text(d, "outcome")
            return f"{_text(d, 'message_type') or 'Message'} received from {who}" + (
                f", {outcome}" if outcome and outcome != "accepted" else ""
            )
        case _N.ORDER_STATUS_CHANGED:
            return f"Order is now {_state(d, 'after')}, was {_state(d, 'before')}"
        case _N.ORDER_INCOMPLETE:
            return f"Not offered to any scanner: {_text(d, 'missing')} missing"
        case _N.STEP_SCHEDULED:
            stations = _text(d, "station_ae_titles")
            return "Step scheduled" + (f" for {stations}" if stations else "")
        case _N.STEP_STATUS_CHANGED:
            return f"Step is now {_state(d, 'after')}, was {_state(d, 'before')}"
        case _N.WORKLIST_QUERIED:
            times, answers = d.get("times"), _counted(d.get("answers"), "answer")
            if isinstance(times, int):
                return f"{who} asked {_counted(times, 'more time')}; this was its last, and it was there"
            return f"{who} asked for its worklist and was shown it, among {answers}"
        case _N.MPPS_CREATED:
            return f"Exam begun, says {who}"
        case _N.MPPS_FINISHED:
            return f"Exam finished, says {who}"
        case _N.INSTANCE_RECEIVED:
            return f"{images} received from {who}"
        case _N.INSTANCE_JOINED:
            return f"{images} joined to this order"
        case _N.IDENTITY_CONFLICT:
            return f"{images}: not the patient of the order"
        case _N.ROUTED:
            by = _text(d, "routes") or "no route"
            conflict = f"; {_text(d, 'conflicts')} conflict" if d.get("conflicts") else ""
            return f"{images} taken by {by}{conflict}"
        case _N.UNROUTED:
            return f"{images} matched no route; kept, nothing sent"
        case _N.DELIVERY_CREATED:
            return f"{to}{_waits(d)}"
        case _N.DELIVERY_COLLECTED:
            return f"{to}complete" + (f", {_counted(d['items'], 'image')} to send" if "items" in d else "")
        case _N.DELIVERY_CLAIMED:
            return f"{to}attempt {_text(d, 'attempt')} runs"
        case _N.DELIVERY_PROGRESSED:
            return f"{to}{_text(d, 'delivered')} of {_text(d, 'items')} delivered, more to send"
        case _N.DELIVERY_DELIVERED:
            return f"{to}delivered" + (f" {_text(d, 'delivered')} of {d['items']}" if "items" in d else "")
        case _N.DELIVERY_RETRY:
            return f"{to}attempt {_text(d, 'attempt')} failed{_next_try(d, clock)}"
        case _N.DELIVERY_DIED:
            return f"{to}dead, needs a person"
        case _N.DELIVERY_RETRIED:
            return f"{to}retried by {who}"
        case _N.DELIVERY_CANCELLED:
            return f"{to}cancelled by {who}"
        case _N.DELIVERY_RETARGETED:
            return f"{to}sent to {_text(d, 'to')} instead by {who}, as delivery {_text(d, 'instead')}"
        case _N.DELIVERY_PRIORITISED:
            return f"{to}priority is now {_text(d, 'priority')}, was {_text(d, 'before')}, by {who}"
        case _N.DELIVERY_RELEASED:
            return f"{to}sent without waiting for more, by {who}"
        case _N.DELIVERY_LEASE_EXPIRED:
            return f"{to}its worker was lost; another takes over"
        case _ if name is not None and name.name.startswith("DESTINATION_"):
            return f"{said} ({_text(d, 'destination')})"
    return said


def _waits(details: Mapping[str, object]) -> str:
    by = f" for route {_text(details, 'route')}" if details.get("route") else ""
    return ("collecting images" if details.get("state") == "COLLECTING" else "to be sent") + by


def _next_try(details: Mapping[str, object], clock: Say) -> str:
    due = details.get("due_at")
    try:
        return f", next try {clock(datetime.fromisoformat(str(due)))}" if due else ""
    except ValueError:
        return ""


def _text(details: Mapping[str, object], key: str) -> str:
    return _shown(details.get(key))


def _state(details: Mapping[str, object], key: str) -> str:
    return (_text(details, key) or "unknown").replace("_", " ").lower()


def _shown(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _counted(number: object, what: str) -> str:
    count = number if isinstance(number, int) else 1
    return f"{count:,} {what}{'' if count == 1 else 's'}"
