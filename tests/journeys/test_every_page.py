"""Every page there is, empty, full and with hostile names in it: by axe, light and dark, at a desk and on a phone.

Which pages there are is read from the routes: a new one that is named nowhere here fails.
"""

import contextlib
import importlib
import os
import pkgutil
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hl7.client
import pytest
from sqlalchemy import func, insert, select, update

import broker.web.pages
from broker.db.engine import open_engine
from broker.db.schema import DELIVERY, KNOCK, MAINTENANCE, STEP
from broker.domain.knocks import KnockReason
from tests.broker_process import RunningBroker, wait_until
from tests.journeys.browser import PATIENCE_MS, a_context
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image, push
from tests.peers import NODE_MODULES, findscu
from tests.performance.full_database import fill
from tests.ports import free_port
from tests.postgres import missing

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(500)]
STUDY = "1.2.826.0.1.3680043.10.778.9"
SCRIPT = "<script>document.title='run'</script>"
NAME = f"{SCRIPT}^\u202eANNA" + "W" * 40
FORMULA = "=cmd|' /C calc'!A0"
TITLE = "<i>A\"'&{{7*7}}"
LONG = f"{SCRIPT} \u202eevil {FORMULA} " + "x" * 4000

PAGES = {
    "/": "/",
    "/handover": "/handover",
    "/find": "/find",
    "/worklist": "/worklist?date=all",
    "/worklist/print": "/worklist/print?date={day}",
    "/orders": "/orders",
    "/orders/{order_id}": "/orders/{order}?device=CT1",
    "/messages": "/messages",
    "/messages/{message_id}": "/messages/{message}",
    "/messages/out/{delivery_id}": "/messages/out/{sent}",
    "/deliveries": "/deliveries",
    "/deliveries/review": "/deliveries/review?do=retry&state=DEAD",
    "/deliveries/{delivery_id}": "/deliveries/{dead}",
    "/operations": "/operations",
    "/operations/{operation_id}": "/operations/{operation}",
    "/destinations": "/destinations",
    "/destinations/{name}": "/destinations/late",
    "/devices": "/devices",
    "/devices/{ae_title:path}": "/devices/CT1",
    "/devices/{ae_title:path}/passport": "/devices/CT1/passport",
    "/routes": "/routes?study=" + STUDY,
    "/images": "/images",
    "/studies/{study_instance_uid}": "/studies/" + STUDY,
    "/admin": "/admin",
    "/admin/audit": "/admin/audit",
    "/admin/captures": "/admin/captures",
    "/admin/configuration": "/admin/configuration",
    "/admin/configuration/diff": "/admin/configuration/diff?before=1",
    "/admin/configuration/{configuration_id}": "/admin/configuration/1",
    "/admin/certificates": "/admin/certificates",
    "/alerts": "/alerts",
    "/probe": "/probe",
    "/probe/{run}": "/probe/{probe}",
    "/account": "/account",
}
"""Route -> address with something on it."""
MORE = (
    "/messages?way=out",
    "/messages?sender=RIS",
    "/deliveries?state=DEAD",
    "/deliveries/review?do=retarget&state=DEAD",
    "/orders?incomplete=true",
    "/images?state=UNROUTED",
    "/worklist",
    "/no/such/page",
    "/destinations/copies",
    "/devices/{title}",
)
"""Other faces of the same pages."""
NO_PAGES = {
    "/needs": "badges of the rail",
    "/overview/live": "a part of the overview",
    "/overview/stream": "server-sent events",
    "/worklist/states": "states of the board",
    "/operations/{operation_id}/live": "a part of an operation",
    "/destinations/{name}/test": "a part of a destination",
    "/devices/{ae_title:path}/ticks": "a part of a passport",
    "/probe/{run}/live": "a part of a synthetic exam",
    "/instances/{instance_id}/preview": "a picture",
    "/messages/{message_id}/raw": "bytes to keep",
    "/sign-in": "of nobody: tested by itself",
    "/first-run": "of nobody: tested by itself",
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = """async (tags) => (await axe.run(document, {
  runOnly: { type: "tag", values: tags }, resultTypes: ["violations"],
})).violations.map(v => `${v.id} (${v.help}): ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(" | ")}`)"""
TOO_WIDE = """() => {
  const root = document.documentElement;
  if (root.scrollWidth <= root.clientWidth) return [];
  return [...document.querySelectorAll("body *")].filter(e => !e.closest(".hidden, .skip")
    && e.getBoundingClientRect().right > root.clientWidth + 0.5)
    .slice(0, 5).map(e => `${e.tagName}.${e.className} ${(e.textContent || "").trim().slice(0, 60)}`);
}"""


def routes_of_pages():
    """Answer every path a browser can open, whatever module brings it."""
    found = set()
    for module in pkgutil.iter_modules(broker.web.pages.__path__):
        router = importlib.import_module(f"broker.web.pages.{module.name}").router
        found |= {route.path for route in router.routes if "GET" in route.methods}
    return found


def test_every_page_there_is_stands_in_the_list():
    assert routes_of_pages() == PAGES.keys() | NO_PAGES.keys()


@pytest.fixture(scope="module")
def axe():
    path = Path(os.environ.get(NODE_MODULES, "/none")) / "axe-core" / "axe.min.js"
    if not path.is_file():
        missing(f"axe-core ({NODE_MODULES})")
    return path


@pytest.fixture(scope="module")
def broker_of_all(tmp_path_factory):
    with a_new_broker(tmp_path_factory.mktemp("e")) as running:
        yield running


@contextlib.contextmanager
def a_new_broker(folder):
    """Run a broker nobody has talked to yet."""
    node = {"kind": "dicom", "host": "127.0.0.1", "port": free_port(), "called_ae_title": "LATE"}
    site = {
        "site": {"name": "Every <b>Hospital</b>", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT", "contact": f"CT console {FORMULA}"}],
        "destinations": {
            "late": {**node, "contact": "PACS team, 4711", "retry": {"first": "1s", "cap": "1s", "life": "2s"}},
            "copies": {"kind": "folder", "path": "copies"},
            "ris": {"kind": "mllp", "host": "127.0.0.1", "port": free_port()},
        },
        "feedback": {"destination": "ris", "message": "ORM^O01"},
        "completion": {"series_quiet": "1s", "study_quiet": "1s", "cap": "1m"},
        "routes": [
            {"name": "ct-late", "when": {"Modality": "CT"}, "send": ["late"]},
            {"name": "ct-copies", "when": {"Modality": "CT"}, "send": ["copies"]},
            {"name": "mammo-only", "when": {"any": [{"Modality": "MG"}, {"PatientID": "MG*"}]}, "send": ["late"]},
        ],
    }  # fmt: skip
    running = RunningBroker(folder, site, {"BROKER_LISTEN__DICOM__ACCEPT_UNKNOWN_DEVICES": "never"})
    try:
        yield running.start()
    finally:
        code = running.stop()
        print(running.tail(30))
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "SIGTERM ends in order"


@pytest.fixture
def look(chromium, broker_of_all, axe):
    """Answer what opens a page and says what is wrong with it."""
    context = a_context(
        chromium, broker_of_all, viewport={"width": 1280, "height": 800}, reduced_motion="reduce"
    )
    context.add_init_script(path=axe)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))

    def at(path):
        answer = tab.goto(path)
        assert answer.status in {200, 404, 422}, f"{path}: {answer.status}"
        wrong = []
        for scheme, width in (("light", 1280), ("dark", 360)):
            tab.emulate_media(color_scheme=scheme)
            tab.set_viewport_size({"width": width, "height": 800})
            wrong += [f"{path}, {scheme}, {width}: {one}" for one in tab.evaluate(AXE, RULES)]
        wrong += [f"{path} is wider than a phone: {one}" for one in tab.evaluate(TOO_WIDE)]
        tab.emulate_media(color_scheme="light")
        tab.set_viewport_size({"width": 1280, "height": 800})
        return wrong

    at.tab = tab
    yield at
    context.close()
    assert [text for text in said if "404 (Not Found)" not in text and "422 (" not in text] == []
    assert not [url for url in asked if "127.0.0.1" not in url]


