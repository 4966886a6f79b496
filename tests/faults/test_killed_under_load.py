"""kill -9 of everything under load: whatever was acknowledged is there, to the byte, and where it is owed."""

import shutil

import pytest

from tests.broker_process import RunningBroker, wait_until
from tests.ledger.check import check, quiesce
from tests.ledger.hospital import a_site
from tests.ledger.ledger import ACKNOWLEDGED, ENDED, IMAGE, MESSAGE, STARTED, Ledger
from tests.ledger.load import Load
from tests.ledger.receivers import RisReceiver, StorageReceiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SENDING = 6
"""Three destinations, two deliveries at once to each."""


@pytest.fixture
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("u")  # short: a Valkey socket lives in it
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(
    "services", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)
def test_all_killed_under_load_nothing_acknowledged_is_lost_and_everything_goes_where_it_is_owed(
    services, folder
):
    ledger = Ledger(folder / "ledger")
    receivers = [StorageReceiver(ledger, "archive"), StorageReceiver(ledger, "cad"), RisReceiver(ledger)]
    archive, cad, ris = (receiver.port for receiver in receivers)
    broker = RunningBroker(folder, a_site(archive=archive, cad=cad, ris=ris), services).start()
    load = Load(ledger, hl7=broker.hl7, dicom=broker.dicom, seed=1).start()
    try:
        wait_until(lambda: enough(ledger, 20), timeout_s=60, what="load")
        ledger.crash("everything", sending=SENDING)
        broker.kill()
        before = ledger.count(ACKNOWLEDGED)
        broker.start()
        wait_until(lambda: ledger.count(ACKNOWLEDGED) > before + 60, timeout_s=60, what="load after the kill")
        load.stop()
        assert quiesce(broker.database_url, within_s=60) == []
    finally:
        code = broker.stop()
        for receiver in receivers:
            receiver.close()
        print(broker.tail(30))
    assert code == 0
    assert check(ledger, broker.database_url, broker.data_dir) == []


def enough(ledger, count):
    return all(ledger.count(ACKNOWLEDGED, kind) >= count for kind in (MESSAGE, IMAGE)) and all(
        ledger.count(ACKNOWLEDGED, kind) >= 3 for kind in (STARTED, ENDED)
    )
