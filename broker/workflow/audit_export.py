"""Sends the audit trail on to a collector: the trail itself is the spool, a place in its chain the only state.

Syslog confirms nothing. What was put on the wire counts as handed over once the collector's machine has taken all
octets and the connection has lived on for a moment; when it ends before that, everything since is sent again. So a
collector gets every message at least once, in the order of the chain, each with its number there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broker.domain.audit_message import AuditMessage
from broker.workflow.audit_alerts import untranslated
from broker.workflow.audit_messages import message_of
from broker.workflow.audit_participants import Ourselves
from broker.workflow.audit_port import Collector, CollectorAway, TrailEvent, TrailReports
from broker.workflow.clock import Clock
from broker.workflow.unit_of_work import UnitsOfWork


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """How much at once, and how patiently."""

    batch: int = 200
    window: int = 2000
    """Messages that are on the wire and do not count as handed over yet: what is sent again, and no more."""
    slice_s: float = 20.0
    """Then others of this process have their turn."""
    lease: timedelta = timedelta(seconds=60)
    first_rest_s: float = 5.0
    longest_rest_s: float = 30.0


@dataclass(slots=True)
class _Part:
    """Messages of some events that are on the wire."""

    number: int
    """The last event's."""
    messages: int
    at_s: float


@dataclass(slots=True)
class _Run:
    """One connection, and how far along the chain it has come."""

    place: int
    """Up to here it is stored as handed over."""
    reached: int
    lease_until: datetime
    on_the_wire: deque[_Part] = field(default_factory=deque)

    @property
    def messages(self) -> int:
        """Count what does not count as handed over yet."""
        return sum(part.messages for part in self.on_the_wire)


class TrailExport:
    """Sends to one collector; one process does so at a time, whoever holds the lease."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        reports: TrailReports,
        clock: Clock,
        collector: Collector,
        us: Ourselves,
        *,
        owner: str,
        limits: ExportLimits | None = None,
    ) -> None:
        self._units_of_work = units_of_work
        self._reports = reports
        self._clock = clock
        self._collector = collector
        self._us = us
        self._owner = owner
        self._limits = limits or ExportLimits()
        self._run: _Run | None = None
        self._rest_s = 0.0
        self._again_at_s = 0.0

    @property
    def name(self) -> str:
        """Answer the collector's name."""
        return self._collector.name

    def turn(self) -> int:
        """Send what is new, answer how many messages that were. Raises DatabaseUnavailable."""
        if self._clock.monotonic() < self._again_at_s:
            return 0
        run = self._begin()
        if run is None:
            return 0
        try:
            sent = self._send(run)
        except CollectorAway as error:
            self._rest(str(error))
            return 0
        self._rest_s = 0.0
        return sent

    def _begin(self) -> _Run | None:
        """Answer the run of this process; None when there is nothing to send, or another process sends."""
        end, name = self._reports.trail_end(), self._collector.name
        place = next((one.number for one in self._reports.collectors() if one.name == name), None)
        if place is None:
            # A new collector is told what happens from now on, not what happened in the years before.
            with self._units_of_work() as uow:
                uow.audit_collectors.add(name, end, now=self._clock.now())
                uow.commit()
            return None
        if place >= end:
            return None  # without a write: mostly there is nothing
        now = self._clock.now()
        if self._run is not None and self._run.lease_until - now > self._limits.lease / 2:
            return self._run
        until = now + self._limits.lease
        with self._units_of_work() as uow:
            claimed = uow.audit_collectors.claim(name, self._owner, now=now, until=until)
            if claimed is not None:
                uow.commit()
        if claimed is None:
            self._forget()
        elif self._run is None or self._run.place != claimed:
            self._forget()  # another process has sent meanwhile
            self._run = _Run(claimed, claimed, until)
        else:
            self._run.lease_until = until
        return self._run

    def _send(self, run: _Run) -> int:
        sent, until_s = 0, self._clock.monotonic() + self._limits.slice_s
        while self._run is run and self._clock.monotonic() < until_s:
            is_full = run.messages >= self._limits.window
            self._settle(run, wait_s=self._collector.settle_s if is_full else 0.0)
            if run.messages >= self._limits.window:
                continue
            events = self._reports.trail(after=run.reached, limit=self._limits.batch)
            if not events or self._run is not run:
                break
            sent += self._hand_over(run, events)
        return sent

    def _hand_over(self, run: _Run, events: Sequence[TrailEvent]) -> int:
        count = 0
        for event in events:
            for message in self._messages(event):
                self._collector.hand_over(event.number, message)
                count += 1
        run.reached = events[-1].number
        run.on_the_wire.append(_Part(run.reached, count, self._clock.monotonic()))
        if not run.messages:
            self._settle(run, wait_s=0.0)
        return count

    def _messages(self, event: TrailEvent) -> Sequence[AuditMessage]:
        try:
            message = message_of(event, self._us)
        except Exception as error:  # a defect of ours must not keep every later event from its collector
            message = untranslated(event, self._us, type(error).__name__)
        return [message] if message is not None else []

    def _settle(self, run: _Run, *, wait_s: float) -> None:
        """Store as handed over what has been on the wire for long enough."""
        if not run.on_the_wire:
            return
        has_arrived = not run.messages or self._collector.has_arrived(wait_s=wait_s)
        old_s = self._clock.monotonic() - self._collector.settle_s
        number, messages = run.place, 0
        while run.on_the_wire:
            part = run.on_the_wire[0]
            if part.messages and not (has_arrived and part.at_s <= old_s):
                break  # nothing counts before what was sent before it
            run.on_the_wire.popleft()
            number, messages = part.number, messages + part.messages
        if number > run.place:
            self._store(run, number, sent=messages > 0)

    def _store(self, run: _Run, number: int, *, sent: bool) -> None:
        with self._units_of_work() as uow:
            is_ours = uow.audit_collectors.advance(
                self._collector.name, self._owner, number, now=self._clock.now(), sent=sent
            )
            if is_ours:
                uow.commit()
        if is_ours:
            run.place = number
        else:
            self._forget()

    def _rest(self, problem: str) -> None:
        """Begin again from what is stored, after a while."""
        self._forget()
        limits = self._limits
        self._rest_s = min(max(self._rest_s * 2, limits.first_rest_s), limits.longest_rest_s)
        self._again_at_s = self._clock.monotonic() + self._rest_s
        with self._units_of_work() as uow:
            uow.audit_collectors.failed(self._collector.name, self._owner, problem, now=self._clock.now())
            uow.commit()

    def _forget(self) -> None:
        self._run = None
        self._collector.close()