def test_the_door_is_free_of_what_axe_finds(chromium, broker_of_all, axe):
    """First: nobody has an account yet."""
    context = chromium.new_context(base_url=f"http://127.0.0.1:{broker_of_all.web}", color_scheme="dark")
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(path=axe)
    tab = context.new_page()
    tab.set_viewport_size({"width": 360, "height": 800})
    tab.goto("/")
    tab.wait_for_url("**/first-run")
    wrong = tab.evaluate(AXE, RULES)
    broker_of_all.sign_in()
    tab.goto("/")
    wrong += tab.evaluate(AXE, RULES)
    tab.get_by_label("Name").fill("nobody")
    tab.get_by_label("Password").fill("not the password")
    tab.get_by_role("button", name="Sign in").click()
    tab.get_by_text("not signed in").wait_for()
    wrong += tab.evaluate(AXE, RULES) + tab.evaluate(TOO_WIDE)
    context.close()
    assert not wrong, "\n".join(wrong)


def test_every_page_of_a_new_broker_is_free_of_what_axe_finds(look):
    wrong = []
    for route, path in PAGES.items():
        if "{" not in route and "{" not in path:
            wrong += look(path)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def full(broker_of_all, tmp_path_factory):
    return fill_up(broker_of_all, tmp_path_factory.mktemp("i"))


