"""`./dev attack [--long] [--seed N] [PART…]`: attacks the broker; all parts in long form write docs/reliability.md."""

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
TEXT = """# Reliability

What `./dev attack --long --seed {seed}` did to the broker on {date}, on {machine}, in {minutes} minutes.
The same seed draws the same faults and inputs. The short forms run in every `./dev test`.

{sections}

Run it yourself: `./dev attack` (short), `./dev attack --long`, or a part of it: `./dev attack --long {names}`.
Only a long run of all parts writes this file.
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
    began_s, sections, held = time.monotonic(), [], True
    for name in chosen.parts or PARTS:
        lines, ok = run(name, chosen.seed, chosen.long)
        sections.append("\n".join(lines))
        held = held and ok
    minutes = (time.monotonic() - began_s) / 60
    print(f"took {minutes:.1f} min, seed {chosen.seed}: {'everything held' if held else 'BROKEN'}")
    if chosen.long and not chosen.parts:
        REPORT.write_text(
            TEXT.format(
                seed=chosen.seed,
                date=datetime.now(tz=UTC).date().isoformat(),
                machine=f"{os.cpu_count()} cores, Python {platform.python_version()}",
                minutes=f"{minutes:.0f}",
                sections="\n\n".join(sections),
                names=" ".join(PARTS),
            )
        )
        print(f"written: {REPORT.relative_to(ROOT)}")
    return 0 if held else 1


def run(name: str, seed: int, long: bool) -> tuple[list[str], bool]:
    """Run one part, printing as it goes; answer its section and whether everything held."""
    attack: Attack = importlib.import_module(f"tests.attacks.{name}").attack
    lines = [f"## {PARTS[name]}", "", "| attack | cases | outcome | seen |", "|---|---|---|---|"]
    print("\n" + "\n".join(lines), flush=True)
    held = True
    with tempfile.TemporaryDirectory(prefix=f"attack-{name}-", ignore_cleanup_errors=True) as folder:
        for outcome in attack(seed, long, Path(folder)):
            lines.append(outcome.line())
            print(lines[-1], flush=True)
            held = held and outcome.held
    return lines, held


sys.exit(main(sys.argv[1:])) if __name__ == "__main__" else None
