"""A person on call, a browser and a running broker: find, understand, act, by keyboard, and a silent console."""

import re
import shutil

import hl7.client
import pytest

from tests.broker_process import RunningBroker, wait_until
from tests.journeys.browser import a_context, tab_to
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image, push
from tests.peers import storescp
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(400)]

ACCESSION, STUDY = "PAGE0001", "1.2.826.0.1.3680043.10.777.1"
NAME = "<b>ZZTEST</b>^\u202eANNA"


FAINT_TEXTS = """() => {
  const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const found = colour(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const contrast = e => {
    const [a, b] = [light(colour(getComputedStyle(e).color)), light(ground(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => contrast(e) < 4.5)
    .map(e => `${e.tagName} ${e.className} ${contrast(e).toFixed(2)}`);
}"""


@pytest.fixture(scope="module")
def cad():
    return free_port()


@pytest.fixture(scope="module")
def broker(cad, tmp_path_factory):
    """A broker whose CAD is down, with an order, its images, and a delivery that has died of it."""
    folder = tmp_path_factory.mktemp("p")
    site = {
        "site": {"name": "Page Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT"}],
        "destinations": {
            "cad": {
                "kind": "dicom",
                "host": "127.0.0.1",
                "port": cad,
                "called_ae_title": "CAD",
                "retry": {"first": "1s", "cap": "1s", "life": "2s"},
            },
            "copies": {"kind": "folder", "path": "copies"},
        },
        "completion": {"series_quiet": "1s", "study_quiet": "1s", "cap": "1m"},
        "routes": [
            {"name": "ct-to-cad", "when": {"Modality": "CT"}, "send": ["cad"], "unit": "series"},
            {"name": "ct-copies", "when": {"Modality": "CT"}, "send": ["copies"]},
            {
                "name": "mammo-only",
                "when": {"any": [{"Modality": "MG"}, {"all": [{"Modality": "CT"}, {"PatientID": "MG*"}]}]},
                "send": ["copies"],
            },
        ],
    }
    running = RunningBroker(folder, site)
    try:
        running.start()
        with hl7.client.MLLPClient("127.0.0.1", running.hl7) as ris:
            message = orm(accession=ACCESSION, patient_id="ZZ1", name=NAME, study_uid=STUDY)
            assert b"|AA|" in ris.send_message(message.replace("|2.3.1", "|2.3.1||||||UNICODE UTF-8", 1))
        path, _ = an_image(folder, StudyInstanceUID=STUDY, PatientID="ZZ1", AccessionNumber=ACCESSION)
        push(running, path)
        wait_until(lambda: running.api("deliveries?state=DEAD"), timeout_s=60, what="a dead delivery")
        yield running
    finally:
        code = running.stop()
        print(running.tail(30))
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "SIGTERM ends in order"


@pytest.fixture(params=["with scripts", "without scripts"])
def page(request, chromium, broker):
    """A tab; its console must stay silent and nothing may leave for another host."""
    context = a_context(
        chromium,
        broker,
        viewport={"width": 1280, "height": 800},
        java_script_enabled=request.param == "with scripts",
    )
    tab, said, strangers = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda sent: strangers.append(sent.url) if "127.0.0.1" not in sent.url else None)
    yield tab
    context.close()
    assert said == []
    assert strangers == []


def test_a_study_is_found_by_its_accession_number_and_tells_why_a_route_did_not_take_it(page):
    page.goto("/")
    page.get_by_role("searchbox", name="Find").fill(ACCESSION)
    page.keyboard.press("Enter")
    page.wait_for_url("**/orders/*")
    page.locator(f'a.uid[title="{STUDY}"]').first.click()
    page.wait_for_url(f"**/studies/{STUDY}")
    assert "<b>ZZTEST</b>, \ufffdANNA" in page.locator("h1").inner_text()
    why = page.locator("details", has=page.get_by_text("mammo-only"))
    assert "did not take 1 image" in why.inner_text()
    inner = why.locator("li", has_text="PatientID is like MG*")
    assert "found ZZ1" in inner.inner_text()
    outer = why.locator("li", has_text="one of these holds")
    assert inner.bounding_box()["x"] - outer.bounding_box()["x"] == 44, "two deeper"


def test_the_overview_leads_to_what_needs_a_person(page):
    page.goto("/")
    assert re.fullmatch(r"\d+ things? needs? you", page.locator("h1").inner_text())
    page.get_by_role("link", name="1 delivery to cad needs a person").click()
    page.wait_for_url("**/deliveries?destination=cad&state=DEAD")
    assert page.locator("tbody tr").count() == 1


def test_deliveries_are_filtered_and_the_filter_is_in_the_address(page):
    page.goto("/deliveries")
    assert page.locator("tbody tr").count() >= 2
    page.get_by_label("State").select_option("DELIVERED")
    page.locator("select[name=destination]").select_option("copies")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/deliveries?state=DELIVERED&destination=copies&*")
    assert page.locator("tbody tr").count() == 1
    assert page.locator(".state.ok", has_text="delivered").is_visible()


@pytest.mark.parametrize(
    "path", ["/", "/handover", "/worklist", "/orders", "/deliveries", f"/studies/{STUDY}"]
)
def test_nothing_is_cut_on_a_phone(page, path):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(path)
    widest = page.locator("main *:visible").evaluate_all(
        "all => Math.max(...all.filter(e => !e.closest('.hidden, pre')).map(e => e.getBoundingClientRect().right))"
    )
    assert widest <= 390


