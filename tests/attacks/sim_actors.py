"""Threads of a simulated process: each stops between any two steps, and goes on, fails or dies when told."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from greenlet import getcurrent, greenlet


class Order(Enum):
    """What becomes of an actor at the step it stands at."""

    GO = "go"
    CRASH = "crash"
    NO_DATABASE = "no database"


class Crash(BaseException):
    """The process dies here: nothing that handles errors may handle this."""


class Actor:
    """Does one job, step by step."""

    def __init__(self, job: Callable[[], object]) -> None:
        self._greenlet = greenlet(self._run)
        self._job = job
        self.at = "start"
        self.is_sending = False
        """The peer may have something that no row says yet."""
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self._greenlet.dead

    def go(self, order: Order = Order.GO) -> None:
        """Let it take one step. Raises what the job raised."""
        self._greenlet.actor = self
        if self.at == "start" and order is Order.CRASH:
            self._greenlet = _dead()
            return
        self._greenlet.parent = getcurrent()
        self._greenlet.switch(order)
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _run(self, order: Order) -> None:
        try:
            self._job()
        except Crash:
            return
        except BaseException as error:
            self.error = error


def _dead() -> greenlet:
    ended = greenlet(lambda: None)
    ended.switch()
    return ended


def current() -> Actor | None:
    """Answer who is acting; None outside of every actor."""
    return getattr(getcurrent(), "actor", None)


def pause(at: str) -> Order:
    """Stop here until told to go on; outside of an actor nothing stops. Raises Crash."""
    running = getcurrent()
    actor = getattr(running, "actor", None)
    if actor is None:
        return Order.GO
    actor.at = at
    order = running.parent.switch()
    if order is Order.CRASH:
        raise Crash
    return order
