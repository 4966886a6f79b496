"""One destination with everything people look at before they hold it, test it, or let it go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.errors import NotFound
from broker.workflow.delivery_reports import (
    AttemptLine,
    CauseLine,
    CheckLine,
    DeliveryReports,
    FailureLine,
    RateBin,
    Speed,
)
from broker.workflow.reports_port import DestinationLine, Reports
from broker.workflow.selection import Selection

BIN_S = 1800
BINS = 48
"""Of the curve: a day."""
_SLACK = timedelta(seconds=5)


class DestinationReports(Reports, DeliveryReports, Protocol):
    """What a destination is read from."""


@dataclass(frozen=True, slots=True)
class LastTest:
    """How the last test of a destination stands."""

    check: CheckLine | None
    is_running: bool


@dataclass(frozen=True, slots=True)
class DestinationView:
    """One destination."""

    line: DestinationLine
    rate: Sequence[RateBin]
    """Of a day, every bin, oldest first."""
    failures: Sequence[FailureLine]
    """Of a day."""
    conversation: Sequence[AttemptLine]
    causes: Sequence[CauseLine]
    """Of its dead deliveries."""
    speed: Speed | None
    test: LastTest


def read_destination(reports: DestinationReports, name: str, *, now: datetime) -> DestinationView:
    """Read everything there is to know of one destination. Raises NotFound."""
    begin = now.timestamp() // BIN_S * BIN_S - (BINS - 1) * BIN_S
    since = datetime.fromtimestamp(begin, now.tzinfo)
    return DestinationView(
        line=destination_line(reports, name, now=now),
        rate=_filled(reports.rate(name, since=since, bin_s=BIN_S), since=since),
        failures=reports.failures(name, since=now - timedelta(days=1)),
        conversation=reports.conversation(name),
        causes=reports.causes(Selection(destination=name)),
        speed=reports.speed(name),
        test=last_test(reports, name, now=now),
    )


def destination_line(reports: Reports, name: str, *, now: datetime) -> DestinationLine:
    """Answer a destination's queue. Raises NotFound."""
    for line in reports.destinations(now=now):
        if line.destination == name:
            return line
    raise NotFound("There is no such destination.")


def last_test(reports: DeliveryReports, name: str, *, now: datetime) -> LastTest:
    """Answer how the last test stands; one whose process was lost has ended with its deadline."""
    check = reports.last_check(name)
    if check is None or check.said.get("state") != "running":
        return LastTest(check, is_running=False)
    deadline = check.said.get("deadline_s")
    longest = timedelta(seconds=float(deadline) if isinstance(deadline, int | float) else 60)
    return LastTest(check, is_running=now - check.at < longest + _SLACK)


def _filled(found: Sequence[RateBin], *, since: datetime) -> list[RateBin]:
    """Fill in the bins in which nothing was delivered."""
    known = {round((one.at - since).total_seconds() // BIN_S): one for one in found}
    return [
        known.get(number, RateBin(since + timedelta(seconds=number * BIN_S), 0, 0)) for number in range(BINS)
    ]
