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
from typing import NamedTuple

import structlog

from tests.broker_process import ROOT
from tests.performance.associations import associations
from tests.performance.idle import idle_associations
from tests.performance.latency import routing_latency
from tests.performance.measuring import Growth, Reported
from tests.performance.memory import idle_serve
from tests.performance.orders import orders
from tests.performance.page_times import pages
from tests.performance.pushing import worklist_during_a_push
from tests.performance.receiving import receiving
from tests.performance.sending import sending
from tests.performance.worklist import worklist_growth, worklist_large, worklist_small
from tests.report_sections import put


class Benchmark(NamedTuple):
    """A section of the report."""

    title: str
    run: Callable[[Path], Iterator[Reported]]
    how: str


_WORKLIST = """One open association; scheduled date, station AE title and modality are asked for, 20 entries are answered with the usual
keys. The same entries are in our database (SQLite) and in the peers' folders. The peers read every entry for every
query; we ask an index. The client sends bytes made before and reads headers only, so that it costs next to nothing."""

BENCHMARKS = {
    "worklist": Benchmark("Worklist query, 1,000 entries", worklist_small, _WORKLIST),
    "associations": Benchmark(
        "Associations and C-ECHO",
        associations,
        """A-ASSOCIATE with one context, or with 120, A-RELEASE, TCP connection included. The admission of devices is part of
ours.""",
    ),
    "receive": Benchmark(
        "Receiving images",
        receiving,
        """CT images, every one with its own UID. Ours is durable: 0000 is answered after the file and its row are synced to
disk. storescp and Orthanc answer before their files are synced, so they are at an advantage; the disk's own rate is
the bound for anybody who syncs one object at a time. "Nobody syncs" compares what is left: our listener with a disk
and a database whose syncs are left out, which no setting of the broker can do.""",
    ),
    "send": Benchmark(
        "Sending images",
        sending,
        "Our DICOM destination with its progress kept in memory, against the same storescp as DCMTK's senders.",
    ),
    "hl7": Benchmark(
        "HL7 orders",
        orders,
        """An ORM^O01 of 1 kB with a new patient, order and study each; AA is awaited before the next on the same connection.
Ours maps it, makes the worklist entry and syncs both to disk (SQLite, FULL) before AA. The package's server parses
it and answers `create_ack()`; it maps and stores nothing. "Framing and commit alone" is our listener with a handler
that stores the raw message only, synced as well.""",
    ),
    "latency": Benchmark(
        "Last image in, first byte out",
        routing_latency,
        """From our 0000 to the first byte at the destination, `broker serve` as it is shipped, one image at a time; without
Redis the sweep is rung through a socket.""",
    ),
    "push": Benchmark(
        "A scanner beside a push of 4,000 images",
        worklist_during_a_push,
        """4,000 images come in on a port of their own and go on to storescp at once, while a scanner asks for its worklist every
10 ms; the pusher, the scanner and storescp run on the same cores.""",
    ),
    "memory": Benchmark(
        "An idle broker", idle_serve, "All processes of `broker serve`, proportional set size."
    ),
    "idle": Benchmark(
        "500 idle associations",
        idle_associations,
        "Each has asked once; then one more asks every few milliseconds.",
    ),
    "worklist-large": Benchmark("Worklist query, 100,000 entries", worklist_large, "As with 1,000."),
    "worklist-growth": Benchmark(
        "Worklist query by the length of the list", worklist_growth, "The same query, ours alone."
    ),
    "pages": Benchmark(
        "Pages on a full database",
        pages,
        """100,000 deliveries, 100,000 messages, 100,000 images and 1,000,000 events of five weeks, one destination of five
dead all the time, and every small table as full as it gets. Every GET route and whatever reads by POST is asked as a
signed-in admin asks it, with filters that find much, little and nothing; the slowest are shown. The goal is 300 ms.
Processor time is that of the web process: with SQLite all of it, with PostgreSQL without what the server does.
Viewers of the overview have a stream each; the page's clock is told every second.""",
    ),
}
REPORT = ROOT / "docs" / "performance.md"
TABLE = ["| work | who | median | spread | we are |", "|---|---|---|---|---|"]
HEAD = """# Performance

What `./dev bench` measured. Everything runs on one machine and each comparison in one run: each round asks everybody
in turn, beginning with another one each time, with the same client. Absolute figures move with the machine; quote the
ratios. DCMTK and Orthanc run with `TCP_NODELAY=1`, without which they stall for 40 ms in every exchange on loopback.
What falls short of what we aim at, and why, is in [performance-goals.md](performance-goals.md).

Run it yourself: `./dev bench`, or a part of it, whose section is then replaced: `./dev bench {names}`.
"""


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    titles = [benchmark.title for benchmark in BENCHMARKS.values()]
    for name in names or BENCHMARKS:
        put(REPORT, head=HEAD.format(names=" ".join(BENCHMARKS)), titles=titles, section=measure(name))
    print(f"written: {REPORT.relative_to(ROOT)}")
    return 0


def measure(name: str) -> str:
    """Run one benchmark, printing as it goes; answer its section."""
    benchmark = BENCHMARKS[name]
    load, began_s, table, charts = os.getloadavg()[0], time.monotonic(), list(TABLE), list[str]()
    print("\n".join(["", f"## {benchmark.title}", "", *table]), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        for measured in benchmark.run(Path(folder)):
            rows = measured.lines()
            print("\n".join(rows), flush=True)
            table += rows
            if isinstance(measured, Growth):
                charts += ["", measured.chart()]
    took = (
        f"`./dev bench {name}`, {datetime.now(tz=UTC).date().isoformat()}: {time.monotonic() - began_s:.0f} s on {_machine()}, "
        f"load average {load:.1f} at the start."
    )
    print(took, flush=True)
    return "\n".join([f"## {benchmark.title}", "", took, benchmark.how, "", *table, *charts])


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
