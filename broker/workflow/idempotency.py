"""Asking twice is harmless: a request that brings its key again is not done again, and is answered as it was.

The key is taken in the transaction that does what is asked: a crash leaves both or neither. The answer is kept behind
it; where that was lost, what is asked again finds its key taken and answers how things stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from broker.errors import BrokerError, Conflict
from broker.workflow.clock import Clock
from broker.workflow.idempotency_port import Answer
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

LIFE = timedelta(hours=24)
"""How long a key is kept; whoever repeats a request does so sooner."""
OTHER_REQUEST = "This idempotency key was used for another request."
MOST_CHARACTERS = 256 * 1024
"""Of an answer that is kept."""
_OURS = 500
"""From here on a status says that we failed, not that we refused."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The key somebody gave a request."""

    value: str
    fingerprint: str
    """Of everything that was asked: a key stands for one request."""


class Requests:
    """The requests that brought a key, as those see them who answer."""

    def __init__(self, units_of_work: UnitsOfWork, clock: Clock) -> None:
        self._units_of_work = units_of_work
        self._clock = clock

    def answer(self, key: RequestKey) -> Answer | None:
        """Tell how a request was answered before. Raises Conflict when the key stands for another one."""
        with self._units_of_work() as uow:
            return uow.keys.answer(key.value, key.fingerprint, now=self._clock.now())

    def remember(self, key: RequestKey, answer: Answer) -> None:
        """Keep how a request was answered."""
        if len(answer.body) > MOST_CHARACTERS:
            return
        with self._units_of_work() as uow:
            uow.keys.remember(key.value, answer)
            uow.commit()

    @contextmanager
    def begun(self, key: RequestKey | None) -> Iterator[None]:
        """Take a key for something that is no transaction, like talking to a peer; a refusal leaves it free.

        Raises Conflict.
        """
        if key is None:
            yield
            return
        with self._units_of_work() as uow:
            if is_repeat(uow, key, now=self._clock.now()):
                raise Conflict("The same request is still being answered, or its answer was lost.")
            uow.commit()
        try:
            yield
        except BrokerError as error:
            if error.http_status < _OURS:
                # It has changed nothing; what failed in between may have.
                with self._units_of_work() as uow:
                    uow.keys.give_back(key.value)
                    uow.commit()
            raise


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
