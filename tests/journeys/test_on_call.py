"""Six nights of somebody new on call, with only the pages: no address is typed but the first, no manual is read.

Each goes from the sign-in over the overview to the end, by mouse and by keyboard alone, in at most eight presses.
docs/runbook.md tells the same six; what it prints bold is what is pressed here.
"""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import hl7.client
import pytest

from broker.db.engine import open_engine
from broker.db.migrate import migrate
from tests.broker_process import ADMIN, BROKER, PASSWORD, ROOT, RunningBroker, wait_until
from tests.journeys.a_night import a_ris_that_stopped, let_die
from tests.journeys.browser import PATIENCE_MS
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image, push
from tests.journeys.on_call import Keys, Mouse, OnCall
from tests.peers import findscu, run, storescp
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(500)]
NIGHT = "m.ruiz"
STUDIES, CHESTS = 204, 3
ROOT_UID = "1.2.826.0.1.3680043.10.777.7"
ACCESSION, PATIENT = "AI0001", "NP1"
HANDS = pytest.mark.parametrize("hand", [Mouse, Keys], ids=["mouse", "keyboard"])


@pytest.fixture(scope="module")
def ports():
    return {name: free_port() for name in ("archive", "ai")}


@pytest.fixture(scope="module")
def broker(ports, tmp_path_factory):
    """A broker at three in the night: the archive was away for hours, the RIS has stopped, a loaner is to come."""
    folder = tmp_path_factory.mktemp("n")

    def node(name, port, called):
        retry = {"first": "2s", "cap": "4s"}
        host = {"host": "127.0.0.1", "port": port, "called_ae_title": called}
        return {"kind": "dicom", **host, "retry": retry, "contact": f"{name} team, 4711"}

    site = {
        "site": {"name": "Night Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT", "contact": "CT console, 4712"}],
        "destinations": {
            "archive": node("PACS", ports["archive"], "ARCHIVE"),
            "chest-ai": node("AI", ports["ai"], "AI"),
        },
        "completion": {"series_quiet": "1s", "study_quiet": "1s", "cap": "1m"},
        "routes": [
            {
                "name": "chest-to-ai",
                "when": {"Modality": "CT", "BodyPartExamined": "CHEST"},
                "send": ["chest-ai"],
            },
            {"name": "ct-to-archive", "when": {"Modality": "CT"}, "send": ["archive"]},
        ],
    }
    running = RunningBroker(folder, site, {"BROKER_LISTEN__DICOM__ACCEPT_UNKNOWN_DEVICES": "never"})
    running.data_dir.mkdir()
    engine = open_engine(running.database_url)
    migrate(engine)
    a_ris_that_stopped(engine, now=datetime.now(UTC), silent_for=timedelta(minutes=45))
    try:
        running.start()
        running.sign_in()
        subprocess.run(
            [BROKER, "users", "add", NIGHT, "--role", "operator", "--config", running.config, "--data-dir", running.data_dir],
            input=PASSWORD, text=True, check=True, capture_output=True, cwd=ROOT, env=running.env,
        )  # fmt: skip
        send(running, accession=ACCESSION, patient_id=PATIENT, name="ZZNIGHT^ANNA", study_uid=f"{ROOT_UID}.0")
        of_order = {"StudyInstanceUID": f"{ROOT_UID}.0", "PatientID": PATIENT, "AccessionNumber": ACCESSION}
        paths = [an_image(folder, **of_order, BodyPartExamined="ABDOMEN")[0]]
        for number in range(1, STUDIES):
            part = "CHEST" if number <= CHESTS else "HEAD"
            uid = f"{ROOT_UID}.{number}"
            paths.append(
                an_image(folder, StudyInstanceUID=uid, PatientID=f"N{number}", BodyPartExamined=part)[0]
            )
        push(running, *paths)
        for destination, number in (("archive", STUDIES), ("chest-ai", CHESTS)):
            wait_until(
                lambda destination=destination, number=number: (
                    let_die(engine, now=datetime.now(UTC), destination=destination) == number
                ),
                timeout_s=90,
                what=f"{number} dead deliveries to {destination}",
            )
        yield running
    finally:
        engine.dispose()
        code = running.stop()
        print(running.tail(30))
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, "SIGTERM ends in order"


