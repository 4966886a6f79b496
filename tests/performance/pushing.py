"""What a push of 4,000 images does to the scanner that asks for its worklist meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.performance.entries import fill_ours
from tests.performance.measuring import Latency, Size
from tests.performance.parties import dcmtk, serving
from tests.performance.receiving import push
from tests.performance.worklist import query, scanner
from tests.ports import free_port

SLICES, ENTRIES, QUIET_QUERIES, EVERY_S = 4_000, 1_000, 500, 0.01


def worklist_during_a_push(folder: Path) -> Iterator[Latency | Size]:
    """Ask every few milliseconds, before and while slices come in on a port of their own and leave again."""
    (folder / "received").mkdir()
    (folder / "home").mkdir()
    storage = free_port()
    with (
        dcmtk("storescp", "+B", "-od", folder / "received") as archive,
        serving(
            folder / "home",
            destinations={"archive": archive},
            listen={"storage": {"port": storage}},
            entries=partial(fill_ours, entries=ENTRIES),
        ) as broker,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        pool.submit(time.sleep, 0).result()
        quiet_s = _ask(broker.dicom, QUIET_QUERIES, None)
        began_s = time.perf_counter()
        pushed = pool.submit(push, storage, SLICES)
        busy_s = _ask(broker.dicom, 0, pushed)
        rate = SLICES / (time.perf_counter() - began_s)
        pushed.result()
    yield Latency("worklist query, nothing else happens", "ours", quiet_s)
    yield Latency(f"worklist query during a push of {SLICES:,} slices", "ours", busy_s)
    yield Size("that push, sent on as it comes", "ours", rate, "objects/s")


def _ask(port: int, at_least: int, until: Future[None] | None) -> list[float]:
    taken_s = list[float]()
    with scanner(port) as association:
        query(association)
        while len(taken_s) < at_least or (until is not None and not until.done()):
            began_s = time.perf_counter()
            query(association)
            taken_s.append(time.perf_counter() - began_s)
            time.sleep(EVERY_S)
    return taken_s
