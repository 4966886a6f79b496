"""A running broker tells of a certificate that ends soon, by webhook, and somebody takes it in hand."""

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from broker.db.engine import open_engine
from broker.db.reports import SqlReports
from broker.domain.alerts import AlertKind
from broker.notices.webhook import signature
from tests.broker_process import RunningBroker, wait_until
from tests.webhook_receiver import a_hook

pytestmark = pytest.mark.slow


def test_what_is_wrong_is_told_and_taken_in_hand(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "5",
         "-subj", "/CN=x", "-keyout", "key.pem", "-out", "soon.pem"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    with a_hook() as hook:
        site = {
            "site": {"name": "Hospital", "public_url": "https://broker.example"},
            "alerts": {
                "webhook": {"url": f"http://127.0.0.1:{hook.server_port}/", "ca": str(tmp_path / "soon.pem")}
            },
        }
        broker = RunningBroker(tmp_path, site, {"BROKER_ALERTS_WEBHOOK_SECRET": "s3cret"}).start()
        try:
            wait_until(lambda: hook.seen, timeout_s=60, what="a webhook")
            _, headers, body = hook.seen[0]
            at_s = int(headers["X-Broker-Signature"].partition(",")[0].removeprefix("t="))
            assert headers["X-Broker-Signature"] == signature("s3cret", at_s, body)
            (told,) = [one for one in json.loads(body)["alerts"] if one["kind"] == "certificate"]
            assert (told["subject"], told["severity"]) == ("alerts.webhook.ca", "warning")
            assert told["link"].startswith("https://broker.example/")
            # Rows are read here: every command is a process, and starts for seconds on a busy machine.
            engine = open_engine(broker.database_url)
            reports = SqlReports(engine)
            (alert,) = [one for one in reports.open_alerts() if one.kind is AlertKind.CERTIFICATE]
            assert "in hand of" in broker.cli("alerts", "ack", alert.id)
            assert reports.alert(alert.id).acknowledged_by
            until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
            broker.cli("maintenance", "add", "hl7", "--until", until, "--reason", "cables")
            (window,) = reports.maintenance_windows(now=datetime.now(UTC))
            assert (window.subject, window.reason) == ("hl7", "cables")
            engine.dispose()
        finally:
            broker.stop()
