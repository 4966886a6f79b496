"""The command line on a filled database: the same rows as the API, tables for people, exit codes, and bars on a terminal."""

import json
import os
import pty
import string
import subprocess
from contextlib import nullcontext, suppress

import pytest
from typer.testing import CliRunner

from broker.cli import app
from broker.domain.knocks import KnockReason
from broker.errors import BrokerError
from broker.workflow.devices_port import KnockKey, Knocks
from tests.api_site import ORM, STUDY, api_site, program
from tests.broker_process import BROKER
from tests.builders import a_message

LISTS = {
    "alerts list": "/api/alerts",
    "alerts list --over": "/api/alerts/over",
    "certificates list": "/api/certificates",
    "deliveries causes": "/api/deliveries/causes",
    "deliveries list": "/api/deliveries",
    "deliveries list --state dead --destination archive": "/api/deliveries?state=DEAD&destination=archive",
    "destinations list": "/api/destinations",
    "devices admissions": "/api/admissions",
    "images list --state unrouted": "/api/studies?state=UNROUTED",
    "messages list --outcome PARKED": "/api/messages?outcome=parked",
    "messages sent --state pending": "/api/messages/sent?state=PENDING",
    "orders list --status scheduled": "/api/orders?status=SCHEDULED",
    "worklist list --status scheduled": "/api/worklist?status=SCHEDULED",
    "devices knocks": "/api/knocks",
    "devices list": "/api/devices",
    "devices worklist CT1": "/api/devices/CT1/worklist",
    "images list": "/api/studies",
    f"images timeline {STUDY}": f"/api/studies/{STUDY}/timeline",
    "maintenance list": "/api/maintenance",
    "messages list": "/api/messages",
    "messages sent": "/api/messages/sent",
    "operations list": "/api/operations",
    "orders list": "/api/orders",
    "orders timeline 1": "/api/orders/1/timeline",
    "probe --last 50": "/api/probe",
    "sources list": "/api/sources",
    "worklist list": "/api/worklist",
}
"""Command -> the list of the API with the same rows."""
SHOWN = [
    "alerts show 1",
    "deliveries show 1",
    "operations show 1",
    "orders show 1",
    f"images show {STUDY}",
    "destinations show archive",
    "devices show CT1",
    "overview",
    "handover",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory, sqlite_template):
    with api_site(tmp_path_factory.mktemp("cli"), sqlite_template) as broker:
        yield broker


@pytest.fixture(scope="module")
def client(site):
    return program(site)


@pytest.fixture
def run(site, monkeypatch):
    # The very broker is opened already; opening one for each command is what the journeys do.
    monkeypatch.setattr("broker.bootstrap.open_broker", lambda *_, **__: nullcontext(site))

    def invoke(command, *more):
        return CliRunner().invoke(app, [*command.split(), *more, *place(site)], catch_exceptions=False)

    return invoke


@pytest.mark.parametrize("command", sorted(LISTS))
def test_a_list_has_the_rows_and_keys_of_the_api(run, client, command):
    said = run(command, "--json")
    assert said.exit_code == 0, said.output
    rows, answered = json.loads(said.stdout), client.get(LISTS[command]).json()
    assert len(rows) == len(answered) > 0
    for mine, its in zip(rows, answered, strict=True):
        assert mine.keys() == its.keys()
        assert mine.get("id", 0) == its.get("id", 0)
    table = run(command)
    assert table.exit_code == 0, table.output
    assert len(table.stdout.strip().splitlines()) >= len(rows), "a row each"


@pytest.mark.parametrize("command", SHOWN)
def test_one_thing_is_shown_to_people_and_to_programs(run, command):
    assert run(command).stdout.strip()
    assert json.loads(run(command, "--json").stdout)