@pytest.fixture(scope="module")
def ai(broker, ports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ai")
    with storescp(folder, ports["ai"], ae_title="AI"):
        yield folder


@pytest.fixture(scope="module")
def archive(broker, ports, tmp_path_factory):
    """The archive is there again."""
    folder = tmp_path_factory.mktemp("pacs")
    with storescp(folder, ports["archive"]):
        yield folder


@pytest.fixture
def on_call(chromium, broker):
    """Answer somebody who sits down before the pages."""
    contexts = []

    def sits_down(hand):
        context = chromium.new_context(
            base_url=f"http://127.0.0.1:{broker.web}", viewport={"width": 1280, "height": 800}
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        return OnCall(context, hand)

    yield sits_down
    for context in contexts:
        context.close()


def send(broker, **order):
    """Let a second system place an order; the RIS is silent."""
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as his:
        message = orm(**order).replace("|RIS|HOSP|", "|HIS|HOSP|", 1)
        assert b"|AA|" in his.send_message(message)


@HANDS
def test_why_a_study_did_not_reach_the_ai(on_call, hand):
    me = on_call(hand)
    me.sign_in(NIGHT, PASSWORD)
    me.find(ACCESSION)
    me.sees("Order of", "What happened")
    me.press("link", "where its images went")
    me.sees("chest-ai", "BodyPartExamined is CHEST", "found ABDOMEN")
    me.is_done()


@pytest.mark.parametrize(
    ("hand", "destination", "number"),
    [(Keys, "chest-ai", CHESTS), (Mouse, "archive", STUDIES)],
    ids=["keyboard", "mouse"],
)
def test_a_failed_night_is_sent_again(on_call, broker, ai, archive, hand, destination, number):
    me = on_call(hand)
    me.sign_in(NIGHT, PASSWORD)
    me.press("link", f"{number} deliveries to {destination} need a person")
    me.sees("Cannot be reached")
    me.press("link", f"Retry: Cannot be reached, {destination}")
    me.sees("this is what will happen")
    me.write("Why (kept", "the archive was away in the night")
    me.press("button", f"Retry {number} deliveries")
    me.sees(f"{number} deliveries retried")
    me.sees(f"{number} of {number} delivered", timeout_s=300)
    me.is_done()
    kept = {"archive": archive, "chest-ai": ai}[destination]
    assert len(list(kept.iterdir())) >= number
    assert not broker.api(f"deliveries?state=DEAD&destination={destination}")


@HANDS
def test_a_destination_is_held_for_maintenance_and_released(on_call, broker, ai, hand, tmp_path):
    me = on_call(hand)
    me.sign_in(NIGHT, PASSWORD)
    me.press("link", "chest-ai", within=me.tab.locator("#live-destinations"))
    me.write("Why", "new disks")
    me.press("button", "Pause: stop sending now")
    me.sees(f"Paused by {NIGHT}", "new disks")
    before = len(list(ai.iterdir()))
    push(broker, an_image(tmp_path, PatientID="NP2", BodyPartExamined="CHEST")[0])
    me.looks_again("1 waiting")
    assert len(list(ai.iterdir())) == before
    me.press("button", "Resume: send the one that waits")
    me.sees("It takes what it is sent")
    wait_until(lambda: len(list(ai.iterdir())) == before + 1, timeout_s=60, what="the held study")
    me.is_done()


@HANDS
def test_a_loaner_that_was_refused_is_let_in_and_gets_its_list(on_call, broker, hand):
    loaner = f"LOANER{hand.__name__.upper()}"
    accession = f"LOAN{hand.__name__.upper()}"
    send(broker, accession=accession, patient_id="NP3", name="ZZLOAN^BEA", modality="US")
    keys = ("-k", f"0008,0050={accession}", "-k", "0010,0010")
    refused = run("findscu", "-W", "-aet", loaner, "-aec", "BROKER", "127.0.0.1", broker.dicom, *keys, check=False)  # fmt: skip
    assert "Calling AE Title Not Recognized" in refused.stderr + refused.stdout
    wait_until(lambda: any(one["ae_title"] == loaner for one in broker.api("knocks")), what="the refusal")
    me = on_call(hand)
    me.sign_in(NIGHT, PASSWORD)
    me.press("link", re.compile("refused since yesterday"))
    me.sees(loaner, "its AE title is not among our devices")
    me.press("button", f"Let in for 8 h: {loaner} at 127.0.0.1")
    me.sees("ends by itself")
    wait_until(
        lambda: run("findscu", "-W", "-aet", loaner, "-aec", "BROKER", "127.0.0.1", broker.dicom, *keys, check=False).returncode == 0,
        what="an open door",
    )  # fmt: skip
    assert findscu(broker.dicom, f"0008,0050={accession}", "0010,0010", calling=loaner)
    me.press("link", f"Passport of {loaner}")
    me.sees("To be typed into it", "Worklist works")
    me.is_done()


@HANDS
def test_the_ris_went_silent(on_call, hand):
    me = on_call(hand)
    me.sign_in(NIGHT, PASSWORD)
    me.sees("RIS (HOSP) is silent for", "usually every 4 min")
    me.press("link", re.compile(r"RIS \(HOSP\) is silent for"))
    me.sees("HL7 messages received", "NIGHT0")
    wait_until(lambda: me.tab.locator("tbody tr").count() == 20, what="the whole list")
    me.press("link", "Overview")
    me.press("link", "Alerts and maintenance")
    me.sees("While it lasts nobody is told about it")
    me.looks_again("RIS (HOSP) is silent for")
    row = me.tab.locator("tr", has_text="RIS (HOSP) is silent")
    if hand is Keys:
        me.press("button", "I have it: RIS (HOSP) is silent")
        row.get_by_text(NIGHT).wait_for()
    me.is_done()


@HANDS
def test_who_looked_at_a_patient(on_call, broker, hand):
    looker = on_call(Mouse)
    looker.sign_in(NIGHT, PASSWORD)
    looker.find(ACCESSION)
    looker.sees("Order of")
    looker.is_done()
    me = on_call(hand)
    me.sign_in(ADMIN, PASSWORD)
    me.press("link", "Admin")
    me.press("link", "Audit trail")
    me.write("Patient ID", PATIENT)
    me.choose("What", "viewed")
    me.press("button", "Search")
    me.sees(NIGHT, "opened")
    me.press("button", "Verify the whole trail")
    me.sees("Nothing was changed, taken out or cut off")
    me.tab.locator("tbody tr", has_text=NIGHT).first.wait_for()  # what was found still stands there
    with me.tab.expect_download() as download:
        me.press("button", "Download as CSV")
    told = download.value.path().read_text()
    assert NIGHT in told
    assert "viewed" in told
    me.is_done()
