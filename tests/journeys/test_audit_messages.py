"""A running broker tells a collector by TLS who asked, who looked and what changed, also what it missed."""

import pytest

from broker.db.engine import open_engine
from broker.db.reports import SqlReports
from tests.broker_process import RunningBroker, wait_until
from tests.peers import run
from tests.syslog_collector import Rsyslog

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_what_happens_is_told_a_collector_and_what_it_missed_when_it_is_back(tmp_path):
    collector = Rsyslog(tmp_path)
    collector.start()
    settings = {
        "name": "siem",
        "host": "localhost",
        "port": collector.port,
        "ca": str(collector.certificate),
    }
    site = {"site": {"name": "General Hospital"}, "audit": {"collectors": [settings]}}
    broker = RunningBroker(tmp_path, site).start()
    try:
        broker.sign_in()
        collector.wait_for(lambda lines: "User Authentication" in {line.event for line in lines})
        collector.stop(kill=True)
        assert broker.stop() == 0  # roles that stop and start: it hears of them when it is back
        broker.start()
        queried = ["-W", "-aec", "BROKER", "-k", "PatientName=HAYDN*", "-k", "PatientID=PID1"]
        run(
            "findscu",
            *queried,
            "-k",
            "ScheduledProcedureStepSequence[0].Modality=CT",
            "127.0.0.1",
            broker.dicom,
        )
        assert "0 problems" in broker.cli("audit", "verify")
        # Rows are read here: every command is a process, and starts for seconds on a busy machine.
        engine = open_engine(broker.database_url)
        reports = SqlReports(engine)
        wait_until(
            lambda: reports.collectors()[0].failing_since, timeout_s=60, what="the collector's absence"
        )
        collector.start()
        lines = collector.wait_for(
            lambda lines: (
                {"Query", "Audit Log Used", "Application Activity"} <= {line.event for line in lines}
            ),
            timeout_s=90,
        )
        (query,) = [line for line in lines if line.event == "Query"]
        assert b"HAYDN*" in query.query
        assert b"PID1" in query.query
        started = {
            line.root.find("ActiveParticipant").get("UserID").partition("@")[0]
            for line in lines
            if line.event == "Application Activity"
        }
        assert started <= {"hl7", "dicom", "sweep", "web"}
        numbers = {line.number for line in lines}
        assert numbers <= set(range(1, max(numbers) + 1))
        # They count as handed over a moment after they arrived.
        wait_until(lambda: not reports.collectors()[0].failing_since, timeout_s=60, what="its being back")
        engine.dispose()
        (line,) = broker.json("audit", "collectors")
        assert (line["name"], line["protocol"], line["state"]) == ("siem", "tls", "up")
        assert "HAYDN" not in broker.log.read_text()
    finally:
        broker.stop()
        collector.stop()
