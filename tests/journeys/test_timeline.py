"""At three in the morning, with only the pages: why is this patient not on the scanner, and what happened to the exam?"""

import re
import shutil

import hl7.client
import pytest

from tests.broker_process import RunningBroker, wait_until
from tests.journeys.browser import a_context
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image, push

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(400)]

ACCESSION, STUDY, NAME = "TIME0001", "1.2.826.0.1.3680043.10.777.2", "ZZTIME^ANNA"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker with an order for CT1, one image of it, and a copy delivered."""
    folder = tmp_path_factory.mktemp("t")
    site = {
        "site": {"name": "Time Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT"}, {"ae_title": "MR1", "modality": "MR"}],
        "destinations": {"copies": {"kind": "folder", "path": "copies"}},
        "completion": {"series_quiet": "1s", "study_quiet": "1s", "cap": "1m"},
        "routes": [{"name": "ct-copies", "when": {"Modality": "CT"}, "send": ["copies"]}],
    }
    running = RunningBroker(folder, site)
    try:
        running.start()
        with hl7.client.MLLPClient("127.0.0.1", running.hl7) as ris:
            message = orm(accession=ACCESSION, patient_id="ZT1", name=NAME, study_uid=STUDY)
            assert b"|AA|" in ris.send_message(message)
        path, _ = an_image(folder, StudyInstanceUID=STUDY, PatientID="ZT1", AccessionNumber=ACCESSION)
        push(running, path)
        wait_until(lambda: running.api("deliveries?state=DELIVERED"), timeout_s=60, what="a copy")
        yield running
    finally:
        code = running.stop()
        print(running.tail(30))
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "SIGTERM ends in order"


@pytest.fixture(params=[(1280, True), (390, False)], ids=["desk", "phone without scripts"])
def page(request, chromium, broker):
    """A tab; its console stays silent."""
    width, scripts = request.param
    context = a_context(
        chromium, broker, viewport={"width": width, "height": 800}, java_script_enabled=scripts
    )
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    yield tab
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut"
    context.close()
    assert said == []


def look_for(page, text):
    page.goto("/")
    page.get_by_role("searchbox", name="Find").fill(text)
    page.get_by_role("searchbox", name="Find").press("Enter")


def test_why_a_scanner_does_not_see_a_patient(page):
    look_for(page, "anna zztime")
    page.wait_for_url("**/find")
    page.get_by_role("link", name=ACCESSION).first.click()
    page.wait_for_url(re.compile(r"/orders/\d+$"))
    page.get_by_label("Device").select_option("MR1")
    page.get_by_role("button", name="Would it?").click()
    page.wait_for_url(re.compile(r"device=MR1"))
    sight = page.locator("section.note", has_text="MR1 would not be shown")
    assert "Modality is CT, asked for MR" in sight.inner_text()
    assert "never asked" in page.locator("main").inner_text()
    assert "zztime" not in page.url.lower()


def test_what_happened_to_an_exam_from_message_to_copy(page):
    look_for(page, ACCESSION)
    page.wait_for_url(re.compile(r"/orders/\d+$"))
    told = page.locator("ol.timeline").inner_text()
    places = [
        told.index(part) for part in ("received from", "Step scheduled", "1 image received from", "delivered")
    ]
    assert places == sorted(places), told
    picture = page.locator("ol.timeline img").first
    picture.scroll_into_view_if_needed()
    wait_until(
        lambda: picture.evaluate("image => image.complete && image.naturalWidth > 0"), what="a preview"
    )
    assert "not for diagnosis" in told
    page.locator("ol.timeline a", has_text="message").first.click()
    page.wait_for_url(re.compile(r"/messages/\d+$"))
    assert page.locator("tr", has_text="PID-5").locator("td.wrap").first.inner_text() == NAME
    page.get_by_role("link", name="Read it with the mapping in force").click()
    page.wait_for_url(re.compile(r"again=true"))
    assert "OBR-18" in page.locator("main").inner_text()