def test_keys_find_and_walk_the_rows(chromium, broker):
    context = a_context(chromium, broker)
    tab = context.new_page()
    tab.goto("/")
    tab.keyboard.press("g")
    tab.keyboard.press("d")
    tab.wait_for_url("**/deliveries")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    tab.keyboard.press("k")
    assert tab.locator("tr.here").count() == 1
    assert tab.locator("tbody tr").first.get_attribute("class") == "here"
    tab.keyboard.press("Enter")
    tab.wait_for_url(re.compile(r"/deliveries/\d+$"))
    tab.keyboard.press("/")
    tab.keyboard.type(ACCESSION)
    tab.keyboard.press("Enter")
    tab.wait_for_url(re.compile(r"/orders/\d+$"))
    context.close()


def test_the_keys_are_told_by_a_dialog_that_gives_the_focus_back(chromium, broker):
    context = a_context(chromium, broker)
    tab = context.new_page()
    tab.goto("/deliveries?state=DEAD")
    tab.keyboard.press("j")
    tab.keyboard.press("?")
    dialog = tab.get_by_role("dialog", name="Keys")
    assert dialog.is_visible()
    assert "Go to the row's Retry" in dialog.inner_text()
    tab.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert tab.locator(":focus").get_attribute("href").startswith("/deliveries/")
    tab.keyboard.press("r")
    assert tab.locator(":focus").inner_text() == "Retry now"
    tab.get_by_role("button", name="Keys").click()
    dialog.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()
    tab.keyboard.press("g")
    tab.keyboard.press("m")
    tab.wait_for_url("**/messages")
    context.close()


def test_the_first_tab_skips_to_the_content_and_the_rail_counts_what_needs_a_person(page):
    page.goto("/messages")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("id") == "find"
    badge = page.get_by_role("navigation", name="Main").get_by_role("link", name="Deliveries 1 dead")
    assert badge.locator(".badge").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(chromium, broker, scheme):
    """WCAG 2.2 1.4.3: 4.5 to 1, for old screens and tired eyes."""
    context = a_context(chromium, broker, color_scheme=scheme)
    tab = context.new_page()
    for path in (
        "/",
        "/handover",
        "/worklist",
        "/orders/1",
        "/messages",
        "/deliveries/1",
        f"/studies/{STUDY}",
    ):
        tab.goto(path)
        assert tab.evaluate(FAINT_TEXTS) == [], path
    context.close()


def test_the_handover_is_printed_on_one_sheet(chromium, broker, tmp_path):
    context = a_context(chromium, broker)
    tab = context.new_page()
    tab.goto("/")
    tab.get_by_role("link", name="Handover of the last shift").click()
    tab.wait_for_url("**/handover")
    assert tab.locator(".handover dt").count() == 10
    assert "cad 1" in tab.locator(".handover").inner_text()
    assert tab.pdf(format="A4").count(b"/Type /Page\n") == 1
    context.close()


def test_the_overview_is_streamed_and_moves_nothing_under_the_hand(chromium, broker):
    context = a_context(chromium, broker)
    tab = context.new_page()
    tab.goto("/")
    shown = tab.locator("#now").get_attribute("datetime")
    tab.wait_for_function("was => document.querySelector('#now').getAttribute('datetime') !== was", arg=shown)
    assert tab.title() == f"({tab.locator('h1').get_attribute('data-count')}) Overview · Worklist Broker"
    link = tab.get_by_role("link", name="1 delivery to cad needs a person")

    def stays_while_its_ages_change():
        tab.mouse.move(0, 0)
        link.hover()
        tab.evaluate("document.querySelector('#live-parts').dataset.mark = 'here'")
        tab.evaluate("document.querySelector('#live-parts table').dataset.mark = 'held'")
        shown = tab.locator("#now").get_attribute("datetime")
        tab.wait_for_function(
            "was => document.querySelector('#now').getAttribute('datetime') !== was", arg=shown
        )
        return tab.locator("[data-mark=held]").count() == 1

    # It is held for ten seconds at most: where nothing comes for so long, once more.
    wait_until(stays_while_its_ages_change, what="a table that stays under the hand")
    tab.mouse.move(0, 0)
    tab.locator("[data-mark=held]").wait_for(state="detached", timeout=90_000)
    context.close()


def test_the_overview_asks_by_itself_where_it_cannot_be_streamed_to_and_says_when_it_is_old(chromium, broker):
    context = a_context(chromium, broker)
    tab = context.new_page()
    tab.route("**/overview/stream", lambda route: route.abort())
    tab.goto("/")
    shown = tab.locator("#now").get_attribute("datetime")
    tab.wait_for_function("was => document.querySelector('#now').getAttribute('datetime') !== was", arg=shown)
    tab.route("**/overview/live", lambda route: route.abort())
    tab.locator("#stale").wait_for(state="visible", timeout=90_000)
    tab.unroute("**/overview/live")
    tab.locator("#stale").wait_for(state="hidden", timeout=90_000)
    context.close()


def test_a_dead_delivery_is_retried_by_keyboard_alone(chromium, broker, cad, tmp_path):
    """Last: it mends what the others look at."""
    context = a_context(chromium, broker, java_script_enabled=False)
    tab = context.new_page()
    tab.goto("/")
    tab_to(tab, "needs a person")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/deliveries?*state=DEAD")
    (dead,) = broker.api("deliveries?state=DEAD")
    with storescp(tmp_path / "cad", cad, ae_title="CAD"):
        tab_to(tab, "Retry now")
        tab.keyboard.press("Enter")
        tab.wait_for_url(f"**/deliveries/{dead['id']}")
        wait_until(lambda: broker.api("deliveries?state=DELIVERED&destination=cad"), timeout_s=60)
        assert len(list((tmp_path / "cad").iterdir())) == 1
    tab.reload()
    assert tab.locator("h1 .state.ok", has_text="delivered").is_visible()
    assert tab.get_by_text("retried by tester").is_visible()
    context.close()
