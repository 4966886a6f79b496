"""Admissions, refusals and signs of life of devices; whoever floods us fills no table."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from broker.db.encoding import storable, storable_json
from broker.db.schema import ADMISSION, CONVERSATION, KNOCK, SIGN
from broker.db.transaction import Transaction
from broker.domain.knocks import KnockReason
from broker.errors import NotFound
from broker.workflow.devices_port import (
    CONVERSATIONS_KEPT,
    MANY,
    MOST_HEARD,
    MOST_KNOCKS,
    MOST_KNOCKS_OF_ADDRESS,
    Admission,
    Conversation,
    KnockKey,
    Knocks,
    Sign,
)
from broker.workflow.probe_port import PROBE

MOST_ADMITTED = 200
TOLD_AGAIN = timedelta(hours=1)


_ITS = CONVERSATION.c.ae_title == bindparam("title")
_FORGET_OLDER = delete(CONVERSATION).where(
    _ITS,
    CONVERSATION.c.id
    < select(CONVERSATION.c.id)
    .where(_ITS)
    .order_by(CONVERSATION.c.id.desc())
    .offset(CONVERSATIONS_KEPT - 1)
    .limit(1)
    .scalar_subquery(),
)


class SqlDevices:
    """Implements the Devices port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    # ---- admissions ----

    def admit(self, admission: Admission) -> int:
        """Store who is let in for a time, answer its id."""
        values = asdict(admission)
        del values["id"]
        return self._transaction.insert(ADMISSION, values | {"reason": storable(admission.reason, 500)})

    def admission(self, admission: int) -> Admission:
        """Answer one, locked for this transaction. Raises NotFound."""
        statement = select(ADMISSION).where(ADMISSION.c.id == admission).with_for_update()
        row = self._transaction.execute(statement).mappings().one_or_none()
        if row is None:
            raise NotFound("Nobody was let in under this number.")
        return admission_of(row)

    def end(self, admission: int, *, by: str, now: datetime) -> None:
        """Let a device in no longer."""
        statement = update(ADMISSION).where(ADMISSION.c.id == admission)
        self._transaction.execute(statement.values(ended_at=now, ended_by=storable(by, 128)))

    def admitted(self, *, now: datetime) -> list[Admission]:
        """Answer who is let in now."""
        return self._open(ADMISSION.c.until > now)

    def overdue(self, *, now: datetime) -> list[Admission]:
        """Answer whose time is over although nobody has ended it."""
        return self._open(ADMISSION.c.until <= now)

    def _open(self, condition: ColumnElement[bool]) -> list[Admission]:
        statement = select(ADMISSION).where(ADMISSION.c.ended_at.is_(None), condition)
        rows = self._transaction.execute(statement.order_by(ADMISSION.c.until.desc()).limit(MOST_ADMITTED))
        return [admission_of(row) for row in rows.mappings()]

    # ---- refusals ----

    def note_knocks(self, knocks: Sequence[Knocks]) -> list[Knocks]:
        """Add to the rows of refusals; answer those that are new, or were not heard for an hour."""
        news = []
        for asked in knocks:
            knock, heard_at = asked, self._count_knock(asked)
            if heard_at is None:
                knock = self._placed(asked)
                heard_at = self._count_knock(knock) if knock != asked else None
                if heard_at is None:
                    self._transaction.insert(KNOCK, _knock_values(knock))
            if heard_at is None or knock.last_at - heard_at >= TOLD_AGAIN:
                news.append(knock)
        return news

    def _count_knock(self, knock: Knocks) -> datetime | None:
        """Add to a row there is; answer when it was heard before, None when there is no such row."""
        same = _same_knock(knock.key)
        found = self._transaction.execute(select(KNOCK.c.last_at).where(same).with_for_update()).first()
        if found is None:
            return None
        before: datetime = found[0]
        self._transaction.execute(
            update(KNOCK)
            .where(same)
            .values(number=KNOCK.c.number + knock.number, last_at=max(knock.last_at, before))
        )
        return before

    def _placed(self, knock: Knocks) -> Knocks:
        """Answer the row a new refusal is counted in: its own while there is room."""
        rows = select(func.count()).select_from(KNOCK)
        of_address = rows.where(KNOCK.c.address == storable(knock.key.address, 64))
        if self._transaction.execute(of_address).scalar_one() >= MOST_KNOCKS_OF_ADDRESS:
            knock = replace(knock, key=replace(knock.key, ae_title=MANY, called_ae_title=MANY))
        if self._transaction.execute(rows).scalar_one() >= MOST_KNOCKS:
            knock = replace(knock, key=KnockKey(MANY, MANY, MANY, knock.key.reason))
        return knock

    # ---- signs of life ----

    def note_signs(self, signs: Sequence[Sign], *, listed: frozenset[str]) -> None:
        """Keep the newest of each; unknown titles beyond MOST_HEARD are left out, `listed` ones never.

        The probe is no device: it is the broker asking itself.
        """
        placed = self._placed_titles({sign.ae_title for sign in signs} - {PROBE}, listed)
        rows = [
            asdict(sign)
            | {
                "ae_title": storable(sign.ae_title, 16),
                "detail": storable(sign.detail, 100),
                "address": storable(sign.address, 64),
            }
            for sign in signs
            if sign.ae_title in placed
        ]
        if not rows:
            return
        insert: Any = (postgresql if self._transaction.is_postgresql else sqlite).insert(SIGN)
        newest = {name: insert.excluded[name] for name in ("at", "status", "detail", "address")}
        self._transaction.execute(
            insert.on_conflict_do_update(
                index_elements=["ae_title", "what"], set_=newest, where=SIGN.c.at <= insert.excluded.at
            ),
            rows,
        )

    def _placed_titles(self, titles: set[str], listed: frozenset[str]) -> set[str]:
        """Answer which of these titles signs are kept of: the listed, those that are heard, and more while there is room."""
        placed = (titles & listed) | self._heard(titles - listed)
        if others := sorted(titles - placed):
            number = select(func.count(func.distinct(SIGN.c.ae_title)))
            room = MOST_HEARD - int(self._transaction.execute(number).scalar_one())
            placed.update(others[: max(0, room)])
        return placed

    def _heard(self, titles: set[str]) -> set[str]:
        if not titles:
            return set()
        stored = {storable(title, 16): title for title in titles}
        heard = select(SIGN.c.ae_title).where(SIGN.c.ae_title.in_(sorted(stored))).distinct()
        return {stored[title] for title in self._transaction.execute(heard).scalars()}

    def note_conversations(self, conversations: Sequence[Conversation]) -> None:
        """Keep the last CONVERSATIONS_KEPT of every device that has a sign."""
        last: dict[str, deque[Conversation]] = {}
        for one in conversations:
            last.setdefault(one.ae_title, deque(maxlen=CONVERSATIONS_KEPT)).append(one)
        heard = self._heard(set(last))
        rows = [_conversation_values(one) for title in heard for one in last[title]]
        if not rows:
            return
        self._transaction.insert_many(CONVERSATION, rows)
        self._transaction.execute(_FORGET_OLDER, [{"title": storable(title, 16)} for title in heard])

    def forget(self, *, before: datetime) -> int:
        """Remove refusals and signs that are older, answer how many."""
        gone = 0
        for table, at in ((KNOCK, KNOCK.c.last_at), (SIGN, SIGN.c.at)):
            gone += self._transaction.execute(delete(table).where(at < before)).rowcount
        if gone:
            heard = select(SIGN.c.ae_title)
            self._transaction.execute(delete(CONVERSATION).where(CONVERSATION.c.ae_title.not_in(heard)))
        return gone


