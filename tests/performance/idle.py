"""What 500 open associations cost that ask nothing, and what a scanner among them notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.performance.entries import fill_ours
from tests.performance.measuring import OURS, Latency, Size
from tests.performance.parties import Ours
from tests.performance.worklist import WARM_UP, query, scanner

IDLE, ENTRIES, QUERIES, WATCHED_S = 500, 1_000, 2_000, 5.0
EVERY_S = 0.002
SETTLED_S = 6.0  # buffers are given back after five seconds


def idle_associations(folder: Path) -> Iterator[Latency | Size]:
    """Hold associations open that have asked once, and let one more ask every few milliseconds."""
    ours = Ours(folder / "ours")
    fill_ours(ours.database_url, ENTRIES)
    with ours.listening(), ExitStack() as stack:
        process = psutil.Process(ours.pid)
        asking = stack.enter_context(scanner(ours.port))
        for _ in range(WARM_UP):
            query(asking)
        before = process.memory_full_info().uss
        for _ in range(IDLE):
            query(stack.enter_context(scanner(ours.port)))
        time.sleep(SETTLED_S)
        each = (process.memory_full_info().uss - before) / IDLE / 1024
        yield Size(f"each of {IDLE} idle associations, memory", OURS, each, "KiB", "goal < 300")
        busy_s = sum(process.cpu_times()[:2])
        time.sleep(WATCHED_S)
        share = 100 * (sum(process.cpu_times()[:2]) - busy_s) / WATCHED_S
        yield Size(f"{IDLE} idle associations, processor", OURS, share, "% of a core", "goal 0")
        taken_s = list[float]()
        for _ in range(QUERIES):
            began_s = time.perf_counter()
            query(asking)
            taken_s.append(time.perf_counter() - began_s)
            time.sleep(EVERY_S)
        yield Latency(f"worklist query beside {IDLE} idle associations", OURS, taken_s)
