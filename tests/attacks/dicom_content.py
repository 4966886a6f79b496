"""Attacks by what is said: W16 to W20, W22 and W24 to W26 of the weaknesses."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

from tests.attacks.dicom_silence import Seen, an_echo, endings_of, summary
from tests.attacks.dicom_target import Target
from tests.attacks.dicom_wire import (
    CANARY,
    COMMAND,
    ECHO,
    IMAGE,
    LAST,
    MPPS,
    N_CREATE,
    N_SET,
    STEP,
    associate,
    command,
    echo_request,
    find,
    image,
    implicit,
    nested_query,
    nested_sequence,
    p_data,
    pdu,
    pdv,
    store,
)
from tests.broker_process import BROKER, ROOT
from tests.ports import free_port

ELSEWHERE = f"/tmp/escaped-{os.getpid()}"
HOSTILE_UIDS = (
    b"../../escaped",
    ELSEWHERE.encode(),
    b'1.2.3\n{"event": "forged"}',
    b"1.2.3\x1b[31mred",
    b"1.2\x003",
    b"<script>alert(1)</script>",
    b"1.2.3'; DROP TABLE instance; --",
    b"1..2",
    b".1.2",
    b"1." * 40 + b"1",
)


# ── W16, W17 ────────────────────────────────────────────────────────────────────────────────────────────


def broken_rules(target: Target) -> Seen:
    """Break PS3.8 in ways that even a bare AE answers: kept so that they stay answered."""
    fresh = [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
        bytes(range(0x42, 0x82)),
        echo_request(),
    ]
    inside = [
        pdu(4, struct.pack(">IBB", 0, ECHO, 3)),
        pdu(4, struct.pack(">IBB", 5000, ECHO, 3) + bytes(10)),
        p_data(IMAGE, LAST, image("1.2.3")),
        associate(),
        pdu(4, pdv(99, COMMAND | LAST, command(0x30, sop_class=b"1.2"))),
    ]
    with contextlib.ExitStack() as open_ones:
        callers = []
        for said in fresh:
            callers.append(open_ones.enter_context(target.call()))
            callers[-1].send(said)
        for said in inside:
            callers.append(open_ones.enter_context(target.call()))
            callers[-1].associate().send(said)
        endings = endings_of(callers, target.patience_s)
    held = all(ending.is_end for ending in endings) and (
        not target.is_ours or all(ending.is_answered for ending in endings)
    )
    return Seen(held, summary(endings), cases=len(endings))


def broken_commands(target: Target) -> Seen:
    """Break PS3.7: each must be answered with an A-ABORT, not with a connection that is gone."""
    without_field = command(None, sop_class=b"1.2.840.10008.1.1")
    broken = [
        pdu(4, struct.pack(">IBB", 1, ECHO, COMMAND | LAST)),
        p_data(ECHO, COMMAND | LAST, b""),
        p_data(ECHO, COMMAND | LAST, bytes(range(0x42, 0x6A))),
        p_data(ECHO, COMMAND | LAST, without_field),
        p_data(ECHO, COMMAND | LAST, struct.pack("<HHI", 0, 0x0100, 0xFFFFFFF0)),
        p_data(ECHO, COMMAND | LAST, command(0x7777, sop_class=b"1.2.840.10008.1.1")),
    ]
    with contextlib.ExitStack() as open_ones:
        callers = []
        for said in broken:
            callers.append(open_ones.enter_context(target.call()))
            callers[-1].associate().send(said)
        endings = endings_of(callers, target.patience_s)
    return Seen(all(ending.is_answered for ending in endings), summary(endings), cases=len(broken))


# ── W18, W19, W22 ───────────────────────────────────────────────────────────────────────────────────────


def empty_uids(target: Target) -> Seen:
    """Send requests whose instance has no UID."""
    asked = [
        b"".join(store(b"", image(b""))),
        p_data(STEP, COMMAND | LAST, command(N_SET, requested_class=MPPS.encode(), requested=b"")),
    ]
    answers = []
    for one in asked:
        with target.call() as caller:
            caller.associate().send(one)
            answers.append(caller.answer(target.patience_s))
    return Seen(answers == ["0117", "0117"], f"C-STORE: {answers[0]}; N-SET: {answers[1]}", cases=2)


def hostile_uids(target: Target) -> Seen:
    """Name instances so that they would leave the store's folder, forge a log line or an SQL statement."""
    answers: list[str] = []
    known = _strays(target)
    for uid in HOSTILE_UIDS:
        for kind in range(3):
            if kind == 1 and b"\0" in uid:
                continue  # a value in a data set ends at a NUL, which some senders pad with
            with target.call() as caller:
                try:
                    caller.associate()
                    if kind == 0:
                        caller.send(*store(uid, image(uid)))
                    elif kind == 1:
                        caller.send(*store("1.2.3.19", image("1.2.3.19", study=uid)))
                    else:
                        asked = command(N_CREATE, data_set=True, sop_class=MPPS.encode(), instance=uid)
                        caller.send(
                            p_data(STEP, COMMAND | LAST, asked),
                            p_data(STEP, LAST, implicit(0x0010, 0x0010, CANARY.encode())),
                        )
                    answers.append(caller.answer(target.patience_s)[:4])
                except OSError:
                    answers.append("gone")
    escaped = _strays(target) - known
    for stray in escaped:
        stray.unlink()
    refused = all(answer in ("0117", "A900") for answer in answers)
    seen = {answer: answers.count(answer) for answer in sorted(set(answers))}
    told = ", ".join(f"{count}× {answer}" for answer, count in seen.items())
    said = f"{told}; {'a file was written outside the folder' if escaped else 'no file outside'}"
    return Seen(refused and not escaped, said, cases=len(answers))


