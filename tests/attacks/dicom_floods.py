"""Attacks by quantity: W6 to W11, W21 and W23 of the weaknesses."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
import zlib
from pathlib import Path

from tests.attacks.dicom_silence import HUGE, Seen
from tests.attacks.dicom_target import MIB, Target
from tests.attacks.dicom_wire import (
    C_FIND,
    COMMAND,
    ECHO,
    FIND,
    IMAGE,
    IMAGE_DEFLATED,
    LAST,
    MPPS,
    N_EVENT_REPORT,
    STEP,
    VERIFICATION,
    WORKLIST,
    associate,
    command,
    context,
    explicit,
    find,
    image,
    implicit,
    p_data,
    pdv,
    store,
    store_command,
)
from tests.attacks.dicom_wire import IMPLICIT as IMPLICIT_VR

MOST_MORE = 48 * MIB
"""What an attack may add to the memory of the process: a few buffers, and what malloc keeps."""
MOST_MORE_FOR_A_LIST = 128 * MIB
"""The same for an answer of 30,000 entries, whose keys are read before the first is sent."""
PIECE = bytes(16_000)


def grown(target: Target, before: int) -> tuple[int, str]:
    """Answer how much the memory of a target rose at its highest, also in words."""
    more = max(target.figures().peak - before, 0)
    return more, f"memory +{more / MIB:.0f} MiB"


def amount(target: Target, *, long: int, short: int) -> int:
    return (long if target.long or not target.is_ours else short) * MIB


# ── W6 ──────────────────────────────────────────────────────────────────────────────────────────────────


def four_gib_p_data(target: Target) -> Seen:
    """Announce a P-DATA-TF of 4 GiB to a peer that offered to take 16 KiB, and send it."""
    before, wanted = target.figures().resident, amount(target, long=200, short=64)
    with target.call() as caller:
        caller.associate().send(struct.pack(">BBIIBB", 4, 0, HUGE, HUGE - 4, IMAGE, COMMAND))
        taken = caller.push(bytes(MIB), wanted)
        more, told = grown(target, before)
    return Seen(
        taken < wanted and more < MOST_MORE, f"{taken // MIB} of {wanted // MIB} MiB were taken, {told}"
    )


# ── W7, W8 ──────────────────────────────────────────────────────────────────────────────────────────────


def endless_data_set(target: Target) -> Seen:
    """Send data set fragments of which none is the last: an image, then a query."""
    before, wanted, known = target.figures().resident, amount(target, long=200, short=64), _files_of(target)
    chunk = p_data(IMAGE, 0, PIECE) * 16
    with target.call() as caller:
        head = image("1.2.3.7", 0, claims=HUGE)
        caller.associate().send(
            p_data(IMAGE, COMMAND | LAST, store_command(b"1.2.3.7")), p_data(IMAGE, 0, head)
        )
        images = caller.push(chunk, wanted)
        more_image, _told = grown(target, before)
        left = _files_of(target) - known
        caller.reset()
    chunk = p_data(FIND, 0, PIECE) * 16
    with target.call() as caller:
        asked = command(C_FIND, data_set=True, sop_class=WORKLIST.encode())
        caller.associate().send(p_data(FIND, COMMAND | LAST, asked))
        queries = caller.push(chunk, wanted)
        more, _told = grown(target, before)
    gone = _gone(left, 5.0)
    said = (
        f"{images // MIB} MiB of an image: memory +{more_image / MIB:.0f} MiB; {queries // MIB} MiB of a query: "
        f"+{more / MIB:.0f} MiB; {len(left)} half files, {len(left) - gone} left after the reset"
    )
    return Seen(more < MOST_MORE and gone == len(left), said, cases=2)


def _files_of(target: Target) -> set[Path]:
    return {path for path in target.folder.rglob("*") if path.is_file() and path.stat().st_size > MIB * 8}


def _gone(files: set[Path], within_s: float) -> int:
    deadline = time.monotonic() + within_s
    while any(path.exists() for path in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sum(1 for path in files if not path.exists())


def endless_command(target: Target) -> Seen:
    """Send command fragments of which none is the last."""
    before, wanted = target.figures().resident, amount(target, long=100, short=32)
    with target.call() as caller:
        caller.associate()
        taken = caller.push(p_data(ECHO, COMMAND, PIECE) * 16, wanted)
        more, told = grown(target, before)
        ending = caller.ending(target.patience_s)
    held = taken < wanted and more < MOST_MORE and ending.is_end
    return Seen(held, f"{taken // MIB} of {wanted // MIB} MiB were taken, {told}; {ending}")


# ── W9 ──────────────────────────────────────────────────────────────────────────────────────────────────


def pipelined_stores(target: Target) -> Seen:
    """Send one C-STORE behind the other without reading an answer; then read them all."""
    count = 150 if target.long or not target.is_ours else 16
    before = target.figures().resident
    uids = [f"1.2.826.0.1.9.{number}" for number in range(1, count + 1)]
    with target.call() as caller:
        caller.associate()

        def send_all() -> None:
            with contextlib.suppress(OSError):
                for uid in uids:
                    caller.sock.sendall(b"".join(store(uid, image(uid, MIB))))

        sender = threading.Thread(target=send_all, daemon=True)
        sender.start()
        sender.join(target.deadline_s / 2)
        answered = 0
        with contextlib.suppress(OSError):
            while answered < count and caller.status(60.0) == 0:
                answered += 1
        sender.join(5.0)
        more, told = grown(target, before)
    return Seen(
        more < MOST_MORE and answered == count, f"{answered} of {count} answered, {told}", cases=count
    )


# ── W10 ─────────────────────────────────────────────────────────────────────────────────────────────────


def answers_not_read(target: Target) -> Seen:
    """Ask for 30,000 worklist entries and read none."""
    resting = target.resting()
    before_s = target.cpu_s()
    keys = implicit(0x0010, 0x0010, b"") + implicit(0x0010, 0x0020, b"") + implicit(0x0032, 0x1060, b"")
    with target.call(receive_buffer=4096) as caller:
        caller.associate().send(find(keys))
        began_s = time.monotonic()
        time.sleep(0.5)
        now = target.returned(resting, within_s=2 * target.deadline_s + 3 * target.slack_s)
        took_s = time.monotonic() - began_s
        more, told = grown(target, resting.resident)
        cpu_s = target.cpu_s() - before_s
    ended = now.files <= resting.files
    said = f"{'ended' if ended else 'still there'} after {took_s:.0f} s, {told}, {cpu_s:.1f} s of processor"
    return Seen(ended and more < MOST_MORE_FOR_A_LIST, said)


# ── W11 ─────────────────────────────────────────────────────────────────────────────────────────────────


def event_reports(target: Target) -> Seen:
    """Send 300 N-EVENT-REPORT requests, which is not the requestor's to send."""
    count = 300
    resting = target.figures().threads
    asked = command(N_EVENT_REPORT, sop_class=MPPS.encode(), instance=b"1.2.3.11")
    most = 0
    with target.call() as caller:
        caller.associate()
        with contextlib.suppress(OSError):
            caller.send(*[p_data(STEP, COMMAND | LAST, asked) for _ in range(count)])
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            most = max(most, target.figures().threads - resting)
            time.sleep(0.01)
        answer = caller.answer(target.patience_s)
    return Seen(
        most <= 16 and answer == "0211", f"{most} threads more, the first was answered {answer}", cases=count
    )


