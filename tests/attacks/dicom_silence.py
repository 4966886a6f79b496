"""Attacks by saying nothing, or too little, or too slowly: W1 to W5 and W12 to W15 of the weaknesses."""

from __future__ import annotations

import contextlib
import itertools
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.attacks.dicom_target import Target
from tests.attacks.dicom_wire import (
    COMMAND,
    ECHO,
    IMAGE,
    LAST,
    VERIFICATION,
    Caller,
    Ending,
    associate,
    context,
    echo_request,
    p_data,
    store_command,
)
from tests.attacks.dicom_wire import IMPLICIT as IMPLICIT_VR

HUGE = 0xFFFFFFF0
DRIP_S = 0.2
GENTLE_S = 1.0
IDLE = 40
CPU_S = 3.0
MAX_IDLE_SHARE, SHORT_MAX_IDLE_SHARE = 0.08, 0.2
"""In the short form the first are ended while the last are looked at; a bare AE takes 0.3."""
"""Of one core, for all idle associations; the sentinel's own echoes need a few hundredths."""
COUNT_FLOOD = 1_000
FLOOD_S = 20.0
"""No longer than this: a bare AE lets a thousand wait for minutes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one attack."""

    held: bool
    said: str
    cases: int = 1


def an_echo(target: Target, within_s: float) -> float | None:
    """Answer how long a good peer waits for a C-ECHO; None when it is not answered, or refused."""
    began_s = time.monotonic()
    try:
        with target.call(timeout_s=within_s) as caller:
            caller.associate(contexts=context(ECHO, VERIFICATION, IMPLICIT_VR))
            caller.send(echo_request())
            return time.monotonic() - began_s if caller.status(within_s) == 0 else None
    except OSError:
        return None


def summary(endings: Iterable[Ending]) -> str:
    """Answer how connections ended, each way once, with the longest time."""
    longest: dict[str, tuple[int, float]] = {}
    for ending in endings:
        count, after_s = longest.get(ending.how, (0, 0.0))
        longest[ending.how] = count + 1, max(after_s, ending.after_s)
    return ", ".join(
        f"{count}× {'still ' if how == 'open' else ''}{how} after {after_s:.1f} s"
        for how, (count, after_s) in longest.items()
    )


def endings_of(callers: Iterable[Caller], within_s: float) -> list[Ending]:
    """Wait for the ends of connections that were all left alone at the same moment."""
    began_s = time.monotonic()
    found = []
    for caller in callers:
        ending = caller.ending(max(within_s - (time.monotonic() - began_s), 0.05))
        found.append(Ending(ending.how, time.monotonic() - began_s))
    return found


# ── W1 ──────────────────────────────────────────────────────────────────────────────────────────────────


def silent_on_tls(target: Target) -> Seen:
    """Connect to a TLS port and say nothing, or half a hello: others must get in meanwhile."""
    with contextlib.ExitStack() as open_ones:
        silent = [open_ones.enter_context(target.call(secured=False)) for _ in range(6)]
        for caller in silent[3:]:
            caller.send(b"\x16\x03\x01\x02")
        waited_s = an_echo(target, 3.0)
        endings = endings_of(silent, target.patience_s)
    waited = "others get no answer in 3 s" if waited_s is None else f"others wait {waited_s * 1000:.0f} ms"
    held = waited_s is not None and all(ending.is_end for ending in endings)
    return Seen(held, f"{waited}; {summary(endings)}", cases=6)


# ── W2, W4, W5 ──────────────────────────────────────────────────────────────────────────────────────────


def half_headers(target: Target) -> Seen:
    """Stop inside a PDU, before and after the association is there."""
    starts: list[tuple[bool, bytes]] = [
        (False, b"\x01\x00\x00"),
        (False, associate()[:40]),
        (True, b"\x04\x00\x00"),
        (True, echo_request()[:20]),
    ]
    with contextlib.ExitStack() as open_ones:
        callers = []
        for is_associated, said in starts:
            caller = open_ones.enter_context(target.call())
            if is_associated:
                caller.associate()
            caller.send(said)
            callers.append(caller)
        endings = endings_of(callers, target.patience_s)
    return Seen(all(ending.is_end for ending in endings), summary(endings), cases=len(starts))


def four_gib_header(target: Target) -> Seen:
    """Announce 4 GiB and stay silent, before and after the association is there."""
    with target.call() as newcomer, target.call() as associated:
        newcomer.send(struct.pack(">BBI", 1, 0, HUGE))
        associated.associate().send(struct.pack(">BBI", 4, 0, HUGE))
        endings = endings_of((newcomer, associated), target.patience_s)
    # Refused from the header alone: no deadline has to pass.
    held = all(ending.is_answered for ending in endings)
    return Seen(held, summary(endings), cases=2)


def slow_request(target: Target) -> Seen:
    """Send the association request byte by byte."""
    with target.call() as caller:
        ending = _drip(caller, (bytes((byte,)) for byte in associate()), DRIP_S, target.patience_s)
    return Seen(ending.is_end, f"one byte every {DRIP_S} s: {ending}")