def _strays(target: Target) -> set[Path]:
    """Find files named as the hostile UIDs say, near the target's folder and where an absolute path leads."""
    return {*target.folder.parent.parent.rglob("escaped*"), *Path("/tmp").glob(Path(ELSEWHERE).name + "*")}


def deep_nesting(target: Target) -> Seen:
    """Nest sequences 1,000 deep in a query and in an image, without lengths."""
    depth = 1_000
    answers = []
    for asked in (
        find(nested_query(depth)),
        b"".join(store("1.2.3.22", image("1.2.3.22", before=nested_sequence(depth)))),
    ):
        with target.call() as caller:
            caller.associate().send(asked)
            answers.append(caller.answer(target.patience_s))
    held = answers[0] == "A900" and answers[1] in ("C000", "0000")
    return Seen(held, f"{depth:,} levels: C-FIND {answers[0]}, C-STORE {answers[1]}", cases=2)


def hostile_keys(target: Target) -> Seen:
    """Ask the worklist with what is no date, no UID, no character set, and 60 KB of wildcards."""
    keys = [
        implicit(0x0010, 0x0010, b"*" * 60_000),
        implicit(0x0010, 0x0010, b"%_\\'\";--" + CANARY.encode()),
        implicit(0x0008, 0x0005, b"\x1b$)C\\evil") + implicit(0x0010, 0x0010, CANARY.encode()),
        implicit(
            0x0040,
            0x0100,
            struct.pack("<HHI", 0xFFFE, 0xE000, 18) + implicit(0x0040, 0x0002, b"99999999--"),
        ),
        implicit(
            0x0040,
            0x0100,
            struct.pack("<HHI", 0xFFFE, 0xE000, 16) + implicit(0x0040, 0x0002, b"tomorrow"),
        ),
        struct.pack("<HHI", 0x0010, 0x0010, 0xFFFFFFF0),
        bytes(range(0x42, 0xFA)),
    ]
    answers = []
    for one in keys:
        with target.call() as caller:
            caller.associate().send(find(one))
            answers.append(caller.answer(target.patience_s))
    held = all(answer in ("0000", "A900", "C103", "FF00") for answer in answers)
    return Seen(held, ", ".join(answers), cases=len(keys))