# ── W21 ─────────────────────────────────────────────────────────────────────────────────────────────────


def thousands_of_contexts(target: Target) -> Seen:
    """Propose 20,000 presentation contexts with ids used many times, then 3,000 within the size allowed."""
    said, held = [], True
    for count in (20_000, 3_000):
        proposed = b"".join(context(1 + 2 * (n % 128), VERIFICATION, IMPLICIT_VR) for n in range(count))
        before_s = target.cpu_s()
        with target.call() as caller:
            with contextlib.suppress(OSError):
                caller.send(associate(contexts=proposed))
            ending = caller.ending(target.patience_s)
        spent_s = target.cpu_s() - before_s
        held = held and ending.is_end and spent_s < 0.5
        how = "accepted" if not ending.is_end else ending.how
        said.append(f"{count:,} contexts: {how}, {spent_s:.2f} s of processor")
    return Seen(held, "; ".join(said), cases=2)


# ── W23 ─────────────────────────────────────────────────────────────────────────────────────────────────


def deflate_bomb(target: Target) -> Seen:
    """Send an image of 300 KB that inflates to 300 MiB."""
    size = (300 if target.long or not target.is_ours else 100) * MIB
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    filler = explicit(0x0008, 0x0070, "LO", b"X") * 4
    bomb = squeeze.compress(image("1.2.3.23", 0, before=filler, claims=size))
    for _ in range(size // MIB):
        bomb += squeeze.compress(bytes(MIB))
    bomb += squeeze.flush()
    before = target.figures().resident
    with target.call() as caller:
        caller.associate().send(*store("1.2.3.23", bomb, number=IMAGE_DEFLATED))
        answer = caller.answer(30.0)
        more, told = grown(target, before)
    said = f"{len(bomb) // 1000} KB that inflate to {size // MIB} MiB: {answer}, {told}"
    return Seen(more < MOST_MORE and len(answer) == 4, said)


def many_pdvs(target: Target) -> Seen:
    """Fill PDUs with command fragments of one byte: 100,000 PDVs must not cost seconds."""
    inside = b"".join(pdv(ECHO, COMMAND, b"\0") for _ in range(2_000))
    whole = struct.pack(">BBI", 4, 0, len(inside)) + inside
    before_s = target.cpu_s()
    with target.call() as caller:
        caller.associate()
        taken = caller.push(whole, 50 * len(whole))
        ending = caller.ending(target.patience_s)
    spent_s = target.cpu_s() - before_s
    said = f"{taken // 7:,} PDVs sent, {spent_s:.2f} s of processor; {ending}"
    return Seen(ending.is_answered and spent_s < 2.0, said, cases=100_000)
