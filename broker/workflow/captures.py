"""Start, end, hand out and remove wire captures; each act is an event in the same transaction."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from broker.domain.events import Event, EventName, Subject
from broker.domain.values import AETitle
from broker.errors import Conflict, InvalidValue, MissingValue, NotFound, StorageFull
from broker.workflow.accounts import Caller
from broker.workflow.captures_port import (
    DICOM,
    MOST_RUNNING,
    PROTOCOLS,
    Capture,
    CaptureFiles,
    CaptureReports,
    Recorded,
)
from broker.workflow.clock import Clock
from broker.workflow.idempotency import RequestKey, is_repeat
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

USUAL_MINUTES = 10
MOST_MINUTES = 60
MAX_NAME = 64
MAX_REASON = 500
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class WantedCapture:
    """Whom somebody wants to capture, how long, and why."""

    protocol: str
    name: str
    address: str
    minutes: int
    reason: str
    actor: str
    key: RequestKey | None = None


class CaptureOperations:
    """What administrators do with captures. Each raises a BrokerError, and then nothing has changed."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        reports: CaptureReports,
        files: CaptureFiles,
        clock: Clock,
        *,
        keep: timedelta,
    ) -> None:
        """Remove bytes by itself when `keep` has passed since the end."""
        self._units_of_work = units_of_work
        self._reports = reports
        self._files = files
        self._clock = clock
        self.keep = keep

    def start(self, wanted: WantedCapture) -> Capture:
        """Begin to capture; the listeners know within two seconds. Raises InvalidValue, Conflict, StorageFull."""
        now = self._clock.now()
        asked = _checked(wanted, now=now)
        with self._units_of_work() as uow:
            uow.lock("captures")
            if wanted.key is not None and is_repeat(uow, wanted.key, now=now):
                made = uow.keys.subject(wanted.key.value)
                if made is None:
                    raise Conflict("This was asked before, and came to nothing.")
                return uow.captures.get(made)
            running = uow.captures.running(now=now)
            for known in running:
                if (known.protocol, known.name, known.address) == (asked.protocol, asked.name, asked.address):
                    raise Conflict(
                        f"{known.about} is captured already (capture {known.id}), until {known.until.isoformat()}."
                    )
            if len(running) >= MOST_RUNNING:
                raise Conflict(f"{MOST_RUNNING} captures run already; stop one of them.")
            if not self._files.has_room():
                raise StorageFull("The disk reserve is reached: nothing would be written (limits.storage).")
            begun = replace(asked, id=uow.captures.add(asked))
            if wanted.key is not None:
                uow.keys.note(wanted.key.value, begun.id)
            _record(uow, EventName.CAPTURE_STARTED, begun, actor=begun.actor, until=True, why=begun.reason)
            uow.commit()
        return begun

    def stop(self, capture: int, *, actor: str, key: RequestKey | None = None) -> bool:
        """Capture no more; what was captured stays. Raises NotFound.

        False when it was over already, or the same request came before.
        """
        with self._units_of_work() as uow:
            uow.lock("captures")
            if is_repeat(uow, key, now=self._clock.now()):
                return False
            known = uow.captures.get(capture)
            if not self._stop(uow, known, actor=actor):
                return False
            uow.commit()
        return True

    def download(self, capture: int, *, by: Caller, page: str) -> tuple[Capture, Iterator[bytes]]:
        """Answer a capture as one pcap file, after it is written down who takes it. Raises NotFound."""
        with self._units_of_work() as uow:
            known = uow.captures.get(capture)
            if known.deleted_at is not None:
                raise NotFound("The bytes of this capture have been removed.")
            recorded = self._files.recorded(capture)
            _record(
                uow, EventName.CAPTURE_DOWNLOADED, known, actor=by.name, from_=by.address, recorded=recorded
            )
            # Whatever patients it names: whoever has the file has seen them.
            uow.record(
                Event(
                    EventName.VIEWED,
                    Subject.CAPTURE,
                    capture,
                    actor=by.name,
                    details={"address": by.address, "page": page, "how": "downloaded"},
                )
            )
            uow.commit()
        return known, self._files.read(capture)

    def delete(self, capture: int, *, actor: str) -> bool:
        """Remove the bytes, and stop first if it runs. False when they were gone already. Raises NotFound."""
        with self._units_of_work() as uow:
            uow.lock("captures")
            known = uow.captures.get(capture)
            if known.deleted_at is not None:
                return False
            self._stop(uow, known, actor=actor)
            self._forget(uow, known, EventName.CAPTURE_DELETED, by=actor)
            uow.commit()
        self._files.remove(capture)
        return True

    def tidy(self) -> int:
        """End what is over, remove what has been kept long enough; answer how much was done."""
        with self._units_of_work() as uow:
            now = self._clock.now()
            uow.lock("captures")
            over = uow.captures.overdue(now=now)
            for known in over:
                uow.captures.end(known.id, by="broker", at=known.until)
                _record(
                    uow,
                    EventName.CAPTURE_OVER,
                    known,
                    actor="broker",
                    recorded=self._files.recorded(known.id),
                )
            old = [known for known in uow.captures.kept() if now - known.over_at >= self.keep]
            for known in old:
                self._forget(uow, known, EventName.CAPTURE_EXPIRED, by="broker")
            if over or old:
                uow.commit()
        return len(over) + len(old) + self._remove_forgotten()

    def _remove_forgotten(self) -> int:
        """Remove bytes nobody is to find any more: a listener may have written its last after the removal."""
        there = self._files.kept()[:_AT_ONCE]
        wanted = {known.id for known in self._reports.known_captures(there) if known.deleted_at is None}
        return sum(self._files.remove(capture) for capture in there if capture not in wanted)

    def has_room(self) -> bool:
        """Tell whether the disk is above its reserve: below it nothing is written."""
        return self._files.has_room()

    def recorded(self, capture: Capture) -> Recorded:
        """Answer what there is of a capture by now."""
        return Recorded() if capture.deleted_at is not None else self._files.recorded(capture.id)

    def removed_at(self, capture: Capture) -> datetime:
        """Answer when its bytes are, or were, removed."""
        return capture.deleted_at or capture.over_at + self.keep

    def told(self, capture: Capture) -> dict[str, Any]:
        """Answer a capture as a flat object for programs."""
        recorded = self.recorded(capture)
        return {
            **asdict(capture),
            "running": capture.runs(self._clock.now()),
            "removed_at": self.removed_at(capture),
            **asdict(recorded),
        }

    def _stop(self, uow: UnitOfWork, known: Capture, *, actor: str) -> bool:
        now = self._clock.now()
        if not known.runs(now):
            return False
        uow.captures.end(known.id, by=actor, at=now)
        _record(uow, EventName.CAPTURE_STOPPED, known, actor=actor, recorded=self._files.recorded(known.id))
        return True

    def _forget(self, uow: UnitOfWork, known: Capture, name: EventName, *, by: str) -> None:
        recorded = self._files.recorded(known.id)
        uow.captures.forget_bytes(known.id, by=by, at=self._clock.now())
        _record(uow, name, known, actor=by, recorded=recorded)