# ── W20, W24 ────────────────────────────────────────────────────────────────────────────────────────────


def strangers(target: Target) -> Seen:
    """Call under wrong names, and speak another application context."""
    wrong = [
        ("1/1/7", {"called": b"SOMEBODY"}),
        ("1/1/3", {"calling": b"STRANGER"}),
        ("1/1/2", {"application": "1.2.3.4"}),
        ("1/1/3", {"calling": b""}),
        ("1/1/3", {"calling": b"CT1\n{forged}"}),
        ("1/1/3", {"calling": b"\x1b[31mCT1"}),
        ("1/1/7", {"called": b"../../../etc"}),
    ]
    told, held = [], True
    for reason, said in wrong:
        with target.call() as caller:
            caller.send(associate(**said))
            try:
                kind, body = caller.next_pdu(target.patience_s)
                how = "accepted" if kind == 2 else "{}/{}/{}".format(*body[1:4]) if kind == 3 else "A-ABORT"
            except OSError:
                how = "closed"
        told.append(how)
        held = held and how == reason
    counted = ", ".join(f"{told.count(how)}× {how}" for how in dict.fromkeys(told))
    return Seen(held, counted, cases=len(wrong))


def tiny_pdus(target: Target) -> Seen:
    """Take answers only in PDUs of 1 to 64 bytes."""
    sizes = (1, 2, 6, 7, 8, 16, 64)
    told = []
    for size in sizes:
        with target.call() as caller:
            caller.send(associate(max_pdu=size))
            try:
                kind, _body = caller.next_pdu(target.patience_s)
                if kind == 2:
                    caller.send(find(implicit(0x0010, 0x0010, b"NOBODY")))
                    kind, body = caller.next_pdu(target.patience_s)
                    told.append(f"{size}: PDUs of {len(body)} bytes" if kind == 4 else f"{size}: A-ABORT")
                else:
                    told.append("rejected")
            except OSError:
                told.append(f"{size}: closed")
    counted = ", ".join(
        f"{told.count(how)}× {how}" if told.count(how) > 1 else how for how in dict.fromkeys(told)
    )
    return Seen(told == ["rejected"] * len(sizes), counted, cases=len(sizes))


# ── W25, W26 ────────────────────────────────────────────────────────────────────────────────────────────


def resets(target: Target) -> Seen:
    """Reset the connection in the middle of a PDU, at twenty places."""
    whole = associate() + b"".join(store("1.2.3.25", image("1.2.3.25", 20_000)))
    for number in range(20):
        cut = 3 + number * len(whole) // 20
        caller = target.call()
        caller.send(whole[: len(associate())][:cut])
        if cut > len(associate()):
            caller.next_pdu(target.patience_s)
            caller.send(whole[len(associate()) : cut])
        caller.reset()
    echo_s = an_echo(target, 5.0)
    return Seen(
        echo_s is not None, "an echo afterwards is answered" if echo_s else "no echo afterwards", cases=20
    )


def optimized(target: Target) -> Seen:
    """Start it under `python -O`, where every check that is an `assert` is gone."""
    if not target.is_ours:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-O", "-m", "tests.attacks.dicom_bare", str(port), target.folder],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 20.0
            other = Target("127.0.0.1", port, process.pid, target.log, target.folder, is_ours=False)
            while (served := an_echo(other, 2.0)) is None and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        return Seen(
            served is None, "it starts and serves without its checks" if served else "it does not start"
        )
    done = [
        subprocess.run(
            arguments,
            env={**os.environ, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        for arguments, more in (
            ([sys.executable, "-O", BROKER, "serve"], {}),
            ([BROKER, "serve"], {"PYTHONOPTIMIZE": "1"}),
            ([sys.executable, "-O", "-m", "broker", "serve"], {}),
        )
    ]
    held = all(one.returncode not in (0, None) and "optimi" in one.stderr.lower() for one in done)
    codes = ", ".join(str(one.returncode) for one in done)
    return Seen(held, f"refused to start, exit codes {codes}", cases=len(done))