def slow_fragments(target: Target) -> Seen:
    """Send a data set in fragments of one byte, each before the idle timer runs out."""
    with target.call() as caller:
        caller.associate().send(p_data(IMAGE, COMMAND | LAST, store_command(b"1.2.3.5")))
        pieces = itertools.repeat(p_data(IMAGE, 0, b"\x08"))
        ending = _drip(caller, pieces, GENTLE_S, target.patience_s + 2.0)
    return Seen(ending.is_end, f"a fragment of one byte every {GENTLE_S:.0f} s: {ending}")


def _drip(caller: Caller, pieces: Iterable[bytes], pause_s: float, within_s: float) -> Ending:
    began_s = time.monotonic()
    for piece in pieces:
        passed_s = time.monotonic() - began_s
        if passed_s > within_s:
            return Ending("open", passed_s)
        try:
            caller.send(piece)
        except OSError:
            return Ending("closed", passed_s)
        ending = caller.ending(pause_s)
        if ending.is_end:
            return Ending(ending.how, time.monotonic() - began_s)
    return Ending("open", time.monotonic() - began_s)


# ── W3, W12, W13 ────────────────────────────────────────────────────────────────────────────────────────


def ten_beginnings(target: Target) -> Seen:
    """Hold ten connections that have said three bytes, then thirty more that have said nothing."""
    times = []
    with contextlib.ExitStack() as open_ones:
        for count, said in ((10, b"\x01\x00\x00"), (30, b"")):
            for _ in range(count):
                open_ones.enter_context(target.call()).send(said)
            times.append(_retried(target, target.slack_s))
            time.sleep(target.deadline_s)
            times.append(_retried(target, target.slack_s))
    told = ", ".join(
        f"none in {target.slack_s:.0f} s" if one is None else f"{one * 1000:.0f} ms" for one in times
    )
    return Seen(None not in times, f"echoes meanwhile: {told}", cases=40)


def _retried(target: Target, within_s: float) -> float | None:
    """Ask as a modality does: again, when the rejection says that it may pass."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < within_s:
        if an_echo(target, within_s) is not None:
            return time.monotonic() - began_s
        time.sleep(0.05)
    return None


def idle_associations(target: Target) -> Seen:
    """Open associations and leave them alone: they must not cost processor time."""
    with contextlib.ExitStack() as open_ones:
        opened = 0
        for _ in range(IDLE):
            with contextlib.suppress(OSError):
                open_ones.enter_context(target.call()).associate()
                opened += 1
        threads, before_s, began_s = target.figures().threads, target.cpu_s(), time.monotonic()
        time.sleep(min(CPU_S, target.deadline_s * 0.75))  # before their idle timer ends them
        share = (target.cpu_s() - before_s) / (time.monotonic() - began_s)
    said = f"{opened} idle associations: {share:.0%} of a core, {threads} threads"
    return Seen(share <= (MAX_IDLE_SHARE if target.long else SHORT_MAX_IDLE_SHARE), said, cases=IDLE)


def idle_connections(target: Target) -> Seen:
    """Open a thousand connections and say nothing."""
    resting = target.resting()
    before_s, began_s = target.cpu_s(), time.monotonic()
    callers: list[Caller] = []
    try:
        for _ in range(COUNT_FLOOD):
            if time.monotonic() - began_s > FLOOD_S:
                break
            try:
                callers.append(target.call(timeout_s=5.0))
            except OSError:
                break
        opened_s = time.monotonic() - began_s
        peak = target.figures().threads - resting.threads
        remaining_s = max(target.patience_s - opened_s, target.slack_s)
        now = target.returned(resting, within_s=remaining_s)
        cpu_s = target.cpu_s() - before_s
        over = max(now.files - resting.files, 0)
    finally:
        for caller in callers:
            caller.sock.close()
    said = (
        f"{len(callers):,} connects in {opened_s:.1f} s, {over} still held {time.monotonic() - began_s:.0f} s "
        f"after the first, {cpu_s:.1f} s of processor, {peak} threads more"
    )
    held = len(callers) == COUNT_FLOOD and over <= 2 and peak <= 32 and cpu_s < 4.0
    return Seen(held, said, cases=len(callers))


# ── W14, W15 ────────────────────────────────────────────────────────────────────────────────────────────


def unknown_pdus(target: Target) -> Seen:
    """Begin with a PDU type that does not exist, with more bytes behind it; later say one inside an association."""
    unknown = struct.pack(">BBI", 0x42, 0, 4) + bytes(4)
    with target.call() as newcomer, target.call() as associated:
        newcomer.send(unknown)
        associated.associate().send(unknown)
        endings = endings_of((newcomer, associated), target.patience_s)
    held = all(ending.is_answered for ending in endings)
    return Seen(held, summary(endings), cases=2)


def empty_p_data(target: Target) -> Seen:
    """Send a P-DATA-TF without a PDV: an error, not a sign of life."""
    with target.call() as caller:
        caller.associate().send(struct.pack(">BBI", 4, 0, 0))
        ending = caller.ending(target.patience_s)
    # The provider's own reason, at once: an idle timer that runs out in the end gives another.
    return Seen(ending.how == "A-ABORT 2/6", str(ending))
