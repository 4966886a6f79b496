"""The first person at a new broker: from the printed link to who looked at whom, in a real browser."""

import shutil

import hl7.client
import pytest

from tests.broker_process import RunningBroker
from tests.journeys.browser import PATIENCE_MS
from tests.journeys.hl7_orders import orm

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(400)]
PASSWORD = "one lamp, two doors"


@pytest.fixture
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d")
    running = RunningBroker(folder, {"site": {"name": "Door Hospital", "timezone": "UTC"}})
    try:
        yield running.start()
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_from_the_printed_link_to_who_looked_at_a_patient(chromium, broker):
    printed = broker.log.read_text()
    link = next(word for word in printed.split() if "/first-run#" in word)
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(link)
    token = link.partition("#")[2]
    assert tab.get_by_label("One-time token").input_value() == token
    assert tab.url.endswith("/first-run"), "the token is gone from the address"
    assert not [url for url in asked[1:] if token in url]
    tab.get_by_label("Your name").fill("Ada")
    tab.get_by_label("Password", exact=False).first.fill(PASSWORD)
    tab.get_by_label("The same again").fill(PASSWORD)
    tab.get_by_role("button", name="Make the account").click()
    tab.get_by_text("on call: ada").wait_for()
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as ris:
        sent = orm(accession="DOOR1", patient_id="ZD1", name="ZZDOOR^ANNA", study_uid="1.2.3.4")
        assert b"|AA|" in ris.send_message(sent)
    tab.goto(f"http://127.0.0.1:{broker.web}/orders/1")
    assert tab.get_by_role("heading", name="ZZDOOR, ANNA").is_visible()
    tab.get_by_role("button", name="Hide names").click()
    tab.get_by_role("heading", name="Z•••, A•••").wait_for()
    assert "ZZDOOR" not in tab.content()
    tab.get_by_role("link", name="Admin").click()
    tab.get_by_role("link", name="Audit").click()
    tab.get_by_label("Patient ID").fill("ZD1")
    tab.locator("select[name=what]").select_option("viewed")
    tab.get_by_role("button", name="Search").click()
    row = tab.locator("tbody tr", has_text="order 1").first
    assert "ada" in row.inner_text()
    assert "127.0.0.1" in row.inner_text()
    tab.get_by_role("button", name="Verify the whole trail").click()
    tab.get_by_text("Nothing was changed, taken out or cut off").wait_for()
    tab.get_by_role("button", name="Sign out").click()
    tab.wait_for_url("**/sign-in")
    tab.goto(f"http://127.0.0.1:{broker.web}/orders/1")
    tab.wait_for_url("**/sign-in?next=%2Forders%2F1")
    tab.get_by_label("Name").fill("ADA")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/orders/1")
    context.close()
    assert said == []
    log = broker.log.read_text()
    assert log.count(token) == 1, "printed once, never logged"
    assert PASSWORD not in log