def _record(
    uow: UnitOfWork,
    name: EventName,
    capture: Capture,
    *,
    actor: str,
    until: bool = False,
    why: str = "",
    from_: str = "",
    recorded: Recorded | None = None,
) -> None:
    details: dict[str, str | int | float | bool | list[str] | None] = {
        "protocol": capture.protocol,
        "device" if capture.protocol == DICOM else "sender": capture.name,
        "of": capture.address,
    }
    if until:
        details["until"] = capture.until.isoformat()
    if why:
        details["why"] = why
    if from_:
        details["address"] = from_
    if recorded is not None:
        details["bytes"] = recorded.size_bytes
    uow.record(Event(name, Subject.CAPTURE, capture.id, actor=actor, details=details))


def _checked(wanted: WantedCapture, *, now: datetime) -> Capture:
    """Read what somebody asks for; it has no id yet. Raises InvalidValue."""
    if wanted.protocol not in PROTOCOLS:
        raise InvalidValue(f"protocol: {' or '.join(PROTOCOLS)}", field="protocol")
    name, address = _name(wanted), _address(wanted.address)
    if not name and not address:
        raise MissingValue("name: an AE title or sending application, an address, or both", field="name")
    if not 1 <= wanted.minutes <= MOST_MINUTES:
        raise InvalidValue(f"minutes: from 1 to {MOST_MINUTES}", field="minutes")
    reason = wanted.reason.replace("\x00", "").strip()
    if not reason:
        raise MissingValue("reason: say why, for those who come after you", field="reason")
    if len(reason) > MAX_REASON:
        raise InvalidValue(f"reason: at most {MAX_REASON} characters", field="reason")
    until = now + timedelta(minutes=wanted.minutes)
    return Capture(0, wanted.protocol, name, address, now, until, reason, wanted.actor)


def _name(wanted: WantedCapture) -> str:
    name = wanted.name.replace("\x00", "").strip()
    if not name:
        return ""
    if wanted.protocol == DICOM:
        try:
            return str(AETitle(name))
        except InvalidValue as error:
            raise InvalidValue(f"name: {error}", field="name") from None
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidValue(f"name: at most {MAX_NAME} characters that can be printed", field="name")
    return name


def _address(text: str) -> str:
    text = text.strip()
    if not text:
        return ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidValue(
            f"address: {text[:60]!r} is not an address such as 10.1.4.17, nor a network such as 10.1.4.0/24",
            field="address",
        ) from None
    return str(network.network_address) if network.num_addresses == 1 else str(network)