def test_what_a_peer_wrote_is_no_markup_and_does_nothing_to_the_terminal(site, run):
    title, control = "[/b] [red]X :x:", "\x1b]0;owned\x07\x9b2J\u202e"
    with site.units_of_work() as uow:
        for name in (title, control):
            key = KnockKey(name, "BROKER", "192.0.2.66", KnockReason.UNKNOWN_TITLE)
            uow.devices.note_knocks([Knocks(key, 1, site.clock.now(), site.clock.now())])
        uow.messages.add(a_message(66, raw=ORM.replace(b"JOSEPH", control.encode())))
        uow.commit()
    table = run("devices knocks").stdout
    assert title in table
    listed = run("devices knocks", "--json").stdout
    assert {title, control} <= {row["ae_title"] for row in json.loads(listed)}
    message = max(row["message_id"] for row in json.loads(run("messages list", "--json").stdout))
    shown = run(f"messages show {message}").stdout
    assert "HAYDN1^\\u001b]0;owned\\u0007\\u009b2J\\u202e" in shown
    for printed in (table, listed, shown):
        assert not set(printed) & set(control) - set(string.printable[:-5])


def test_what_a_site_file_holds_does_nothing_to_the_terminal(tmp_path):
    (tmp_path / "given.yaml").write_text('"dev\\e]0;owned\\aices": []\n')
    checked = CliRunner().invoke(app, ["config", "check", str(tmp_path / "given.yaml")]).stdout
    assert "given.yaml:1:1: dev\\u001b]0;owned\\u0007ices: is not a known key" in checked


def test_deliveries_are_turned_one_by_one_and_by_filters(run, client):
    assert "4: PENDING" in run("deliveries release 4").stdout
    said = run("deliveries retarget --destination archive --state dead --to second")
    assert "retarget: 1 delivery" in said.stdout
    assert "Nothing has happened" in said.stdout
    done = run("deliveries priority --destination second --state pending --priority urgent --yes")
    assert "operation" in done.stdout
    newest = client.get("/api/operations").json()[0]
    assert (newest["act"], newest["arguments"]) == ("priority", {"priority": 1})
    assert "was over" in run(f"operations stop {newest['id']}").stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("deliveries show 999999", "There is no such delivery."),
        ("deliveries retarget 1", "--to is needed"),
        ("deliveries retarget 1 --to nowhere", "There is no destination nowhere."),
        ("deliveries retry 1 --priority low", "--priority does not belong here"),
        ("deliveries priority 1 --priority soon", "priority: one of urgent, high, routine, low"),
        ("deliveries retry 1 --state dead", "not both"),
        ("deliveries cancel", "narrow them down"),
        ("deliveries list --state asleep", "state: one of"),
        ("deliveries list --age 3w", "age: one of"),
        ("destinations show nowhere", "There is no such destination."),
        ("operations show 999999", "There is no such operation."),
        ("images show 1.2.3", "Nothing was received of this study."),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(run, command, said):
    with pytest.raises(BrokerError, match=said):
        run(command)


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("orders list --status sheduled", "'scheduled'"),
        ("worklist list --status waiting", "'arrived'"),
        ("images list --state unroutd", "'unrouted'"),
        ("messages list --outcome rejected", "'refused'"),
        ("messages sent --state failed", "'dead'"),
    ],
)
def test_a_state_that_does_not_exist_is_refused_and_never_an_empty_list(run, command, known):
    said = run(command)
    assert (said.exit_code, said.stdout) == (2, "")
    assert known in said.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("destinations show nowhere", 1, "broker: There is no such destination."),
        ("deliveries explode", 2, "explode"),
    ],
)
def test_an_exit_code_says_whether_it_was_refused_or_mistyped(site, arguments, code, said):
    words = [BROKER, *arguments.split(), *(place(site) if code == 1 else ())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert code == 2 or len(done.stderr.splitlines()) == 1


def place(site):
    return ["--config", str(site.loaded.path), "--data-dir", str(site.data_dir)]


def test_long_work_shows_how_far_it_is_on_a_terminal_and_nowhere_else(site, tmp_path):
    quiet = subprocess.run(
        [BROKER, "backup", tmp_path / "one", *place(site)], capture_output=True, text=True, check=False
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    shown, printed = on_a_terminal([BROKER, "backup", tmp_path / "two", *place(site)])
    assert "━" in shown, "a bar"
    assert "━" not in printed


def on_a_terminal(words):
    """Run a command whose stderr is a terminal; answer what stands there, and what it printed."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=slave, text=True, env=env)
    os.close(slave)
    shown = b""
    try:
        # Until nobody holds the terminal any more; what is not read would stop who writes.
        with suppress(OSError):
            while part := os.read(master, 65536):
                shown += part
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(master)
    assert process.returncode == 0, shown
    return shown.decode(), printed
