"""Devices: who talks, who knocks, who is let in for a time, and how far their clocks are off."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from broker.domain.events import Event, EventName, Subject
from broker.domain.rhythm import Judgement
from broker.domain.values import AETitle
from broker.errors import Conflict, InvalidValue
from broker.workflow.clock import Clock
from broker.workflow.device_reports import DeviceReports, StartTime
from broker.workflow.devices_port import SIGNS, Admission, Knocks, Sign
from broker.workflow.idempotency import RequestKey, is_repeat
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

USUAL_STAY = timedelta(hours=8)
LONGEST_STAY = timedelta(days=14)
"""Who stays longer belongs into the site file."""
MAX_REASON = 500
FORGET_AFTER = timedelta(days=35)
OFF_AT = timedelta(seconds=60)
"""So far a clock may be off before somebody should look: exams are sorted by these times."""
LONGEST_OFF = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Who is to be let in, from where, how long, why, and by whom."""

    ae_title: str
    address: str
    stay: timedelta
    reason: str
    actor: str
    key: RequestKey | None = None


def admit(welcome: Welcome, units_of_work: UnitsOfWork, clock: Clock) -> Admission:
    """Let a device in for a time. Raises InvalidValue, and Conflict when it is let in already."""
    title, address = _title(welcome.ae_title), _address(welcome.address)
    if not timedelta(0) < welcome.stay <= LONGEST_STAY:
        raise InvalidValue(f"more than 0 and at most {LONGEST_STAY.days * 24} hours", field="hours")
    reason = welcome.reason.replace("\x00", "").strip()
    if not reason:
        raise InvalidValue("say why, for those who come after you", field="reason")
    if len(reason) > MAX_REASON:
        raise InvalidValue(f"at most {MAX_REASON} characters", field="reason")
    with units_of_work() as uow:
        now = clock.now()
        uow.lock("admissions")
        if welcome.key is not None and is_repeat(uow, welcome.key, now=now):
            made = uow.keys.subject(welcome.key.value)
            if made is None:
                raise Conflict("This was asked before, and came to nothing.")
            return uow.devices.admission(made)
        for known in uow.devices.admitted(now=now):
            if (known.ae_title, known.address) == (title, address):
                raise Conflict(f"{title} at {address} is let in already, until {known.until.isoformat()}.")
        asked = Admission(0, title, address, now, now + welcome.stay, reason, welcome.actor)
        number = uow.devices.admit(asked)
        if welcome.key is not None:
            uow.keys.note(welcome.key.value, number)
        _record(uow, EventName.DEVICE_ADMITTED, asked, number, actor=welcome.actor, why=reason)
        uow.commit()
        return Admission(number, title, address, now, asked.until, reason, welcome.actor)


def end_admission(
    admission: int, units_of_work: UnitsOfWork, clock: Clock, *, actor: str, key: RequestKey | None = None
) -> bool:
    """Let a device in no longer; False when that was over already, or the same request came before.

    Raises NotFound.
    """
    with units_of_work() as uow:
        now = clock.now()
        uow.lock("admissions")
        if is_repeat(uow, key, now=now):
            return False
        known = uow.devices.admission(admission)
        if not known.holds(now):
            return False
        uow.devices.end(admission, by=actor, now=now)
        _record(uow, EventName.DEVICE_ADMISSION_ENDED, known, admission, actor=actor)
        uow.commit()
        return True


def tidy_devices(units_of_work: UnitsOfWork, clock: Clock) -> int:
    """Write down whose time is over, forget refusals of long ago; answer how many admissions ended."""
    with units_of_work() as uow:
        now = clock.now()
        uow.lock("admissions")
        over = uow.devices.overdue(now=now)
        for known in over:
            uow.devices.end(known.id, by="broker", now=known.until)
            _record(uow, EventName.DEVICE_ADMISSION_OVER, known, known.id, actor="broker")
        if over or uow.devices.forget(before=now - FORGET_AFTER):
            uow.commit()
    return len(over)


def _record(
    uow: UnitOfWork, name: EventName, admission: Admission, number: int, *, actor: str, why: str = ""
) -> None:
    details: dict[str, str | int | float | bool | list[str] | None] = {
        "device": admission.ae_title,
        "address": admission.address,
        "until": admission.until.isoformat(),
    }
    if why:
        details["why"] = why
    uow.record(Event(name, Subject.DEVICE, number, actor=actor, details=details))


def _title(text: str) -> str:
    try:
        return str(AETitle(text.strip()))
    except InvalidValue as error:
        raise InvalidValue(f"ae_title: {error}", field="ae_title") from None


def _address(text: str) -> str:
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise InvalidValue(
            f"{text.strip()[:60]!r} is not an address such as 10.1.4.17, nor a network such as 10.1.4.0/24",
            field="address",
        ) from None
    return str(network.network_address) if network.num_addresses == 1 else str(network)


