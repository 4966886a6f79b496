"""Asking twice is harmless: a request that brings its key again is not done again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from broker.workflow.ports import Clock, UnitOfWork, UnitsOfWork

LIFE = timedelta(hours=24)
"""How long a key is kept; whoever repeats a request does so sooner."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The key somebody gave a request."""

    value: str
    fingerprint: str
    """Of everything that was asked: a key stands for one request."""


def request_key(value: str, *, actor: str, asked: str) -> RequestKey:
    """Make a key of what was sent; two people may choose the same one."""
    name = sha256(f"{actor}\n{value}".encode()).hexdigest()
    return RequestKey(name, sha256(asked.encode()).hexdigest())


def is_repeat(uow: UnitOfWork, key: RequestKey | None, *, now: datetime) -> bool:
    """Take the key in this transaction, answer whether the same was asked before. Raises Conflict."""
    if key is None:
        return False
    return not uow.keys.take(key.value, key.fingerprint, now=now, expires_at=now + LIFE)


def forget_keys(units_of_work: UnitsOfWork, clock: Clock) -> int:
    """Remove the keys that have expired."""
    with units_of_work() as uow:
        forgotten = uow.keys.forget(now=clock.now())
        if forgotten:
            uow.commit()
        return forgotten
