"""Wait in the kernel for signals, for a time.

Not by `signal.sigtimedwait`: when it is interrupted after its time, as happens to a process that was stopped and
goes on (SIGSTOP, a debugger, a suspended machine), CPython answers a siginfo nobody filled in, which looks like any
signal, an order to end among them.
"""

from __future__ import annotations

import signal
from collections.abc import Set as AbstractSet

_SHORTEST_S = 1e-6
"""Zero would stop the timer instead of letting it fire at once."""


def block(signals: AbstractSet[signal.Signals]) -> set[int | signal.Signals]:
    """Block what will be waited for, before any thread exists; answer the mask there was."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, signals | {signal.SIGALRM})


def wait_for(signals: AbstractSet[signal.Signals], wait_s: float) -> signal.Signals | None:
    """Answer the blocked signal that came, None when none came in time or, rarely, a little earlier."""
    signal.setitimer(signal.ITIMER_REAL, max(wait_s, _SHORTEST_S))
    try:
        came = signal.Signals(signal.sigwait(signals | {signal.SIGALRM}))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None if came == signal.SIGALRM else came
