"""Alerts, notices and maintenance windows as stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from broker.db.encoding import storable, storable_or_none
from broker.db.schema import ALERT, ALERT_NOTICE, MAINTENANCE
from broker.db.transaction import Transaction
from broker.domain.alerts import Alert, AlertKind, AlertState, Maintenance, Notice, Severity
from broker.errors import NotFound

_FORGOTTEN_AT_ONCE = 500
_MOST_OPEN = 5000
OPEN_ALERTS = (
    select(ALERT)
    .where(ALERT.c.state.in_((AlertState.PENDING.value, AlertState.RAISED.value)))
    .order_by(ALERT.c.id)
    .limit(_MOST_OPEN)
)


class SqlAlerts:
    """Implements the Alerts port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def open(self) -> Sequence[Alert]:
        """Answer what is pending or raised."""
        return [alert_of(row) for row in self._transaction.execute(OPEN_ALERTS).mappings()]

    def add(self, alert: Alert) -> int:
        """Store a new alert (its `id` is ignored), answer its id; raises DuplicateKey while one like it is open."""
        return self._transaction.insert(ALERT, _alert_values(alert))

    def save(self, alert: Alert) -> None:
        """Store how it stands."""
        self._transaction.execute(update(ALERT).where(ALERT.c.id == alert.id).values(_alert_values(alert)))

    def remove(self, alert: int) -> None:
        """Forget one that was never raised."""
        self._transaction.execute(delete(ALERT).where(ALERT.c.id == alert))

    def get(self, alert: int, *, lock: bool = False) -> Alert:
        """Answer one, locked for this transaction if asked. Raises NotFound."""
        statement = select(ALERT).where(ALERT.c.id == alert)
        row = self._transaction.execute(statement.with_for_update() if lock else statement).mappings().first()
        if row is None:
            raise NotFound("There is no such alert.")
        return alert_of(row)

    def add_notice(self, alert: int, channel: str, notice: Notice, *, now: datetime) -> int:
        """Store what a channel is to carry."""
        return self._transaction.insert(
            ALERT_NOTICE,
            {
                "alert": alert,
                "channel": channel,
                "notice": notice.value,
                "state": "WAITING",
                "attempts": 0,
                "due_at": now,
                "created_at": now,
            },
        )

    def settle_notices(
        self, notices: Sequence[int], *, state: str, said: str | None, due_at: datetime, now: datetime
    ) -> None:
        """Store what became of a try."""
        self._transaction.execute(
            update(ALERT_NOTICE)
            .where(ALERT_NOTICE.c.id.in_(notices), ALERT_NOTICE.c.state == "WAITING")
            .values(
                state=state,
                said=storable_or_none(said),
                attempts=ALERT_NOTICE.c.attempts + 1,
                due_at=due_at,
                settled_at=None if state == "WAITING" else now,
            )
        )

    def add_maintenance(self, window: Maintenance) -> int:
        """Store a new window (its `id` is ignored), answer its id."""
        return self._transaction.insert(
            MAINTENANCE,
            {
                "starts_at": window.starts_at,
                "ends_at": window.ends_at,
                "subject": storable(window.subject, 200),
                "reason": storable(window.reason, 500),
                "actor": storable(window.actor, 128),
            },
        )

    def maintenance(self, window: int) -> Maintenance:
        """Answer one, locked for this transaction. Raises NotFound."""
        statement = select(MAINTENANCE).where(MAINTENANCE.c.id == window).with_for_update()
        row = self._transaction.execute(statement).mappings().first()
        if row is None:
            raise NotFound("There is no such maintenance.")
        return maintenance_of(row)

    def end_maintenance(self, window: int, *, by: str, now: datetime) -> None:
        """Store that it is over."""
        self._transaction.execute(
            update(MAINTENANCE)
            .where(MAINTENANCE.c.id == window)
            .values(ended_at=now, ended_by=storable(by, 128))
        )

    def forget(self, *, before: datetime) -> int:
        """Remove alerts that recovered before an instant, and what was told of them; answer how many."""
        recovered = ALERT.c.state == AlertState.RECOVERED.value
        old = select(ALERT.c.id).where(recovered, ALERT.c.updated_at < before).limit(_FORGOTTEN_AT_ONCE)
        keys = list(self._transaction.execute(old).scalars())
        if keys:
            self._transaction.execute(delete(ALERT_NOTICE).where(ALERT_NOTICE.c.alert.in_(keys)))
            self._transaction.execute(delete(ALERT).where(ALERT.c.id.in_(keys)))
        return len(keys)


def alert_of(row: Any) -> Alert:
    """Read an alert from the mapping of a row."""
    return Alert(
        id=row["id"],
        kind=AlertKind(row["kind"]),
        subject=row["subject"],
        state=AlertState(row["state"]),
        severity=Severity(row["severity"]),
        **{name: row[name] for name in _PLAIN},
    )


def maintenance_of(row: Any) -> Maintenance:
    """Read a maintenance window from the mapping of a row."""
    names = ("id", "starts_at", "ends_at", "subject", "reason", "actor", "ended_at", "ended_by")
    return Maintenance(**{name: row[name] for name in names})


_PLAIN = (
    "headline",
    "action",
    "link",
    "first_seen_at",
    "updated_at",
    "clear_since",
    "raised_at",
    "recovered_at",
    "told_at",
    "acknowledged_at",
    "acknowledged_by",
)


def _alert_values(alert: Alert) -> dict[str, Any]:
    return {
        **{name: getattr(alert, name) for name in _PLAIN},
        "kind": alert.kind.value,
        "subject": storable(alert.subject, 200),
        "state": alert.state.value,
        "severity": alert.severity.value,
        "headline": storable(alert.headline, 500),
        "action": storable(alert.action, 500),
        "link": storable(alert.link, 1000),
        "acknowledged_by": storable_or_none(alert.acknowledged_by, 128),
    }
