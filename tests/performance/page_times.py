"""`./dev bench pages`: how long every page takes on a full database, and what fifty viewers of the overview cost.

By itself on a database that is there: `python -m tests.performance.page_times DATA_DIR_OR_URL [PART_OF_ADDRESS…]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from broker.bootstrap import Broker, open_broker
from broker.dashboard import dashboard
from broker.db.engine import database_url, open_engine
from broker.db.migrate import migrate
from broker.db.traffic import MAX_STEPS, count_traffic, learn_rhythms, measure_images
from broker.domain.access import Role
from broker.errors import Conflict
from broker.web.app import create_app
from broker.web.security import FIELD, HEADER
from tests.doors import PASSWORD, TESTER, form_token, signed_in
from tests.performance.full_database import SITE, fill
from tests.performance.measuring import Latency, Size, figure
from tests.performance.page_addresses import Asked, addresses, known_in
from tests.performance.viewers import viewers_cost
from tests.ports import free_port
from tests.postgres import postgres_server

GOAL_S = 0.3
TRIES = 5
SLOWEST = 12
"""Pages in the table."""
NAME = "measurer"


@contextmanager
def broker_on(where: str) -> Iterator[Broker]:
    """Open a wired broker on a filled database; what the sweeper counts beside the rows is counted."""
    with tempfile.TemporaryDirectory(prefix="pages-") as folder, contextlib.ExitStack() as ended:
        data_dir = Path(folder) / "data" if "://" in where else Path(where).absolute()
        config = Path(folder) / "broker.yaml"
        config.write_text(json.dumps({**SITE, "listen": {"web": {"port": free_port()}}}))  # JSON is YAML
        if "://" in where:
            os.environ["BROKER_DATABASE_URL"] = where
            ended.callback(os.environ.pop, "BROKER_DATABASE_URL", None)
        engine = open_engine(database_url(data_dir, where if "://" in where else None))
        migrate(engine)
        engine.dispose()
        with open_broker(config, data_dir) as broker:
            now = broker.clock.now()
            while count_traffic(broker.engine, now=now) >= MAX_STEPS:
                pass
            learn_rhythms(broker.engine, now=now, zone=UTC)
            measure_images(broker.engine, now=now)
            with contextlib.suppress(Conflict):  # it is there from the last time
                broker.access.accounts.add(NAME, Role.ADMIN, PASSWORD, by=TESTER)
            yield broker


class Browser:
    """An admin's browser, which also asks the API."""

    def __init__(self, app: FastAPI) -> None:
        """Sign in."""
        self._client: TestClient = signed_in(app, NAME, base_url="http://127.0.0.1")
        self._token = form_token(self._client.get("/account").text)

    def ask(self, asked: Asked) -> int:
        """Ask once, answer the status."""
        if asked.method == "GET":
            return self._client.get(asked.address).status_code
        if asked.body:
            headers = {HEADER: self._token}
            return self._client.post(asked.address, json=dict(asked.body), headers=headers).status_code
        return self._client.post(asked.address, data={FIELD: self._token, **asked.form}).status_code


@dataclass(frozen=True)
class PageTime:
    """What one address took."""

    asked: Asked
    taken_s: list[float]
    worked_s: list[float]
    """Processor time of this process: of SQLite too, not of PostgreSQL."""
    status: int

    who: str = ""

    @property
    def median_s(self) -> float:
        """Answer the median."""
        return statistics.median(self.taken_s)

    @property
    def median_worked_s(self) -> float:
        """Answer the median of the processor times."""
        return statistics.median(self.worked_s)

    def lines(self) -> list[str]:
        """Answer one row: median, spread, and the processor time, which another's work does not move."""
        best, worst = (figure(1000 * one) for one in (min(self.taken_s), max(self.taken_s)))
        worked = f"processor {figure(1000 * self.median_worked_s)} ms"
        median = figure(1000 * self.median_s)
        return [f"| `{self.asked}` | {self.who} | {median} ms | {best}–{worst} ms | {worked} |"]


def app_of(broker: Broker) -> FastAPI:
    """Build the application as it is wired, for somebody who asks faster than a person."""
    return create_app(replace(dashboard(broker), pace=None))


def page_times(broker: Broker, *parts: str, who: str = "") -> list[PageTime]:
    """Ask every address some times, those of `parts` only when there are any; the slowest comes first."""
    app = app_of(broker)
    browser = Browser(app)
    found = []
    for asked in addresses(app, known_in(broker.engine, now=broker.clock.now())):
        if parts and not any(part in str(asked) for part in parts):
            continue
        status, taken, worked = 0, [], []
        for _ in range(TRIES):  # the first is the coldest
            before_s, worked_s = time.perf_counter(), time.process_time()
            status = browser.ask(asked)
            taken.append(time.perf_counter() - before_s)
            worked.append(time.process_time() - worked_s)
        found.append(PageTime(asked, taken, worked, status, who))
    return sorted(found, key=lambda one: -one.median_s)


def pages(folder: Path) -> Iterator[PageTime | Latency | Size]:
    """Measure both databases."""
    for who, where in (("SQLite", str(folder / "full")), ("PostgreSQL", "")):
        with contextlib.ExitStack() as ended:
            url = where or ended.enter_context(postgres_server())
            fill_new(url)
            with broker_on(url) as broker:
                times = page_times(broker, who=who)
                yield from times[:SLOWEST]
                taken = [one.median_s for one in times]
                yield Latency(f"all {len(times)} addresses, their medians", who, taken)
                slow = sum(1 for one in taken if one > GOAL_S)
                yield Size("addresses whose median is above 300 ms", who, slow, "")
                dear = sum(1 for one in times if one.median_worked_s > GOAL_S)
                yield Size("addresses whose processor time alone is above 300 ms", who, dear, "")
                yield from viewers_cost(broker, who)


def fill_new(where: str) -> None:
    """Make and fill a database."""
    if "://" not in where:
        Path(where).mkdir(parents=True, exist_ok=True)
    engine = open_engine(database_url(Path(where), where if "://" in where else None))
    migrate(engine)
    fill(engine, now=datetime.now(UTC))
    engine.dispose()


def main(where: str, *parts: str) -> int:
    """Print what every address took, the slowest first."""
    with broker_on(where) as broker:
        cpu_s = _cpu_s()
        times = page_times(broker, *parts)
        for one in times:
            print(f"{one.status} {one.lines()[0]}")
        print(f"{len(times)} addresses, {_cpu_s() - cpu_s:.1f} s of processor time in this process")
    return any(not one.asked.is_as_expected(one.status) for one in times)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
