"""Balances the books against the broker: `check` answers every finding, none when all promises were kept."""

from __future__ import annotations

import time
from pathlib import Path

from tests.ledger import sent, stored
from tests.ledger.hospital import expected_routes
from tests.ledger.ledger import Ledger
from tests.ledger.rows import Rows
from tests.ledger.sent import Routes

OPEN = (
    "SELECT (SELECT count(*) FROM instance WHERE state = 'RECEIVED') AS undecided,"
    " (SELECT count(*) FROM delivery d LEFT JOIN destination_state s ON s.name = d.destination"
    " WHERE d.state IN ('COLLECTING', 'IN_PROGRESS')"
    " OR (d.state = 'PENDING' AND (s.state IS NULL OR s.state <> 'paused'))) AS deliveries"
)
"""What is still to be done by the broker; a paused destination waits for a person."""


def quiesce(url: str, *, within_s: float) -> list[str]:
    """Wait until the broker has nothing left to do; finding that it has after that time is one of liveness."""
    deadline = time.monotonic() + within_s
    with Rows(url) as rows:
        while True:
            (left,) = rows.all(OPEN)
            if not left["undecided"] and not left["deliveries"]:
                return []
            if time.monotonic() >= deadline:
                open_ones = f"{left['undecided']} images are undecided, {left['deliveries']} deliveries open"
                return [f"after {within_s:.0f} s {open_ones}"]
            time.sleep(0.1)


def check(ledger: Ledger, url: str, data_dir: Path, routes: Routes = expected_routes) -> list[str]:
    """Answer what is wrong between the books, the database at `url` and the files in the data directory.

    Call it when nothing is under way: after `quiesce`, or of a broker that does not run.
    """
    with Rows(url) as rows:
        return [
            *stored.images(ledger, rows, data_dir / "images"),
            *stored.messages(ledger, rows),
            *stored.performed_steps(ledger, rows),
            *stored.chain(rows),
            *sent.images(ledger, rows, routes),
            *sent.reports(ledger, rows, routes),
            *sent.settlements(rows),
        ]
