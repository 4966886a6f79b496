"""Receiving images of 0.5 MB. We answer when file and row are synced to disk; the others answer before that."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

from broker.dicom.network.client import Proposal, open_association
from broker.domain.uids import uid_of
from tests.performance.measuring import OURS, Measured, in_turn
from tests.performance.parties import AE_TITLE, Ours, dcmtk, orthanc
from tests.storage_listener import CT, EXPLICIT, a_data_set

PIXELS = bytes(range(256)) * 2048
OBJECTS, ROUNDS = 60, 5


def receiving(folder: Path) -> Iterator[Measured]:
    """Push images on one and on four associations; beside it what the disk alone can do."""
    ours = Ours(folder / "ours")
    received = folder / "received"
    received.mkdir()
    with ExitStack() as stack:
        stack.enter_context(ours.listening())
        ports = {
            OURS: ours.port,
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
            disk = {"this disk, one thread (create, sync, rename)": lambda: _disk(folder / "disk")}
            yield in_turn(
                f"receive 0.5 MB objects, {associations} association{'s' * (associations > 1)}",
                "objects/s",
                {**parties, **disk} if associations == 1 else parties,
                rounds=ROUNDS,
            )


def _ready(_: int) -> None:
    """Start the pool's processes before the clock does."""
    time.sleep(0.05)


def _push(pool: ProcessPoolExecutor, port: int, associations: int, received: Path) -> float:
    each = OBJECTS // associations
    began_s = time.perf_counter()
    list(pool.map(push, [port] * associations, [each] * associations))
    took_s = time.perf_counter() - began_s
    shutil.rmtree(received)
    received.mkdir()
    return each * associations / took_s


def push(port: int, count: int) -> None:
    """Push new images of one series on one association."""
    study, placeholder = uid_of(uuid4()), uid_of(uuid4())
    template = a_data_set(placeholder, study=study, series=f"{study[:60]}.1", pixels=PIXELS)
    at = template.index(placeholder.encode())
    with open_association(
        "127.0.0.1",
        port,
        calling_ae_title="CT01",
        called_ae_title=AE_TITLE,
        contexts=[Proposal(CT, (EXPLICIT,))],
    ) as association:
        for number in range(count):
            uid = f"{placeholder[:-4]}{number:04}"
            data = bytearray(template)
            data[at : at + len(uid)] = uid.encode()
            reply = association.store(sop_class_uid=CT, sop_instance_uid=uid, context=EXPLICIT, payload=data)
            if reply.status:
                raise AssertionError(f"C-STORE was answered {reply.status:04X}")


def _disk(folder: Path) -> float:
    """Write the same bytes durably, one file after the other, with nothing around it."""
    folder.mkdir()
    began_s = time.perf_counter()
    for number in range(OBJECTS):
        handle = os.open(folder / "part", os.O_CREAT | os.O_WRONLY)
        os.write(handle, PIXELS)
        os.fdatasync(handle)
        os.close(handle)
        (folder / "part").rename(folder / str(number))
        parent = os.open(folder, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)
    took_s = time.perf_counter() - began_s
    shutil.rmtree(folder)
    return OBJECTS / took_s
