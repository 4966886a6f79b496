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
from broker.dashboard import dashboard
from broker.db.engine import database_url, open_engine
from broker.db.migrate import migrate
from broker.db.traffic import count_traffic
from broker.domain.access import Role
from broker.web.app import create_app
from tests.doors import PASSWORD, TESTER
from tests.performance.full_database import SITE, fill
from tests.performance.page_addresses import addresses, known_in
from tests.performance.page_times import NAME, Browser

pytestmark = pytest.mark.timeout(180)

ROWS = 6000
MOST_STEPS = 40_000
_EVERY = 50
LARGE = re.compile(
    r"^SCAN (delivery|delivery_item|event|hl7_message|instance|imaging_order|patient|requested_procedure"
    r"|scheduled_procedure_step|step_station|performed_procedure_step|performed_step_link|route_decision|received_study)\b"
)
EXEMPT = {}
"""Route -> why it may look at every row."""


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
    count_traffic(engine, now=now)
    engine.dispose()
    config = folder / "broker.yaml"
    config.write_text(json.dumps(SITE))
    with open_broker(config, folder / "data") as opened:
        opened.access.accounts.add(NAME, Role.ADMIN, PASSWORD, by=TESTER)
        yield opened


def test_no_page_reads_a_large_table_from_end_to_end(broker):
    app = create_app(dashboard(broker))
    browser = Browser(app)
    watch = Watch(broker.engine)
    wrong, asked_for = [], addresses(app, known_in(broker.engine, now=broker.clock.now()))
    for asked in asked_for:
        status = browser.ask(asked)
        if status >= 400:
            wrong.append(f"{asked}: answered {status}")
        for one in watch.take():
            whole = [line for line in one.plan if LARGE.match(line) and "LIMIT" not in one.text]
            if (whole or one.steps > MOST_STEPS) and asked.route not in EXEMPT:
                wrong.append(
                    f"{asked}: {one.steps:,} steps {whole or one.plan}\n    {' '.join(one.text.split())[:900]}"
                )
    assert len(asked_for) > 150
    assert not wrong, "\n".join(wrong)
