"""`./dev attack [--long] [--seed N] [PART…]`: attacks the broker; the long form writes docs/reliability.md."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from tests.attacks.outcome import Attack
from tests.broker_process import ROOT
from tests.report_sections import put

PARTS = {
    "weaknesses": "What a sick or hostile DICOM peer does, and what a bare pynetdicom AE does of it",
    "mllp": "What a sick or hostile HL7 peer does",
    "fuzz": "Generated input to every parser that meets a stranger's bytes",
    "syncs": "The last sync precedes the answer, seen by strace",
    "ledger": "Bugs planted to see whether the ledger finds them",
    "calls": "Every file and database call fails once, in turn",
    "campaign": "Processes killed, Redis, PostgreSQL, SQLite and the disk broken under load",
    "simulation": "Claims, leases, retries, wake-ups and sweeps, simulated",
}
"""Each is a module of this package with an `attack`."""
REPORT = ROOT / "docs" / "reliability.md"
HEAD = """# Reliability

What `./dev attack --long` did to the broker. Each part says when and with which seed; the same seed draws the same
faults and inputs. The short forms run in every `./dev test`.

Run it yourself: `./dev attack` (short), `./dev attack --long`, or a part of it: `./dev attack --long {names}`.
A long run of a part replaces its section of this file.
"""


def main(arguments: list[str]) -> int:
    """Run the named parts, or all; answer 1 when something broke."""
    parser = argparse.ArgumentParser(prog="./dev attack")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.parts if name not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"seed {chosen.seed}", flush=True)
    broken = []
    for name in chosen.parts or PARTS:
        section, held = run(name, chosen.seed, chosen.long)
        if chosen.long:
            put(REPORT, head=HEAD.format(names=" ".join(PARTS)), titles=list(PARTS.values()), section=section)
        if not held:
            broken.append(name)
    print(f"\nseed {chosen.seed}: {'BROKEN: ' + ', '.join(broken) if broken else 'everything held'}")
    return 1 if broken else 0


def run(name: str, seed: int, long: bool) -> tuple[str, bool]:
    """Run one part, printing as it goes; answer its section and whether everything held."""
    attack: Attack = importlib.import_module(f"tests.attacks.{name}").attack
    table = ["| attack | cases | outcome | seen |", "|---|---|---|---|"]
    print("\n".join(["", f"## {PARTS[name]}", "", *table]), flush=True)
    load, began_s, held = os.getloadavg()[0], time.monotonic(), True
    with tempfile.TemporaryDirectory(prefix=f"attack-{name}-", ignore_cleanup_errors=True) as folder:
        for outcome in attack(seed, long, Path(folder)):
            table.append(outcome.line())
            print(table[-1], flush=True)
            held = held and outcome.held
    took = (
        f"`./dev attack{' --long' if long else ''} --seed {seed} {name}`, {datetime.now(tz=UTC).date().isoformat()}: "
        f"{(time.monotonic() - began_s) / 60:.1f} minutes on {os.cpu_count()} cores, "
        f"load average {load:.1f} at the start, Python {platform.python_version()}."
    )
    print(took, flush=True)
    return "\n".join([f"## {PARTS[name]}", "", took, "", *table]), held


sys.exit(main(sys.argv[1:])) if __name__ == "__main__" else None
