"""`broker serve`: every role in one command, as forked processes that are restarted when they die.

The parent stays single-threaded and imports what the roles share before it forks, so that the whole embedded
system shares those pages and starts in about a second. It waits in the kernel for signals, never polls.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from broker.signals import block, wait_for

_PR_SET_PDEATHSIG = 1
_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_MIN_LIFE_S = 5.0
_MAX_PAUSE_S = 10.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Role:
    """One process of the broker."""

    name: str
    run: Callable[[], int]
    """Runs until SIGTERM; answers the exit code."""
    is_replaceable: bool = True
    """Starts anew when the configuration is reloaded."""
    niceness: int = 0
    """How far it steps back while others want the processor."""


@dataclass(slots=True)
class _Child:
    role: Role
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    restart_at: float | None = field(default=0.0)
    is_leaving: bool = False
    """Told to end because of a reload."""


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent is gone, so that no role outlives its supervisor."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)  # it went before we asked


class Supervisor:
    """Keeps roles alive until told to stop."""

    def __init__(self, roles: Sequence[Role], *, grace_s: float = 25.0) -> None:
        """Take the roles in their starting order; `grace_s` is what they get after SIGTERM."""
        self._children = [_Child(role) for role in roles]
        self._grace_s = grace_s

    def run(
        self,
        *,
        starting: Callable[[], bool] = lambda: False,
        reload: Callable[[], bool] = lambda: False,
        died: Callable[[str, int], None] = lambda _role, _pid: None,
    ) -> int:
        """Start everything, restart what dies, stop everything on SIGTERM or SIGINT. Answers the exit code.

        `starting` is asked until it answers False. On SIGHUP `reload` is asked, and when it answers True every
        role ends in order and starts anew. `died` hears the name and process of a role that ended by itself.
        """
        before = block(_WATCHED)
        try:
            self._start_due(before)
            is_starting = True
            while True:
                is_starting = is_starting and starting()
                received = wait_for(_WATCHED, self._wait_s(at_most_s=0.1 if is_starting else 3600.0))
                if received in {signal.SIGTERM, signal.SIGINT}:
                    break
                if received == signal.SIGHUP and reload():
                    self._replace_all()
                self._reap(died)
                self._start_due(before)
            return self._stop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait_s(self, *, at_most_s: float) -> float:
        due = [child.restart_at for child in self._children if child.restart_at is not None]
        return min(at_most_s, max(0.0, min(due) - time.monotonic())) if due else at_most_s

    def _start_due(self, mask: set[int | signal.Signals]) -> None:
        for child in self._children:
            if child.restart_at is not None and child.restart_at <= time.monotonic():
                child.pid = _fork(child.role, mask)
                child.started, child.restart_at = time.monotonic(), None
                log.info("role started", started_role=child.role.name, child=child.pid)

    def _reap(self, died: Callable[[str, int], None]) -> None:
        """Collect the dead and say when each starts again: at once, then slower while it keeps dying young."""
        for child in self._children:
            if not child.pid or child.restart_at is not None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            if child.is_leaving:
                child.pid, child.is_leaving, child.restart_at = 0, False, time.monotonic()
                continue
            lived_s = time.monotonic() - child.started
            child.failures = 0 if lived_s > _MIN_LIFE_S else child.failures + 1
            pause_s = min(_MAX_PAUSE_S, 0.25 * 2**child.failures) if child.failures else 0.1
            child.pid, child.restart_at = 0, time.monotonic() + pause_s
            log.error(
                "role died",
                died_role=child.role.name,
                child=pid,
                code=os.waitstatus_to_exitcode(status),
                lived_s=round(lived_s, 1),
                restart_in_s=pause_s,
            )
            died(child.role.name, pid)

    def _replace_all(self) -> None:
        """Let every role that can be replaced end in order; it starts anew as soon as it has."""
        for child in self._children:
            if child.pid and child.role.is_replaceable:
                child.is_leaving = True
                os.kill(child.pid, signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.pid:
                os.kill(child.pid, number)

    def _stop(self) -> int:
        log.info("stopping")
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        while any(child.pid for child in self._children):
            for child in self._children:
                if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            if any(child.pid for child in self._children):
                wait_for({signal.SIGCHLD}, min(left_s, 0.25))
        late = [child for child in self._children if child.pid]
        for child in late:
            log.error("role killed", killed_role=child.role.name, child=child.pid)
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        log.info("stopped")
        return 1 if late else 0


def _fork(role: Role, mask: set[int | signal.Signals]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        die_with_parent(parent)
        for number in _WATCHED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.nice(role.niceness)
        code = role.run()
    except KeyboardInterrupt:
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        log.exception("role failed", failed_role=role.name)
    finally:
        os._exit(code)