def _same_knock(key: KnockKey) -> ColumnElement[bool]:
    return and_(*(KNOCK.c[name] == value for name, value in _key_values(key).items()))


def _key_values(key: KnockKey) -> dict[str, Any]:
    return {
        "ae_title": storable(key.ae_title, 16),
        "called_ae_title": storable(key.called_ae_title, 16),
        "address": storable(key.address, 64),
        "reason": key.reason.value,
    }


def _knock_values(knock: Knocks) -> dict[str, Any]:
    return _key_values(knock.key) | {
        "number": knock.number,
        "first_at": knock.first_at,
        "last_at": knock.last_at,
    }


def _conversation_values(one: Conversation) -> dict[str, Any]:
    return asdict(one) | {
        "ae_title": storable(one.ae_title, 16),
        "association": storable(one.association, 64),
        "address": storable(one.address, 64),
        "implementation": storable(one.implementation, 100),
        "served": storable_json(one.served),
    }


def admission_of(row: Any) -> Admission:
    """Read an admission from the mapping of a row."""
    names = ("id", "ae_title", "address", "since", "until", "reason", "actor", "ended_at", "ended_by")
    return Admission(**{name: row[name] for name in names})


def knocks_of(row: Any) -> Knocks:
    """Read refusals from the mapping of a row."""
    key = KnockKey(row["ae_title"], row["called_ae_title"], row["address"], KnockReason(row["reason"]))
    return Knocks(key, row["number"], row["first_at"], row["last_at"], row["id"])
