"""`./dev bench [NAME…]`: measures us beside DCMTK and Orthanc in one run and writes docs/performance.md."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from tests.broker_process import ROOT
from tests.performance.associations import associations
from tests.performance.idle import idle_associations
from tests.performance.latency import routing_latency
from tests.performance.measuring import Growth, Reported
from tests.performance.memory import idle_serve
from tests.performance.orders import orders
from tests.performance.pushing import worklist_during_a_push
from tests.performance.receiving import receiving
from tests.performance.sending import sending
from tests.performance.worklist import worklist_growth, worklist_large, worklist_small

BENCHMARKS: dict[str, Callable[[Path], Iterator[Reported]]] = {
    "worklist": worklist_small,
    "associations": associations,
    "receive": receiving,
    "send": sending,
    "hl7": orders,
    "latency": routing_latency,
    "push": worklist_during_a_push,
    "memory": idle_serve,
    "idle": idle_associations,
    "worklist-large": worklist_large,
    "worklist-growth": worklist_growth,
}
REPORT = ROOT / "docs" / "performance.md"
HEADER = ["| work | who | median | spread | we are |", "|---|---|---|---|---|"]
TEXT = """# Performance

What `./dev bench` measured on {date} on {machine}, load average {load} at the start.
Everything runs on this one machine, in one run: each round asks everybody in turn, beginning with another one
each time. The client is our own and the same for all. Absolute figures move with the machine; quote the ratios.

{table}

How cost grows:

{charts}

How it is measured:

- **worklist query**: one open association; scheduled date, station AE title and modality are asked for, 20 entries
  are answered with the usual keys. The same entries are in our database (SQLite) and in the peers' folders. The peers
  read every entry for every query; we ask an index.
- **worklist query, 20 answers**: the same with ever longer lists, ours alone. The client of these and of the
  associations sends bytes made before and reads headers only, so that it costs next to nothing.
- **association**: A-ASSOCIATE with one context, or with 120, A-RELEASE, TCP connection included. The admission of devices is part
  of ours.
- **receive**: CT images of 0.5 MB, every one with its own UID. Ours is durable: 0000 is answered after the file and
  its row are synced to disk. storescp and Orthanc answer before their files are synced, so they are at an advantage;
  the disk's own rate is the bound for anybody who syncs one object at a time. "Nobody syncs" compares what is left:
  our listener with a disk and a database whose syncs are left out, which no setting of the broker can do.
- **send**: our DICOM destination with its progress kept in memory, against the same storescp as DCMTK's senders.
- **last image in → first byte out**: from our 0000 to the first byte at the destination, `broker serve` as it is
  shipped, one image at a time; without Redis the sweep is rung through a socket.
- **push**: 4,000 images come in on a port of their own and go on to storescp at once, while a scanner asks for its
  worklist every 10 ms; the pusher, the scanner and storescp run on the same cores.
- **HL7 order**: an ORM^O01 of 1 kB with a new patient, order and study each; AA is awaited before the next on the
  same connection. Ours maps it, makes the worklist entry and syncs both to disk (SQLite, FULL) before AA. The package's
  server parses it and answers `create_ack()`; it maps and stores nothing. "Framing and commit alone" is our listener
  with a handler that stores the raw message only, synced as well.
- DCMTK and Orthanc run with `TCP_NODELAY=1`, without which they stall for 40 ms in every exchange on loopback.

Run it yourself: `./dev bench`, or a part of it: `./dev bench {names}`.
Parts that are not named keep no figures in this file: run all of them to write it.
"""


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    load, began_s, lines, charts = os.getloadavg()[0], time.monotonic(), list(HEADER), list[str]()
    print("\n".join(HEADER), flush=True)
    for name in names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            for measured in BENCHMARKS[name](Path(folder)):
                rows = measured.lines()
                print("\n".join(rows), flush=True)
                lines += rows
                if isinstance(measured, Growth):
                    charts.append(measured.chart())
    print(f"took {time.monotonic() - began_s:.0f} s")
    if not names:
        REPORT.write_text(
            TEXT.format(
                date=datetime.now(tz=UTC).date().isoformat(),
                machine=_machine(),
                load=f"{load:.1f}",
                table="\n".join(lines),
                charts="\n\n".join(charts),
                names=" ".join(BENCHMARKS),
            )
        )
        print(f"written: {REPORT.relative_to(ROOT)}")
    return 0


def _machine() -> str:
    """Say what this machine is, as far as it matters."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    version = subprocess.run(["storescp", "--version"], capture_output=True, text=True, check=False).stdout
    dcmtk = next((word for word in version.split() if word.startswith("v3")), "DCMTK")
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, DCMTK {dcmtk}"


sys.exit(main(sys.argv[1:])) if __name__ == "__main__" else None
