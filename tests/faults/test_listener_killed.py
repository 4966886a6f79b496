"""kill -9 of a listener at the worst moment: what was acknowledged is there, and there once."""

import collections
import contextlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from broker.bootstrap import open_broker
from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.failpoints import VARIABLE
from broker.strays import remove_strays
from tests.broker_process import RunningBroker, wait_until
from tests.fakes.clock import FakeClock
from tests.fakes.task_queue import RecordingTaskQueue
from tests.journeys.hl7_orders import orm
from tests.ledger.lines import report_once, send_once
from tests.ledger.modality import a_creation, an_end
from tests.peers import findscu, run, storescp
from tests.ports import free_port

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def archive_port():
    return free_port()


@pytest.fixture(scope="module")
def failpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="module")
def folder(services, tmp_path_factory):
    path = tmp_path_factory.mktemp("k")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def archive(folder, archive_port):
    with storescp(folder / "archive", archive_port):
        yield folder / "archive"


@pytest.fixture(scope="module")
def broker(services, folder, failpoints, archive_port, archive):
    site = {
        "site": {"ae_title": "BROKER"},
        "devices": [{"ae_title": "CT1", "modality": "CT"}],
        "destinations": {
            "archive": {
                "kind": "dicom",
                "host": "127.0.0.1",
                "port": archive_port,
                "called_ae_title": "ARCHIVE",
                "safekeeping": True,
                "retry": {"first": "1s", "cap": "2s"},
            }
        },
        "routes": [{"name": "all", "when": {"Modality": {"exists": True}}, "send": ["archive"]}],
    }
    running = RunningBroker(Path(folder), site, {**services, VARIABLE: str(failpoints)})
    try:
        yield running.start()
    finally:
        code = running.stop()
        print(running.tail(30))
    assert code == 0


@pytest.fixture
def arm(failpoints):
    """Arm a failpoint; the block must come by it."""

    @contextlib.contextmanager
    def armed(name):
        (failpoints / name).touch()
        yield
        assert not (failpoints / name).exists(), f"nobody came by {name}"

    return armed


def send_again(port, message):
    """Send as a RIS does that got no answer: again, until somebody listens and answers."""
    return wait_until(lambda: send_once(port, message), what="an answer to the same message")


def images(folder, count, **attributes):
    """Answer {path: SOP instance UID} of new images of one series."""
    ds = dcmread(get_testdata_file("CT_small.dcm"))
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    made = {}
    for _ in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path, enforce_file_format=True)
        made[str(path)] = str(ds.SOPInstanceUID)
    return made, str(ds.StudyInstanceUID)


def push(broker, *paths, check=True):
    return run(
        "storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", broker.dicom, *paths, check=check
    ).returncode


def push_again(broker, *paths):
    wait_until(lambda: push(broker, *paths, check=False) == 0, what="the same images again")


def in_archive(archive):
    """Answer how often each object lies in the archive, by its UID."""
    return collections.Counter(path.name.partition(".")[2] for path in archive.iterdir())


def stored_files(broker):
    return sorted((broker.data_dir / "images").glob("[0-9]*/*/*.dcm"))


def instances(broker, study):
    return sum(row["instances"] for row in broker.search("studies", study))


def test_an_order_whose_acknowledgement_was_lost_is_acknowledged_and_taken_once(broker, arm):
    message = orm(accession="K1", patient_id="PK1")
    with arm("hl7.after_commit"):
        assert send_once(broker.hl7, message) is None

    assert send_again(broker.hl7, message) == "AA"

    assert len(findscu(broker.dicom, "0008,0050=K1")) == 1
    assert len(broker.search("orders", "K1")) == 1


def test_an_image_whose_receiver_died_before_its_row_is_not_acknowledged_and_its_file_is_swept(
    broker, arm, archive, tmp_path
):
    made, study = images(tmp_path, 1)
    before = stored_files(broker)
    with arm("cstore.after_file"):
        assert push(broker, *made, check=False) != 0
    (stray,) = set(stored_files(broker)) - set(before)

    push_again(broker, *made)

    (uid,) = made.values()
    wait_until(lambda: in_archive(archive)[uid], what="delivery")
    assert instances(broker, study) == 1
    (kept,) = set(stored_files(broker)) - set(before) - {stray}
    with open_in_two_hours(broker) as later:
        for chore in later.chores():
            chore.run()
    assert not stray.exists()
    assert kept.exists()
    assert set(before) <= set(stored_files(broker))


def test_files_are_left_alone_when_the_database_seems_to_be_another(broker, sqlite_url):
    with open_in_two_hours(broker) as later:
        before = stored_files(broker)
        engine = open_engine(sqlite_url)
        others = SqlUnitsOfWork(engine, RecordingTaskQueue(), later.clock)
        assert remove_strays(later.files, others, now=later.clock.now()) == 0
        engine.dispose()
    assert before
    assert stored_files(broker) == before


def test_an_image_whose_answer_was_lost_is_taken_once(broker, arm, archive, tmp_path):
    made, study = images(tmp_path, 1)
    before = stored_files(broker)
    with arm("cstore.after_commit"):
        assert push(broker, *made, check=False) != 0

    push_again(broker, *made)

    (uid,) = made.values()
    wait_until(lambda: in_archive(archive)[uid], what="delivery")
    assert instances(broker, study) == 1
    assert len(set(stored_files(broker)) - set(before)) == 1


def test_a_report_whose_answer_was_lost_is_kept_and_the_scanner_is_told_so(broker, arm):
    send_once(broker.hl7, orm(accession="K2", patient_id="PK2"))
    (entry,) = findscu(broker.dicom, "0008,0050=K2", "0020,000D", "0040,1001", "0040,0100[0].0040,0009")
    uid = generate_uid()
    creation = a_creation(accession="K2", study=entry["0020,000d"], station="CT1", patient_id="PK2")
    with arm("mpps.create_after_commit"):
        assert report_once(broker.dicom, uid, creation) is None
    answered = wait_until(lambda: report_once(broker.dicom, uid, creation), what="an answer")
    assert answered == 0x0111, "N-CREATE of what is there"

    end = an_end("COMPLETED", series=f"{uid}.1")
    with arm("mpps.set_after_commit"):
        assert report_once(broker.dicom, uid, end, create=False) is None
    answered = wait_until(lambda: report_once(broker.dicom, uid, end, create=False), what="an answer")
    assert answered == 0x0110, "N-SET of what is final"

    (row,) = broker.search("worklist", "K2")
    assert row["status"] == "COMPLETED"


@contextlib.contextmanager
def open_in_two_hours(running):
    """The broker as a process beside `serve` sees it two hours later."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        with open_broker(running.config, running.data_dir) as broker:
            broker.clock = FakeClock(broker.clock.now() + timedelta(hours=2))
            yield broker