# ---- how they are ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """What the site file says of a device."""

    ae_title: str
    host: str
    modalities: tuple[str, ...]
    contact: str


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far a device's clock is ahead of ours, and how that was found."""

    ahead: timedelta
    exams: int

    @property
    def is_off(self) -> bool:
        """Tell whether somebody should look."""
        return abs(self.ahead) > OFF_AT


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device: of the site file, let in for a time, or heard of."""

    ae_title: str
    state: str
    """normal, quiet, silent, unknown; admitted; refused; never heard."""
    known: KnownDevice | None
    admission: Admission | None
    signs: Mapping[str, Sign]
    last_at: datetime | None
    rhythm: Judgement | None
    offset: ClockOffset | None
    knocks: Sequence[Knocks]
    """Refusals that nobody has answered yet."""


def read_devices(
    reports: DeviceReports, known: Sequence[KnownDevice], *, now: datetime, zone: tzinfo
) -> list[DeviceState]:
    """Answer every device of the site file, who was heard besides, and who only knocks; those in trouble first."""
    listed = {device.ae_title: device for device in known}
    heard = reports.heard_devices()
    guests = {one.ae_title: one for one in reversed(reports.admissions()) if one.holds(now)}
    refused: dict[str, list[Knocks]] = {}
    for knocks in reports.knocks():
        refused.setdefault(knocks.key.ae_title, []).append(knocks)
    titles = [*listed, *(title for title in (*guests, *heard) if title not in listed)]
    starts = reports.exam_starts(titles)
    found = []
    for title in dict.fromkeys(titles):
        signs = heard[title].signs if title in heard else {}
        last_at = heard[title].last_at if title in heard else None
        rhythm = heard[title].rhythm if title in heard else None
        judged = rhythm.judge(last_at, now=now, zone=zone) if rhythm and last_at else None
        # A refusal from before the device was last served is history.
        open_knocks = [one for one in refused.get(title, ()) if last_at is None or one.last_at > last_at]
        guest = guests.get(title)
        found.append(
            DeviceState(
                ae_title=title,
                state=_state(judged, guest, last_at, open_knocks),
                known=listed.get(title),
                admission=guest,
                signs=signs,
                last_at=last_at,
                rhythm=judged,
                offset=clock_offset(starts.get(title, ()), zone=zone),
                knocks=open_knocks,
            )
        )
    return sorted(found, key=lambda one: (_BY_HARM.index(one.state), one.known is None, one.ae_title))


_BY_HARM = ("refused", "silent", "admitted", "quiet", "normal", "unknown", "never heard")


def _state(
    judged: Judgement | None, guest: Admission | None, last_at: datetime | None, knocks: Sequence[Knocks]
) -> str:
    if guest is not None:
        return "admitted"
    if knocks:
        return "refused"
    if last_at is None:
        return "never heard"
    return judged.silence.value if judged else "unknown"


def clock_offset(starts: Sequence[StartTime], *, zone: tzinfo) -> ClockOffset | None:
    """Answer how far a clock is ahead, by the exam of which we were told soonest after its start.

    What comes late makes a clock look slow and never fast, so the largest difference is the nearest to the truth.
    """
    found = []
    for start in starts:
        try:
            said = datetime.strptime(start.said[:14], "%Y%m%d%H%M%S").replace(tzinfo=zone)
        except ValueError:
            continue
        ahead = said - start.at
        if abs(ahead) < LONGEST_OFF:
            found.append(ahead)
    return ClockOffset(max(found), len(found)) if found else None


# ---- as programs read them ------------------------------------------------------------------------------


def hours(number: float) -> timedelta:
    """Answer a number of hours as a span. Raises InvalidValue."""
    try:
        return timedelta(hours=number)
    except (ValueError, OverflowError):
        raise InvalidValue(f"more than 0 and at most {LONGEST_STAY.days * 24}", field="hours") from None


def told_device(state: DeviceState) -> dict[str, Any]:
    """Answer one device as a flat object."""
    known, guest, offset = state.known, state.admission, state.offset
    return {
        "ae_title": state.ae_title,
        "state": state.state,
        "in_site_file": known is not None,
        "modalities": list(known.modalities) if known else [],
        "contact": known.contact if known else "",
        "last_at": state.last_at,
        "rhythm": state.rhythm.reason if state.rhythm else "",
        **{what: _told_sign(state.signs.get(what)) for what in SIGNS},
        "clock_ahead_s": offset.ahead.total_seconds() if offset else None,
        "clock_exams": offset.exams if offset else 0,
        "admission": guest.id if guest else None,
        "admitted_until": guest.until if guest else None,
        "refused": state.knocks[0].key.reason.words if state.knocks else "",
    }


def _told_sign(sign: Sign | None) -> dict[str, Any] | None:
    if sign is None:
        return None
    status = f"{sign.status:04X}"
    return {"at": sign.at, "ok": sign.ok, "status": status, "detail": sign.detail, "address": sign.address}


def told_knocks(knocks: Knocks) -> dict[str, Any]:
    """Answer refusals as a flat object."""
    key = knocks.key
    return {
        "id": knocks.id,
        "ae_title": key.ae_title,
        "called_ae_title": key.called_ae_title,
        "address": key.address,
        "reason": key.reason.value,
        "why": key.reason.words,
        "wire": key.reason.wire,
        "advice": key.reason.advice,
        "number": knocks.number,
        "first_at": knocks.first_at,
        "last_at": knocks.last_at,
    }
