"""Tests a destination when a person asks for it: off the thread that answers, with a deadline, the result kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from broker.domain.events import Event, EventName, Subject
from broker.errors import BrokerError, Conflict
from broker.workflow.clock import Clock
from broker.workflow.destination_health import ask_again_now
from broker.workflow.destinations_port import CheckResult
from broker.workflow.unit_of_work import UnitsOfWork

DEADLINE_S = 60.0
"""Longer than a connection and an association together are waited for."""
MAX_AT_ONCE = 8

log = structlog.get_logger()
Check = Callable[[str], CheckResult]


class DestinationTests:
    """Runs tests in threads of their own: what a peer does not answer must not hold a page."""

    def __init__(
        self, units_of_work: UnitsOfWork, clock: Clock, check: Check, *, deadline_s: float = DEADLINE_S
    ) -> None:
        """Prepare; no thread runs before the first test."""
        self._units_of_work = units_of_work
        self._clock = clock
        self._check = check
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._running: set[str] = set()

    def start(self, name: str, *, actor: str) -> bool:
        """Begin a test, answer False when one of this destination runs already. Raises Conflict."""
        with self._lock:
            if name in self._running:
                return False
            if len(self._running) >= MAX_AT_ONCE:
                raise Conflict("Too many tests run at once; wait until one has ended.")
            self._running.add(name)
        try:
            self._keep(name, {"state": "running", "by": actor, "deadline_s": self._deadline_s})
            threading.Thread(target=self._run, args=(name, actor), name=f"test {name}", daemon=True).start()
        except BaseException:
            self._done(name)
            raise
        return True

    def _run(self, name: str, actor: str) -> None:
        found: list[CheckResult] = []
        talking = threading.Thread(
            target=lambda: found.append(self._ask(name)), name=f"ask {name}", daemon=True
        )
        try:
            talking.start()
            talking.join(self._deadline_s)
            late = CheckResult(
                ok=False, detail=f"no answer within {self._deadline_s:.0f} s", duration_s=self._deadline_s
            )
            self._keep_result(name, found[0] if found else late, actor)
        except BrokerError as error:
            # The database is away: the page says that the test has ended without a result.
            log.warning("result of a test not kept", destination=name, reason=str(error))
        finally:
            self._done(name)

    def _ask(self, name: str) -> CheckResult:
        try:
            return self._check(name)
        except Exception as error:  # a defect of a plug-in is a result, too
            return CheckResult(ok=False, detail=f"Internal error: {type(error).__name__}")

    def _keep(self, name: str, said: Mapping[str, object]) -> None:
        with self._units_of_work() as uow:
            uow.destinations.save_check(name, said, now=self._clock.now())
            uow.commit()

    def _keep_result(self, name: str, result: CheckResult, actor: str) -> None:
        took_s = round(result.duration_s, 3)
        said = {"state": "done", "by": actor, "ok": result.ok, "detail": result.detail, "duration_s": took_s}
        with self._units_of_work() as uow:
            if result.ok:
                ask_again_now(uow, name, now=self._clock.now())
            uow.destinations.save_check(name, said, now=self._clock.now())
            uow.record(
                Event(
                    EventName.DESTINATION_TESTED,
                    Subject.DESTINATION,
                    actor=actor,
                    details={
                        "destination": name,
                        "ok": result.ok,
                        "reason": result.detail,
                        "duration_s": took_s,
                    },
                )
            )
            uow.commit()

    def _done(self, name: str) -> None:
        with self._lock:
            self._running.discard(name)
