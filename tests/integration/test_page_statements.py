"""No page reads a large table from end to end: every address that reads is asked, and each of its statements is looked at.

Cost is counted in steps of SQLite's virtual machine, which are the same on every machine; a statement that looks at
every row of a table of this database takes more of them than `MOST_STEPS`.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from sqlalchemy import event

from broker.bootstrap import open_broker
from broker.db.engine import database_url, open_engine
from broker.db.migrate import migrate
from broker.db.schema import METADATA
from broker.db.traffic import MAX_STEPS, count_traffic
from broker.domain.access import Role
from tests.doors import PASSWORD, TESTER
from tests.performance.full_database import SITE, fill
from tests.performance.page_addresses import addresses, known_in
from tests.performance.page_times import NAME, Browser, app_of

pytestmark = pytest.mark.timeout(180)

ROWS = 6000
MOST_STEPS = 40_000
_EVERY = 50
LARGE = (
    *("delivery", "delivery_item", "event", "hl7_message", "instance", "imaging_order", "patient"),
    *("requested_procedure", "scheduled_procedure_step", "step_station", "performed_procedure_step"),
    *("performed_step_link", "performed_study", "route_decision", "received_study"),
)
SCAN = re.compile(rf"^SCAN ({'|'.join(LARGE)})(?: USING (?:COVERING )?INDEX (\w+))?$")
TABLE = re.compile(rf"\b(FROM|JOIN) ({'|'.join(LARGE)})\b")
SMALL = {
    index.name
    for table in METADATA.tables.values()
    for index in table.indexes
    if "where" in index.dialect_options["sqlite"] and index.dialect_options["sqlite"]["where"] is not None
}
"""Indexes of some rows only: of what is open, dead or undecided."""
EXEMPT = {
    "GROUP BY instance.study_instance_uid": "counts the images of the studies that are shown",
    "sum(delivery.items - delivery.items_delivered)": "who acts on many is told exactly how many",
    "delivery AS other": "who acts on many is told exactly how many",
    "SELECT delivery_item.instance": "the bytes of at most 5,000 images of what is acted on",
}
"""A part of a statement -> why it may look at so many rows."""


@dataclass
class Seen:
    """What one statement did."""

    text: str
    parameters: object
    steps: int = 0
    plan: list[str] = field(default_factory=list)


class Watch:
    """Counts the steps of every statement; what is read later belongs to the statement before."""

    def __init__(self, engine):
        self.engine, self.seen = engine, []
        event.listen(engine, "checkout", self._connected)
        event.listen(engine, "before_cursor_execute", self._begins)

    def _connected(self, connection, _entry, _proxy):
        connection.set_progress_handler(self._steps, _EVERY)

    def _steps(self):
        if self.seen:
            self.seen[-1].steps += _EVERY
        return 0

    def _begins(self, _connection, _cursor, statement, parameters, _context, many):
        if not many and not statement.startswith(("EXPLAIN", "PRAGMA")):
            self.seen.append(Seen(statement, parameters))

    def take(self):
        """Answer what was seen since it was last taken, with the plans."""
        seen, self.seen = self.seen, []
        with self.engine.connect() as connection:
            for one in seen:
                if one.text.startswith("SELECT"):
                    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one.text}", one.parameters)
                    one.plan = [str(row[-1]) for row in rows]
        self.seen = []
        return seen


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    engine = open_engine(database_url(folder / "data"))
    migrate(engine)
    now = datetime.now(UTC)
    fill(engine, now=now, deliveries=ROWS, messages=ROWS, events=2 * ROWS, orders=ROWS // 2, instances=ROWS)
    while count_traffic(engine, now=now) >= MAX_STEPS:
        pass
    engine.dispose()
    config = folder / "broker.yaml"
    config.write_text(json.dumps(SITE))
    with open_broker(config, folder / "data") as opened:
        opened.access.accounts.add(NAME, Role.ADMIN, PASSWORD, by=TESTER)
        yield opened


def test_no_page_reads_a_large_table_from_end_to_end(broker):
    app = app_of(broker)
    browser = Browser(app)
    watch = Watch(broker.engine)
    wrong, asked_for = [], addresses(app, known_in(broker.engine, now=broker.clock.now()))
    for asked in asked_for:
        status = browser.ask(asked)
        if not asked.is_as_expected(status):
            wrong.append(f"{asked}: answered {status}")
        for one in watch.take():
            scans = [found for line in one.plan if (found := SCAN.match(line)) and found[2] not in SMALL]
            whole = [found[0] for found in scans if "LIMIT" not in one.text]
            is_dear = one.steps > MOST_STEPS and TABLE.search(one.text)
            if (whole or is_dear) and not any(part in one.text for part in EXEMPT):
                wrong.append(
                    f"{asked}: {one.steps:,} steps {whole or one.plan}\n    {' '.join(one.text.split())[:900]}"
                )
    assert len(asked_for) > 150
    assert not wrong, "\n".join(wrong)
