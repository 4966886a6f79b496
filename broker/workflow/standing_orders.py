"""What people have decided for a time and every listener must know: read from the database once a second.

A listener looks at what was read last, and never waits for a database. While that is away the last answer stays in
force, and what is to end at its time ends all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.workflow.captures_port import Capture
from broker.workflow.devices_port import Admission


@dataclass(frozen=True, slots=True)
class StandingOrders:
    """Who is let in, and what is captured."""

    admissions: Sequence[Admission] = ()
    captures: Sequence[Capture] = ()


class StandingOrderReports(Protocol):
    """Reads for listeners."""

    def standing_orders(self, *, now: datetime) -> StandingOrders:
        """Answer what is in force now, in one statement."""
        ...
