"""Lists wire captures, and what people have decided that every listener must know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, Table, literal, select, union_all

from broker.db.encoding import storable
from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.captures import capture_of
from broker.db.repositories.devices import MOST_ADMITTED
from broker.db.schema import ADMISSION, WIRE_CAPTURE
from broker.errors import NotFound
from broker.workflow.captures_port import MOST_RUNNING, Capture
from broker.workflow.devices_port import Admission
from broker.workflow.standing_orders import StandingOrders

_SHARED = ("id", "address", "since", "until", "reason", "actor")


class SqlCaptureReports(Reader):
    """Implements CaptureReports."""

    def captures(
        self,
        *,
        name: str | None = None,
        protocol: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Capture]:
        """Answer captures, the newest first; `before` is the id of the last one seen."""
        statement = select(WIRE_CAPTURE).order_by(WIRE_CAPTURE.c.id.desc()).limit(limit)
        if name is not None:
            statement = statement.where(WIRE_CAPTURE.c.name == storable(name, 64))
        if protocol is not None:
            statement = statement.where(WIRE_CAPTURE.c.protocol == protocol)
        if before is not None:
            statement = statement.where(WIRE_CAPTURE.c.id < before)
        with self._reading() as connection:
            return [capture_of(row) for row in mappings(connection, statement)]

    def capture(self, capture: int) -> Capture:
        """Answer one. Raises NotFound."""
        found = self.known_captures([capture])
        if not found:
            raise NotFound("There is no capture of this number.")
        return found[0]

    def known_captures(self, captures: Sequence[int]) -> Sequence[Capture]:
        """Answer those among these that there are."""
        statement = select(WIRE_CAPTURE).where(WIRE_CAPTURE.c.id.in_(captures))
        with self._reading() as connection:
            return [capture_of(row) for row in mappings(connection, statement)]

    def standing_orders(self, *, now: datetime) -> StandingOrders:
        """Answer who is let in and what is captured now; every listener asks once a second, in one statement."""
        # Captures first: a full list of admissions must not push one out.
        both = union_all(_in_force(WIRE_CAPTURE, now), _in_force(ADMISSION, now)).subquery()
        statement = select(both).order_by(both.c.protocol.desc(), both.c.until.desc())
        with self._reading() as connection:
            rows = mappings(connection, statement.limit(MOST_RUNNING + MOST_ADMITTED))
        admissions, captures = [], []
        for row in rows:
            shared = {name: row[name] for name in _SHARED}
            if row["protocol"]:
                captures.append(Capture(protocol=row["protocol"], name=row["name"], **shared))
            else:
                admissions.append(Admission(ae_title=row["name"], **shared))
        return StandingOrders(admissions, captures)


def _in_force(table: Table, now: datetime) -> Select[tuple[object, ...]]:
    is_capture = table is WIRE_CAPTURE
    protocol = table.c.protocol if is_capture else literal("")
    name = table.c.name if is_capture else table.c.ae_title
    shared = [table.c[column] for column in _SHARED]
    return select(protocol.label("protocol"), name.label("name"), *shared).where(
        table.c.ended_at.is_(None), table.c.until > now
    )
