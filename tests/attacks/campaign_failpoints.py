"""kill -9 at every failpoint: in each round one of each role, so that four roles die and come back at once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.failpoints import FAILPOINTS
from tests.attacks.campaign_site import IMAGES, MESSAGES, PATIENCE_S, REPORTS, SENDING, SENT, Counts, Siege
from tests.broker_process import wait_until

ROLES = {
    "hl7": ("hl7.", "wake_up."),
    "dicom": ("mpps.", "cstore."),
    "worker": ("route.", "deliver.", "settle."),
    "sweep": ("sweep.", "seal."),
}
"""Whose failpoints these are as a rule: the sweep also sends, and everybody wakes."""
WORK = {"hl7": (MESSAGES,), "dicom": (IMAGES, REPORTS), "worker": (SENT,), "sweep": (SENT,)}
"""What goes on when a role serves again."""
NAMES = {role: [name for name in FAILPOINTS if name.startswith(areas)] for role, areas in ROLES.items()}
STARTS = [name for name in FAILPOINTS if name.startswith("start.")]
LIVES_S = 5.3
"""A role that dies younger is started again later each time: a fault a second would test the supervisor's patience."""


def decks(chance: random.Random) -> dict[str, Iterator[str]]:
    """Answer for each role all its failpoints, shuffled, over and over."""

    def deck(role: str) -> Iterator[str]:
        while True:
            names = list(NAMES[role])
            chance.shuffle(names)
            yield from names

    return {role: deck(role) for role in NAMES}


@dataclass(slots=True)
class _Kill:
    """One armed failpoint, and what came of it."""

    siege: Siege
    role: str
    path: Path
    fired_s: float | None = None
    before: Counts = ()
    is_over: bool = False

    def look(self, now_s: float) -> None:
        """Note that it has fired, and then that its role does its work again."""
        if self.fired_s is None:
            if not self.path.exists():
                self.fired_s, self.before = now_s, self.siege.counts()
        elif not self.is_over and self.siege.goes_on(WORK[self.role], self.before):
            self.is_over = True
            is_listener = self.role in ("hl7", "dicom")
            times = self.siege.seen.answering_s if is_listener else self.siege.seen.sending_s
            times.append(now_s - self.fired_s)


def play_round(sieges: Sequence[Siege], hands: dict[str, Iterator[str]]) -> set[str]:
    """Arm one failpoint of each role in every broker, wait for all of them, and until all serve again."""
    kills = [
        _Kill(siege, role, arms / next(hand))
        for siege in sieges
        for arms in siege.armed
        for role, hand in hands.items()
    ]
    for kill in kills:
        kill.path.touch()
    began_s = time.monotonic()
    until_s = began_s + PATIENCE_S
    while not all(kill.is_over for kill in kills) and time.monotonic() < until_s:
        time.sleep(0.01)
        for kill in kills:
            kill.look(time.monotonic())
    for kill in kills:
        _note(kill)
    last_s = max((kill.fired_s for kill in kills if kill.fired_s is not None), default=began_s)
    time.sleep(max(0.0, last_s + LIVES_S - time.monotonic()))
    return {kill.path.name for kill in kills if kill.fired_s is not None}


def _note(kill: _Kill) -> None:
    seen, name = kill.siege.seen, kill.path.name
    if kill.fired_s is None:
        kill.path.unlink(missing_ok=True)
        seen.findings.append(f"nobody came by {name}")
        return
    seen.faults += 1
    kill.siege.ledger.crash(
        name, sending=SENDING if kill.role in ("worker", "sweep") or "wake" in name else 0
    )
    if not kill.is_over:
        seen.findings.append(f"killed at {name}: its work did not go on within {PATIENCE_S:.0f} s")


def kill_at_start(siege: Siege, name: str) -> None:
    """Kill everything, and what starts once more on its way."""
    running = siege.broker
    siege.ledger.crash(name, sending=SENDING)
    running.kill()
    (siege.armed[0] / name).touch()
    killed_s = time.monotonic()
    running.launch()
    if name == "start.after_migration":  # serve itself dies: whoever keeps it running starts it again
        running.process.wait(PATIENCE_S)
        running.launch()
    else:
        wait_until(lambda: not (siege.armed[0] / name).exists(), timeout_s=PATIENCE_S, what=name)
    siege.seen.faults += 1
    siege.serves_again(killed_s, what=f"killed at {name}")
