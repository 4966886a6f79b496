"""A loaner scanner that is refused, let in by one click while nothing restarts, and seen working on its passport."""

import shutil

import pytest

from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.failures import AssociationRejected
from tests.broker_process import RunningBroker, wait_until
from tests.journeys.browser import a_context

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(400)]
VERIFICATION, IMPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d")
    site = {
        "site": {"name": "Loan Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT", "contact": "CT console, 4711"}],
    }
    running = RunningBroker(folder, site, {"BROKER_LISTEN__DICOM__ACCEPT_UNKNOWN_DEVICES": "never"})
    try:
        yield running.start()
    finally:
        code = running.stop()
        print(running.tail(30))
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "SIGTERM ends in order"


def echo(broker, calling="LOANER", called="BROKER"):
    contexts = [Proposal(VERIFICATION, (IMPLICIT,))]
    try:
        with open_association(
            "127.0.0.1", broker.dicom, calling_ae_title=calling, called_ae_title=called, contexts=contexts
        ) as association:
            return association.echo() == 0
    except AssociationRejected:
        return False


def test_a_loaner_is_admitted_and_its_passport_ticks(broker, chromium):
    assert not echo(broker)
    assert not echo(broker, called="BROCKER")
    wait_until(lambda: len(broker.api("knocks")) == 2, what="two refusals on record")
    context = a_context(chromium, broker, viewport={"width": 1280, "height": 800})
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto("/devices")
    refused = page.locator("tr", has_text="its AE title is not among our devices")
    refused.get_by_role("button", name="Let in for 8 h: LOANER at 127.0.0.1").click()
    page.wait_for_url("**/devices#admitted")
    wait_until(lambda: echo(broker), what="an answer to the loaner")

    page.goto("/devices/LOANER/passport")
    page.locator("#ticks", has_text="Echo works").wait_for(timeout=90_000)
    assert "BROKER" in page.locator("table.values").first.inner_text()
    assert not echo(broker, called="BROCKER")
    page.locator("#ticks", has_text="it calls another AE title than ours").wait_for(timeout=90_000)

    page.goto("/devices")
    page.get_by_role("button", name="End now: LOANER at 127.0.0.1").click()
    page.wait_for_url("**/devices#admitted")
    wait_until(lambda: not echo(broker), what="a refusal of the loaner")
    context.close()
    assert said == []
    (admission,) = broker.api("admissions")
    assert (admission["actor"], admission["ended_by"]) == ("tester", "tester")


def test_the_command_line_does_the_same(broker):
    assert not echo(broker, calling="MOBILE")
    told = broker.cli("devices", "admit", "MOBILE", "127.0.0.0/8", "--reason", "outdoor tent", "--hours", "2")
    number = told.partition(":")[0]
    wait_until(lambda: echo(broker, calling="MOBILE"), what="an answer to the mobile")
    wait_until(lambda: broker.api("devices/MOBILE")["echo"], what="the echo on record")
    assert "MOBILE" in broker.cli("devices", "list")
    assert "let in" in told
    assert "Called AE title" in broker.cli("devices", "passport", "MOBILE")
    wait_until(lambda: broker.json("devices", "show", "MOBILE")[0]["conversations"], what="a conversation")
    assert "A-ASSOCIATE-RJ 1/1/3" in broker.cli("devices", "knocks")
    assert broker.cli("devices", "end", number) == f"{number}: ended\n"
    wait_until(lambda: not echo(broker, calling="MOBILE"), what="a refusal of the mobile")
