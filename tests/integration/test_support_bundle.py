"""The support bundle: with canaries in every column of every table and in the site file, none is in it."""

import io
import json
import tarfile
from datetime import UTC, datetime

import pytest
from sqlalchemy import JSON, Boolean, DateTime, Integer, LargeBinary, String, Text, func, select
from typer.testing import CliRunner

from broker.bootstrap import migrate_database, open_broker
from broker.cli import app
from broker.db.schema import EVENT, METADATA
from broker.db.support import WITHHELD
from broker.scrubbing import scrubbed
from broker.support_bundle import last_lines, support_bundle

CANARY = "ZZCANARY"
SITE = f"""\
# {CANARY} a comment
site: {{ name: General Hospital, timezone: Europe/Berlin }}
devices:
  - {{ ae_title: CT1, contact: "{CANARY}^ANNA 4711" }}
destinations:
  archive: {{ kind: dicom, host: pacs, port: 104, called_ae_title: PACS, contact: "{CANARY}@hospital" }}
  ris: {{ kind: mllp, host: ris, port: 2576, key: /etc/{CANARY}.pem }}
routes:
  - {{ name: vip, when: {{ PatientName: "{CANARY}*", Modality: CT }}, send: [archive] }}
"""
LISTS = {"other_ids", "station_ae_titles", "missing", "study_instance_uids", "routes", "conflicts", "rhythm"}
# What these say is the broker's own word, and what the bundle is for.
OURS = {
    "heartbeat": {"role": "web", "host": "h", "details": {"ok": True, "detail": "serves"}},
    "probe_run": {"hops": [], "failed_hop": None},
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A broker's folders, its database full of canaries."""
    monkeypatch.chdir(tmp_path)
    config, data = tmp_path / "broker.yaml", tmp_path / "data"
    config.write_text(SITE)
    migrate_database(config, data)
    with open_broker(config, data) as broker:
        fill(broker.engine)
    return config, data


def fill(engine):
    """Put a row into every table, a canary into whatever takes text, bytes or JSON."""
    with engine.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            for table in METADATA.sorted_tables:
                if connection.execute(select(func.count()).select_from(table)).scalar_one():
                    continue
                row = {column.name: a_value(column) for column in table.columns}
                connection.execute(table.insert().values(row | OURS.get(table.name, {})))


def a_value(column):
    kind = getattr(column.type, "impl", column.type)
    if isinstance(kind, DateTime):
        return datetime(2026, 11, 21, tzinfo=UTC)
    if isinstance(kind, (String, Text)):
        # Where only a few words have a meaning, one of them, or the row would be in none of the bundle's lists.
        return {"outcome": "refused", "state": "DEAD"}.get(column.name, CANARY)
    if isinstance(kind, JSON):
        if column.name == "problems":
            return [{"condition": CANARY, "text": CANARY, "place": CANARY, "severity": CANARY}, CANARY]
        return [CANARY] if column.name in LISTS else {CANARY: [CANARY], "PatientName": [CANARY]}
    if isinstance(kind, LargeBinary):
        return CANARY.encode()
    if isinstance(kind, Boolean):
        return True
    assert isinstance(kind, Integer), column
    return 1


def members(packed):
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        return {
            found.name.partition("/")[2]: archive.extractfile(found).read().decode()
            for found in archive.getmembers()
        }


def test_no_canary_of_any_table_site_file_or_log_is_in_the_bundle(site, tmp_path):
    log = tmp_path / "broker.log"
    log.write_text(
        json.dumps({"event": "message refused", "patient_name": CANARY, "message": 1})
        + f"\nTraceback: {CANARY}\n"
        + json.dumps({"event": "served", "role": "web"})
        + "\n"
    )
    with open_broker(*site) as broker:
        packed = support_bundle(broker, actor="admin", log=log)
        files = members(packed)
        with broker.engine.connect() as connection:
            events = connection.execute(
                select(EVENT.c.actor).where(EVENT.c.name == "support bundle made")
            ).scalars()
            assert list(events) == ["admin"]
    assert [name for name, text in files.items() if CANARY in text] == []
    refused = json.loads(files["refusals.json"])
    assert refused[0]["peer"] == WITHHELD
    assert json.loads(files["queues.json"])["deliveries"][0]["state"] == "DEAD"
    assert '"left_out_lines": 1' in files["log.jsonl"]
    assert json.loads(files["database.json"])["rows"]["patient"] == 1


def test_it_says_what_helps(site):
    with open_broker(*site) as broker:
        files = members(support_bundle(broker, actor="admin"))
    about = json.loads(files["about.json"])
    assert {"pydicom", "sqlalchemy"} <= {name.lower() for name in about["packages"]}
    assert json.loads(files["database.json"])["schema"].isdigit()
    plans = json.loads(files["plans.json"])
    assert len(plans) > 5
    assert [plan for plan in plans if not plan.get("plan")] == []
    assert [name for name, text in files.items() if "cannot_be_read" in text] == []
    assert "ae_title: PACS" in files["site.yaml"].replace("'", "")
    assert {part["name"] for part in json.loads(files["health.json"])["parts"]} >= {"web", "sweep"}


def test_what_cannot_be_read_says_so_and_the_rest_is_there(site, monkeypatch):
    with open_broker(*site) as broker:
        monkeypatch.setattr(broker.reports, "storage", lambda *, now: 1 / 0)
        files = members(support_bundle(broker, actor="admin"))
    assert json.loads(files["disk.json"]) == {"cannot_be_read": "ZeroDivisionError"}
    assert json.loads(files["database.json"])["rows"]["patient"] == 1


def test_plans_and_facts_are_read_on_both_databases(engine):
    from broker.db.reports import SqlReports
    from broker.db.support import database_facts, event_counts, plans, queue_facts, refusals

    reports = SqlReports(engine)
    now = datetime(2026, 11, 21, tzinfo=UTC)
    (plan, *_) = plans(engine, [lambda: reports.destinations(now=now), lambda: reports.day(since=now)])
    assert plan["plan"]
    assert database_facts(engine)["rows"]["delivery"] == 0
    assert queue_facts(engine, ()) == {"deliveries": [], "dead_by_cause": [], "destinations": []}
    assert refusals(engine) == []
    assert event_counts(engine) == {}


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("a: { password: hunter2 }", WITHHELD),
        ("a: { url: 'https://user:hunter2@host/x' }", "https://[withheld]@host/x"),
        ("a: { tokens: [hunter2] }", WITHHELD),
        ("a: { webhook: { authorization: { value: hunter2 } } }", WITHHELD),
        ("routes: [{ when: { not: { PatientID: hunter2 } } }]", WITHHELD),
    ],
)
def test_a_secret_is_withheld_wherever_it_stands(line, kept):
    said = scrubbed(line)
    assert "hunter2" not in said
    assert kept in said


def test_only_the_last_lines_are_taken(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(json.dumps({"event": str(number)}) + "\n" for number in range(50)))
    lines = [json.loads(line) for line in last_lines(log, 3).splitlines()]
    assert [line.get("event") for line in lines] == ["47", "48", "49", None]


def test_the_command_makes_a_file_for_its_account_only_and_overwrites_none(site):
    config, data = site
    arguments = ["support-bundle", "out.tar.gz", "--config", str(config), "--data-dir", str(data)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    made = config.parent / "out.tar.gz"
    assert made.stat().st_mode & 0o777 == 0o600
    before = made.read_bytes()
    assert CliRunner().invoke(app, arguments).exit_code != 0
    assert made.read_bytes() == before
