"""Asks every page of a filled database for itself and prints what it took: `python -m tests.performance.page_times WHERE`.

WHERE is what `tests.performance.full_database` has filled. Processor time is this process's own, without the database
server's; the time on the clock is what a person waits, and means something on a quiet machine only.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from broker.db.engine import database_url, open_engine
from broker.db.migrate import migrate
from broker.db.reports import SqlReports
from broker.db.traffic import MAX_STEPS, count_traffic, learn_rhythms, measure_images
from broker.web.app import create_app
from broker.web.ports import Dashboard
from broker.workflow.clock import SystemClock
from tests.performance.full_database import DESTINATIONS

PAGES = (
    "/",
    "/handover",
    "/api/overview",
    "/find",
    "/worklist",
    "/worklist?date=all",
    "/devices",
    "/orders",
    "/orders?incomplete=true",
    "/messages",
    "/messages?outcome=parked",
    "/images",
    "/images?state=UNROUTED",
    "/deliveries",
    "/deliveries?state=DEAD",
    "/deliveries?destination=PACS1",
)
TRIES = 5


def main(where: str, *pages: str) -> None:
    """Print the best of some tries of every page, or of those that are named."""
    url = where if "://" in where else database_url(Path(where).absolute())
    engine, clock = open_engine(url), SystemClock()
    migrate(engine)
    while count_traffic(engine, now=clock.now()) >= MAX_STEPS:
        pass
    learn_rhythms(engine, now=clock.now(), zone=UTC)
    measure_images(engine, now=clock.now())
    # What the pages below do not ask is not there.
    others: dict[str, Any] = {name: None for name in Dashboard.__dataclass_fields__ if name != "resources"}
    board = Dashboard(
        **others
        | {
            "reports": SqlReports(engine, destinations=DESTINATIONS),
            "health": tuple,
            "clock": clock,
            "zone": UTC,
            "site_name": "Measured",
            "version": "0",
        }
    )
    client = TestClient(create_app(board), headers={"accept": "text/html"})
    week = f"/handover?since={clock.now() - timedelta(days=6, hours=23):%Y-%m-%dT%H:%M}"
    for page in pages or (*PAGES, week):
        took = min(_once(client, page) for _ in range(TRIES))
        print(f"{took[0]:8.1f} ms  processor {took[1]:7.1f} ms  {page}")
    engine.dispose()


def _once(client: TestClient, page: str) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = client.get(page)
    assert answer.status_code == 200, f"{page}: {answer.status_code}"
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
