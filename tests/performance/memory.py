"""What `broker serve` costs while nothing happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.performance.measuring import Size
from tests.performance.parties import serving

_MIB = 1024 * 1024
WATCHED_S = 10.0


def idle_serve(folder: Path) -> Iterator[Size]:
    """Sum proportional memory and processor time over all processes of an idle `broker serve`."""
    (folder / "home").mkdir()
    with serving(folder / "home", destinations={}) as broker:
        family = [psutil.Process(broker.process.pid)]
        family += family[0].children(recursive=True)
        time.sleep(WATCHED_S / 2)  # what starting costs is not idling
        before_s = _busy_s(family)
        time.sleep(WATCHED_S)
        share = 100 * (_busy_s(family) - before_s) / WATCHED_S
        memory = sum(one.memory_full_info().pss for one in family) / _MIB
        yield Size(
            "idle `broker serve`, memory (PSS)", f"{len(family)} processes", memory, "MiB", "goal < 400"
        )
        yield Size("idle `broker serve`, processor", f"{len(family)} processes", share, "% of a core")


def _busy_s(family: list[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in family)
