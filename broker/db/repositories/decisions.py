"""Routing decisions as stored, and the configuration versions that made them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select

from broker.db.encoding import decode_values, storable_json
from broker.db.schema import CONFIGURATION, DECISION
from broker.db.transaction import Transaction
from broker.errors import NotFound
from broker.workflow.decisions_port import StoredDecision


class SqlDecisions:
    """Implements the Decisions port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add(self, decision: StoredDecision) -> int:
        """Store a decision (its `id` is ignored), answer its id."""
        return self._transaction.insert(DECISION, _values(decision))

    def add_many(self, decisions: Sequence[StoredDecision]) -> None:
        """Store decisions in one statement."""
        self._transaction.insert_many(DECISION, [_values(decision) for decision in decisions])

    def of_study(self, study_instance_uid: str) -> list[StoredDecision]:
        """Answer the decisions about a study, oldest first."""
        rows = self._transaction.execute(
            select(DECISION)
            .where(DECISION.c.study_instance_uid == study_instance_uid)
            .order_by(DECISION.c.id)
        )
        return [_decision(row) for row in rows.mappings()]

    def configuration_body(self, configuration: int) -> str:
        """Answer the site file of a configuration version. Raises NotFound."""
        body = self._transaction.execute(
            select(CONFIGURATION.c.body).where(CONFIGURATION.c.id == configuration)
        ).scalar_one_or_none()
        if body is None:
            raise NotFound("There is no such configuration version.")
        return str(body)

    def record_configuration(self, sha256: str, body: str, *, by: str, now: datetime) -> int:
        """Store a configuration version once, answer its id."""
        known = select(CONFIGURATION.c.id).where(CONFIGURATION.c.sha256 == sha256)
        found = self._transaction.execute(known).scalar_one_or_none()
        if found is not None:
            return int(found)
        values = {"sha256": sha256, "body": body, "loaded_at": now, "loaded_by": by}
        added = self._transaction.insert_unless_there(CONFIGURATION, values)
        return added if added is not None else int(self._transaction.execute(known).scalar_one())


def _values(decision: StoredDecision) -> dict[str, Any]:
    return {
        "instance": decision.instance,
        "study_instance_uid": decision.study_instance_uid,
        "configuration": decision.configuration,
        "decided_at": decision.decided_at,
        "facts": storable_json(decision.facts),
        "routes": list(decision.routes),
        "conflicts": list(decision.conflicts),
    }


def _decision(row: Any) -> StoredDecision:
    return StoredDecision(
        id=row["id"],
        instance=row["instance"],
        study_instance_uid=row["study_instance_uid"],
        configuration=row["configuration"],
        decided_at=row["decided_at"],
        facts=decode_values(row["facts"]),
        routes=tuple(row["routes"]),
        conflicts=tuple(row["conflicts"]),
    )
