"""Chains the events: each seal is a hash over the seal before and the event, so that no row changes unseen.

Sealing happens just after the commit, not in it: one end of a chain in every transaction would let only one
commit at a time. Events are chained in the order in which the sealer finds them; a transaction that commits late
comes later in the chain, whatever ids its events drew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, func, select, update

from broker.db.engine import reading
from broker.db.schema import EVENT, SEAL_HEAD
from broker.db.transaction import Transaction
from broker.failpoints import failpoint

START = bytes(32)
_MAX_PROBLEMS = 100
_COLUMNS = (
    EVENT.c.id,
    EVENT.c.at,
    EVENT.c.name,
    EVENT.c.subject,
    EVENT.c.subject_id,
    EVENT.c.study_instance_uid,
    EVENT.c.order,
    EVENT.c.actor,
    EVENT.c.details,
)
_UNSEALED = select(*_COLUMNS).where(EVENT.c.seal_no.is_(None)).order_by(EVENT.c.id).limit(bindparam("limit"))
_SEAL = (
    update(EVENT)
    .where(EVENT.c.id == bindparam("key"))
    .values(seal_no=bindparam("its_no"), seal=bindparam("its_seal"))
)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk along the chain found."""

    sealed: int
    """Events whose seal was checked."""
    unsealed: int
    """Events that wait for the sealer."""
    problems: tuple[str, ...]
    """Empty: nothing was changed, taken out or cut off since it was sealed."""


def seal_events(engine: Engine, *, batch: int = 1000, max_batches: int = 100) -> int:
    """Seal what has been committed, answer how many events that were. Raises DatabaseUnavailable."""
    sealed = 0
    for _ in range(max_batches):
        with reading(engine) as connection:  # without the write lock, for most of the time there is nothing
            if connection.execute(_UNSEALED, {"limit": 1}).first() is None:
                return sealed
        with closing(Transaction(engine)) as transaction:
            sealed += _seal_batch(transaction, batch)
            failpoint("seal.before_commit")
            transaction.commit()
        failpoint("seal.after_commit")
    return sealed


def _seal_batch(transaction: Transaction, batch: int) -> int:
    number, seal = _locked_head(transaction)
    rows = transaction.execute(_UNSEALED, {"limit": batch}).mappings().all()
    changes = []
    for row in rows:
        number += 1
        seal = _seal_of(seal, number, dict(row))
        changes.append({"key": row["id"], "its_no": number, "its_seal": seal})
    if changes:
        transaction.execute(_SEAL, changes)
        transaction.execute(update(SEAL_HEAD).where(SEAL_HEAD.c.id == 1).values(seal_no=number, seal=seal))
    return len(changes)


def _locked_head(transaction: Transaction) -> tuple[int, bytes]:
    """Answer the end of the chain; another sealer waits."""
    statement = select(SEAL_HEAD).where(SEAL_HEAD.c.id == 1).with_for_update()
    row = transaction.execute(statement).mappings().one_or_none()
    if row is None:
        transaction.execute(transaction.insert_ignoring(SEAL_HEAD), {"id": 1, "seal_no": 0, "seal": START})
        row = transaction.execute(statement).mappings().one()
    return int(row["seal_no"]), bytes(row["seal"])


def verify_events(
    engine: Engine, *, batch: int = 1000, told: Callable[[int, int], None] = lambda _, __: None
) -> Verification:
    """Walk along the whole chain in one state of the database; `told` hears how far it is of how much.

    Raises DatabaseUnavailable.
    """
    problems: list[str] = []
    checked = 0
    with reading(engine) as connection:
        number, seal = 0, START
        length = int(connection.execute(select(func.max(EVENT.c.seal_no))).scalar_one() or 0)
        for row in _chain(connection, batch):
            if problem := _problem(number, seal, row):
                problems.append(problem)
            number, seal = int(row["seal_no"]), bytes(row["seal"] or b"")
            checked += 1
            if checked % batch == 0:
                told(checked, max(length, checked))
            if len(problems) >= _MAX_PROBLEMS:
                break
        else:
            head = connection.execute(select(SEAL_HEAD).where(SEAL_HEAD.c.id == 1)).mappings().one_or_none()
            expected = (int(head["seal_no"]), bytes(head["seal"])) if head else (0, START)
            if expected != (number, seal):
                problems.append(f"the chain ends with seal {number}, it was sealed up to {expected[0]}")
        unsealed = connection.execute(
            select(func.count()).select_from(EVENT).where(EVENT.c.seal_no.is_(None))
        ).scalar_one()
    return Verification(checked, int(unsealed), tuple(problems))


@dataclass(slots=True)
class Links:
    """What was found along a part of the chain."""

    count: int
    number: int
    seal: bytes
    problems: list[str]


def links(connection: Connection, number: int, seal: bytes, *, limit: int) -> Links:
    """Verify at most `limit` events behind a seal."""
    rows = (
        connection.execute(
            select(*_COLUMNS, EVENT.c.seal_no, EVENT.c.seal)
            .where(EVENT.c.seal_no > number)
            .order_by(EVENT.c.seal_no)
            .limit(limit)
        )
        .mappings()
        .all()
    )
    found = Links(len(rows), number, seal, [])
    for row in rows:
        problem = _problem(found.number, found.seal, {**row})
        if problem:
            found.problems.append(problem)
        found.number, found.seal = int(row["seal_no"]), bytes(row["seal"] or b"")
    return found


def _problem(number: int, seal: bytes, row: Mapping[str, Any]) -> str:
    """Say what is wrong with the event behind a seal; nothing when it is as it was sealed."""
    if row["seal_no"] != number + 1:
        # What follows is checked against its own predecessor from here on.
        return f"seals {number + 1} to {row['seal_no'] - 1} are missing"
    if _seal_of(seal, row["seal_no"], row) != row["seal"]:
        return f"event {row['id']} (seal {row['seal_no']}) is not what was sealed"
    return ""


def _chain(connection: Connection, batch: int) -> Iterator[Mapping[str, Any]]:
    number = 0
    while True:
        rows = (
            connection.execute(
                select(*_COLUMNS, EVENT.c.seal_no, EVENT.c.seal)
                .where(EVENT.c.seal_no > number)
                .order_by(EVENT.c.seal_no)
                .limit(batch)
            )
            .mappings()
            .all()
        )
        if not rows:
            return
        yield from ({**row} for row in rows)
        number = rows[-1]["seal_no"]


def _seal_of(before: bytes, number: int, row: Mapping[str, Any]) -> bytes:
    content = [number, *(row[column.name] for column in _COLUMNS)]
    content[2] = row["at"].astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(before + text.encode()).digest()
