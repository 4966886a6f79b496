"""What a support bundle says of the database: how much there is, what was refused, and how its reads are planned.

Nothing that came from outside is passed on as it came: each value is one of a known set, or of a narrow form.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, event, func, select, text

from broker.db.engine import reading
from broker.db.schema import DELIVERY, DESTINATION, EVENT, MESSAGE, METADATA
from broker.domain.causes import BY_NAME
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName
from broker.workflow.destinations_port import DestinationHealth
from broker.workflow.messages_port import MessageOutcome

WITHHELD = "[withheld]"
LAST_REFUSALS = 200
_MESSAGE_TYPE = re.compile(r"[A-Z]{3}(\^[A-Z]\d{2}){0,1}(\^[A-Z]{3}_[A-Z]\d{2})?\Z")
_PLACE = re.compile(r"[A-Z][A-Z0-9]{2}(-\d{1,3}(\.\d{1,2}){0,2})?\Z")
_CONDITION = re.compile(r"\d{1,5}\Z")


def database_facts(engine: Engine) -> dict[str, Any]:
    """Answer kind, version, schema and size of the tables."""
    with reading(engine) as connection:
        is_postgresql = connection.dialect.name == "postgresql"
        version = "SHOW server_version" if is_postgresql else "SELECT sqlite_version()"
        return {
            "kind": connection.dialect.name,
            "version": str(connection.execute(text(version)).scalar_one()),
            "schema": str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()),
            "rows": {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in METADATA.sorted_tables
            },
        }


def queue_facts(engine: Engine, destinations: Sequence[str]) -> dict[str, Any]:
    """Answer how many deliveries are in which state where, what the dead died of, and how destinations stand."""
    states, causes = {state.value for state in DeliveryState}, set(BY_NAME)
    health = {state.value for state in DestinationHealth}
    with reading(engine) as connection:
        deliveries = connection.execute(
            select(
                DELIVERY.c.destination,
                DELIVERY.c.state,
                func.count().label("number"),
                func.min(DELIVERY.c.created_at).label("oldest"),
            ).group_by(DELIVERY.c.destination, DELIVERY.c.state)
        ).mappings()
        dead = connection.execute(
            select(DELIVERY.c.cause, func.count().label("number"))
            .where(DELIVERY.c.state == DeliveryState.DEAD.value)
            .group_by(DELIVERY.c.cause)
        ).mappings()
        stand = connection.execute(select(DESTINATION)).mappings()
        return {
            "deliveries": [
                {
                    "destination": _one_of(row["destination"], destinations),
                    "state": _one_of(row["state"], states),
                    "number": row["number"],
                    "oldest": row["oldest"].isoformat(),
                }
                for row in deliveries
            ],
            "dead_by_cause": [
                {"cause": _one_of(row["cause"], causes), "number": row["number"]} for row in dead
            ],
            "destinations": [
                {
                    "destination": _one_of(row["name"], destinations),
                    "state": _one_of(row["state"], health),
                    "since": row["since"].isoformat(),
                    "failures": row["failures"],
                }
                for row in stand
            ],
        }


def refusals(engine: Engine) -> list[dict[str, Any]]:
    """Answer the last messages that were refused, failed or parked: codes and places, never their content."""
    outcomes = [MessageOutcome.REFUSED.value, MessageOutcome.FAILED.value, MessageOutcome.PARKED.value]
    found: list[dict[str, Any]] = []
    with reading(engine) as connection:
        for outcome in outcomes:
            rows = connection.execute(
                select(
                    MESSAGE.c.id,
                    MESSAGE.c.received_at,
                    MESSAGE.c.peer,
                    MESSAGE.c.message_type,
                    MESSAGE.c.acknowledgement_code,
                    MESSAGE.c.problems,
                )
                .where(MESSAGE.c.outcome == outcome)
                .order_by(MESSAGE.c.received_at.desc())
                .limit(LAST_REFUSALS)
            ).mappings()
            found.extend(
                {
                    "message": row["id"],
                    "received_at": row["received_at"].isoformat(),
                    "outcome": outcome,
                    "peer": _address(row["peer"]),
                    "type": _like(row["message_type"], _MESSAGE_TYPE),
                    "answer": _one_of(row["acknowledgement_code"], ("AA", "AE", "AR", "CA", "CE", "CR")),
                    "problems": [_problem(problem) for problem in row["problems"]],
                }
                for row in rows
            )
    return sorted(found, key=lambda refused: str(refused["received_at"]), reverse=True)[:LAST_REFUSALS]


def event_counts(engine: Engine) -> dict[str, int]:
    """Answer how often each thing happened."""
    names = {name.value for name in EventName}
    statement = select(EVENT.c.name, func.count().label("number")).group_by(EVENT.c.name)
    with reading(engine) as connection:
        rows = connection.execute(statement).mappings()
        return {_one_of(row["name"], names) or "": row["number"] for row in rows}


def plans(engine: Engine, reads: Sequence[Callable[[], object]]) -> list[dict[str, Any]]:
    """Answer the statements some reads run, each with how the database plans it; parameters are left out."""
    ran: dict[str, Any] = {}
    failed: list[dict[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            ran.setdefault(statement, parameters)

    event.listen(engine, "before_cursor_execute", note)
    try:
        for number, read in enumerate(reads):
            try:
                read()
            except Exception as error:  # its statements are told all the same
                failed.append({"read": number, "failed": type(error).__name__})
    finally:
        event.remove(engine, "before_cursor_execute", note)
    with reading(engine) as connection:
        return [
            {"statement": statement, "plan": _plan(connection, statement, parameters)}
            for statement, parameters in ran.items()
        ] + failed


def _plan(connection: Connection, statement: str, parameters: Any) -> list[str]:
    if connection.dialect.name == "postgresql":
        rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        # Filters and conditions repeat parameters and literals: the shape says enough.
        lines = [str(row[0]) for row in rows]
        return [line for line in lines if not re.match(r"\s*(Filter|.*Cond|.*Key|Output):", line)]
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [str(row[3]) for row in rows]


def _problem(problem: object) -> Mapping[str, str | None]:
    if not isinstance(problem, Mapping):
        return {"condition": WITHHELD}
    return {
        "condition": _like(problem.get("condition"), _CONDITION),
        "severity": _one_of(problem.get("severity"), ("error", "warning", "information")),
        "place": _like(problem.get("place"), _PLACE),
    }


def _one_of(value: object, known: Sequence[str] | set[str]) -> str | None:
    return None if value is None else str(value) if value in known else WITHHELD


def _like(value: object, form: re.Pattern[str]) -> str | None:
    return None if value is None else str(value) if form.match(str(value)) else WITHHELD


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        return WITHHELD
