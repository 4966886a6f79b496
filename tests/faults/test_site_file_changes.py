"""What a person does to the site file of a running broker, and what becomes of roles that die meanwhile."""

import http.client
import json
import os
import signal
import subprocess

import pytest

from broker.dashboard import health
from broker.errors import DatabaseUnavailable
from tests.broker_process import BROKER, RunningBroker, wait_until
from tests.peers import run

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def broker(tmp_path):
    running = RunningBroker(tmp_path, {"devices": [{"ae_title": "CT1", "modality": "CT"}]})
    try:
        yield running.start()
    finally:
        running.stop()


def echo(broker, called):
    return run("echoscu", "-aec", called, "127.0.0.1", broker.dicom, check=False).returncode == 0


def parts(broker):
    connection = http.client.HTTPConnection("127.0.0.1", broker.web, timeout=60)
    connection.request("GET", "/healthz")
    return json.loads(connection.getresponse().read())["parts"]


def test_a_role_comes_back_although_the_site_file_was_broken_meanwhile(broker):
    good = broker.config.read_text()
    broker.config.write_text("oops: [")
    (pid,) = broker.pids("dicom")

    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: broker.pids("dicom") not in ([], [pid]), what="a new dicom role")
    wait_until(lambda: echo(broker, "BROKER"), what="an answer")
    # Reloading the broken file changes nothing; reloading a mended one changes everything, in order.
    broker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "site file not reloaded" in broker.log.read_text(), what="the refusal")
    assert echo(broker, "BROKER")
    broker.config.write_text(json.dumps(json.loads(good) | {"site": {"ae_title": "RENAMED"}}))
    broker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: echo(broker, "RENAMED"), what="the new title")
    assert not echo(broker, "BROKER")


def test_a_dead_role_is_not_called_healthy_for_the_age_of_its_last_proof(broker):
    pid = broker.pids("sweep")[0]
    os.kill(pid, signal.SIGKILL)
    # Its last proof would be believed for 20 s; it is taken back at once, and replaced by the new role's.
    wait_until(lambda: broker.pids("sweep") not in ([], [pid]), what="a new sweep role")
    wait_until(lambda: parts(broker)["sweep"]["ok"], what="its own proof")
    assert '"died_role": "sweep"' in broker.log.read_text()


def test_a_command_in_a_place_without_a_broker_says_so_and_makes_nothing(broker, tmp_path):
    place = tmp_path / "elsewhere"
    done = subprocess.run(
        [BROKER, "orders", "list", "-c", broker.config, "-d", place],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no broker has run in" in done.stderr
    assert not place.exists()


class _Files:
    def __init__(self, *, room):
        self.room = room

    def has_room(self):
        return self.room


class _Site:
    """As much of a wired broker as health asks for."""

    def __init__(self, clock, *, room=True, away=False):
        self.clock, self.files, self.reports, self.loaded = clock, _Files(room=room), self, self
        self.away, self.site, self.listen, self.storage = away, self, self, None

    def roles(self):
        if self.away:
            raise DatabaseUnavailable
        return []


def test_health_names_a_full_disk_and_a_database_that_is_away(clock):
    assert [part.ok for part in health(_Site(clock)) if part.name == "disk reserve"] == [True]
    full = {part.name: part for part in health(_Site(clock, room=False))}
    assert not full["disk reserve"].ok
    assert "limits.storage" in full["disk reserve"].detail
    away = health(_Site(clock, away=True))
    assert [(part.name, part.ok) for part in away] == [("database", False)]