def fill_up(broker, folder):
    """Add weeks of a hospital, one exam by the real protocols, and names that mean harm; answer ids for addresses."""
    broker.sign_in()  # while there is no other account
    engine, now = open_engine(broker.database_url), datetime.now(UTC)
    fill(engine, now=now, deliveries=700, messages=200, events=1000, orders=100, instances=100)
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as ris:
        for accession, station in (("EVERY1", "CT1"), ("EVERY2", "")):
            order = orm(accession=accession, patient_id="ZE1", name=NAME, study_uid=STUDY if station else "", code=f"X^{SCRIPT}{'y' * 60}^L", charset="UNICODE UTF-8")  # fmt: skip
            ris.send_message(order)
        ris.send_message(orm(accession="B" * 70, patient_id=f"{FORMULA}", name=NAME * 50).replace("|RIS|", f"|{TITLE}|", 1))  # fmt: skip
    path, _ = an_image(folder, StudyInstanceUID=STUDY, PatientID="ZE1", AccessionNumber="EVERY1", PatientName="ZZ^A", StationName=TITLE)  # fmt: skip
    push(broker, path)
    findscu(broker.dicom, "0010,0010")
    dead = wait_until(
        lambda: broker.api("deliveries?state=DEAD&destination=late"), timeout_s=90, what="a dead delivery"
    )
    with engine.begin() as connection:
        connection.execute(update(DELIVERY).where(DELIVERY.c.state == "DEAD").values(reason=LONG))
        knock = {"ae_title": TITLE[:16], "called_ae_title": TITLE[:16], "address": "10.0.0.9", "number": 3, "first_at": now, "last_at": now}  # fmt: skip
        connection.execute(insert(KNOCK), [{**knock, "reason": reason.value} for reason in KnockReason])
        window = {"subject": LONG[:200], "reason": LONG[:500], "actor": "ada"}
        connection.execute(
            insert(MAINTENANCE).values(starts_at=now, ends_at=now + timedelta(days=1), **window)
        )
        # The day most begins on: soon after midnight nothing has begun today.
        busiest = select(STEP.c.start_date).where(STEP.c.start_date > "").group_by(STEP.c.start_date)
        day = connection.execute(busiest.order_by(func.count().desc()).limit(1)).scalar_one()
        sent = connection.execute(
            select(func.max(DELIVERY.c.id)).where(DELIVERY.c.destination == "ris")
        ).scalar_one()
        connection.execute(
            update(DELIVERY)
            .where(DELIVERY.c.id == sent)
            .values(unit="message", kind="mllp", payload=orm(accession="X", name=NAME).encode(), reason=LONG)
        )
    engine.dispose()
    return {
        "day": f"{day[:4]}-{day[4:6]}-{day[6:]}",
        "order": next(one["order_id"] for one in broker.search("orders", "EVERY1")),
        "message": broker.api("messages?limit=1")[0]["message_id"],
        "sent": sent,
        "dead": dead[0]["id"],
        "title": TITLE[:16],
    }


def test_every_page_of_a_full_broker_is_free_of_what_axe_finds_and_runs_nothing(look, full):
    tab, wrong = look.tab, []
    tab.goto("/deliveries/review?do=priority&priority=high&state=PENDING")
    tab.get_by_label("Why").fill(LONG[:500])
    tab.get_by_role("button", name=re.compile("Change the priority of")).click()
    tab.wait_for_url(re.compile(r"/operations/\d+$"))
    ids = {**full, "operation": tab.url.rpartition("/")[2]}
    tab.goto("/probe")
    tab.get_by_role("button", name="Run one now").click()
    tab.wait_for_url(re.compile(r"/probe/\d+$"))
    ids["probe"] = tab.url.rpartition("/")[2]
    for path in (*PAGES.values(), *MORE):
        wrong += look(re.sub(r"{(\w+)}", lambda found: str(ids[found[1]]), path))
        assert tab.title() != "run", path
    assert not wrong, "\n".join(wrong)


def test_paper_shows_tables_as_a_desk_does(look, full):
    """A sheet is as narrow as a phone, but nobody scrolls on it."""
    look.tab.emulate_media(media="print")
    look.tab.set_viewport_size({"width": 718, "height": 1000})
    for path, rows in (
        (f"/worklist/print?date={full['day']}", 2),
        ("/devices/CT1/passport", 5),
        ("/handover", 0),
    ):
        look.tab.goto(path)
        assert look.tab.evaluate(TOO_WIDE) == []
        shown = look.tab.evaluate(
            "() => [...document.querySelectorAll('thead, tbody tr')].map(e => getComputedStyle(e).display)"
        )
        assert len(shown) >= rows
        assert set(shown) <= {"table-header-group", "table-row"}
