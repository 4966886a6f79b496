"""Receiving images of 0.5 and 50 MB. We answer when file and row are synced to disk; the others before that."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

from broker.dicom.network.client import Proposal, open_association
from broker.domain.uids import uid_of
from tests.performance.measuring import OURS, Measured, Reported, Size, in_turn
from tests.performance.parties import AE_TITLE, Ours, dcmtk, orthanc
from tests.storage_listener import CT, EXPLICIT, a_data_set

SMALL_BYTES, BIG_BYTES = 512 * 1024, 50_000_000
OBJECTS, BIG_OBJECTS, ROUNDS, BIG_ROUNDS = 200, 4, 5, 3
NOT_SYNCED = "ours, not synced (for comparison)"
DISK = "this disk, one thread (create, sync, rename)"


def receiving(folder: Path) -> Iterator[Reported]:
    """Push images on one and on four associations, and large ones; beside it what the disk alone can do."""
    ours, unsynced = Ours(folder / "ours"), Ours(folder / "unsynced")
    received = folder / "received"
    received.mkdir()
    with ExitStack() as stack:
        stack.enter_context(ours.listening())
        stack.enter_context(unsynced.listening(synced=False))
        ports = {
            OURS: ours.port,
            NOT_SYNCED: unsynced.port,
            "DCMTK storescp (not synced)": stack.enter_context(
                dcmtk("storescp", "--fork", "-pdu", "131072", "+B", "-od", received)
            ),
            "Orthanc (not synced)": stack.enter_context(orthanc(folder / "orthanc")),
        }
        pool = stack.enter_context(ProcessPoolExecutor(4, mp_context=get_context("spawn")))
        list(pool.map(_ready, range(8)))
        for associations in (1, 4):
            parties = {
                name: lambda port=port, associations=associations: _push(pool, port, associations, received)
                for name, port in ports.items()
            }
            parties[DISK] = lambda: _disk(folder / "disk")
            yield from _compared(
                in_turn(
                    f"receive 0.5 MB objects, {associations} association{'s' * (associations > 1)}",
                    "objects/s",
                    parties,
                    rounds=ROUNDS,
                )
            )
        for one in (ours, unsynced):
            Path(f"/proc/{one.pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        peaks_before = [_peak_mib(one.pid) for one in (ours, unsynced)]
        yield from _compared(
            in_turn(
                "receive 50 MB objects, 1 association",
                "objects/s",
                {
                    name: lambda port=port: _push(pool, port, 1, received, count=BIG_OBJECTS, size=BIG_BYTES)
                    for name, port in ports.items()
                },
                rounds=BIG_ROUNDS,
            )
        )
        for who, one, before in zip((OURS, NOT_SYNCED), (ours, unsynced), peaks_before, strict=True):
            grown = _peak_mib(one.pid) - before
            yield Size("receive 50 MB objects, growth of peak memory (RSS)", who, grown, "MiB", "flat")


def _compared(measured: Measured) -> Iterator[Measured]:
    """Answer our figures beside everybody's, and those without syncs beside the peers that do not sync."""
    yield measured
    rounds = {OURS: measured.rounds[NOT_SYNCED]}
    rounds |= {who: values for who, values in measured.rounds.items() if who.endswith("(not synced)")}
    yield Measured(f"{measured.work}, nobody syncs", measured.unit, rounds)


def _peak_mib(pid: int) -> float:
    """Answer the largest resident memory a process has ever had."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


def _ready(_: int) -> None:
    """Start the pool's processes before the clock does."""
    time.sleep(0.05)


def _push(
    pool: ProcessPoolExecutor,
    port: int,
    associations: int,
    received: Path,
    *,
    count: int = OBJECTS,
    size: int = SMALL_BYTES,
) -> float:
    each = count // associations
    began_s = time.perf_counter()
    list(pool.map(push, [port] * associations, [each] * associations, [size] * associations))
    took_s = time.perf_counter() - began_s
    shutil.rmtree(received)
    received.mkdir()
    return each * associations / took_s


def push(port: int, count: int, size: int = SMALL_BYTES) -> None:
    """Push new images of one series on one association."""
    study, placeholder = uid_of(uuid4()), uid_of(uuid4())
    template = a_data_set(placeholder, study=study, series=f"{study[:60]}.1", pixels=_pixels(size))
    at = template.index(placeholder.encode())
    data = bytearray(template)
    with open_association(
        "127.0.0.1",
        port,
        calling_ae_title="CT01",
        called_ae_title=AE_TITLE,
        contexts=[Proposal(CT, (EXPLICIT,))],
    ) as association:
        for number in range(count):
            uid = f"{placeholder[:-4]}{number:04}"
            data[at : at + len(uid)] = uid.encode()
            reply = association.store(sop_class_uid=CT, sop_instance_uid=uid, context=EXPLICIT, payload=data)
            if reply.status:
                raise AssertionError(f"C-STORE was answered {reply.status:04X}")


@cache
def _pixels(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


def _disk(folder: Path) -> float:
    """Write the same bytes durably, one file after the other, with nothing around it."""
    folder.mkdir()
    began_s = time.perf_counter()
    for number in range(OBJECTS):
        handle = os.open(folder / "part", os.O_CREAT | os.O_WRONLY)
        os.write(handle, _pixels(SMALL_BYTES))
        os.fdatasync(handle)
        os.close(handle)
        (folder / "part").rename(folder / str(number))
        parent = os.open(folder, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)
    took_s = time.perf_counter() - began_s
    shutil.rmtree(folder)
    return OBJECTS / took_s
