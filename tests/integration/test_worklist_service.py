"""The worklist over the network, asked by other implementations."""

import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind, Verification
from sqlalchemy import text

from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.server import DicomServer
from broker.dicom.network.verification import verification_offer
from broker.dicom.objects.datasets import ROOT_ATTRIBUTES, STEP_ATTRIBUTES, Return
from broker.dicom.objects.elements import Syntax
from broker.dicom.services.query_log import QueryLog
from broker.dicom.services.worklist import MODALITY_WORKLIST, WorklistService, worklist_offer
from broker.domain.devices import DeviceProfile
from broker.domain.steps import StepStatus
from broker.errors import DatabaseUnavailable
from broker.workflow.worklist import Worklist
from tests.data_sets import pydicom_reads, pydicom_writes
from tests.worklist_database import StillClock, clear, sqlite_engine, store, units_of_work
from tests.worklist_entries import an_entry, with_patient

EXAMPLES = Path("/usr/share/doc/dcmtk/examples/wlistqry")
FIND = shutil.which("findscu")
DUMP = shutil.which("dump2dcm")
needs_dcmtk = pytest.mark.skipif(not (FIND and DUMP and EXAMPLES.is_dir()), reason="DCMTK is not installed")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with sqlite_engine(tmp_path_factory.mktemp("service")) as engine:
        yield engine


class Served:
    """A listener with a worklist on it."""

    def __init__(self, engine, devices):
        self.engine = engine
        self.devices = devices
        self.log = QueryLog(units_of_work(engine))
        worklist = Worklist(SqlWorklistReader(engine), StillClock())
        service = WorklistService(
            worklist, devices=lambda ae: devices.get(ae, DeviceProfile()), query_log=self.log
        )
        self.server = DicomServer(
            "127.0.0.1", 0, offers=[worklist_offer(service), verification_offer()], ae_title="BROKER"
        )
        self.server.start()
        self.port = self.server.port

    def find(self, identifier, *, calling="CT1", syntax=Syntax.EXPLICIT_LITTLE, extended=None):
        proposal = Proposal(MODALITY_WORKLIST, (syntax.value,), extended_negotiation=extended)
        with open_association(
            "127.0.0.1", self.port, calling_ae_title=calling, called_ae_title="BROKER", contexts=[proposal]
        ) as association:
            context = association.context_for(MODALITY_WORKLIST)
            return self.ask(association, context, identifier, syntax)

    @staticmethod
    def ask(association, context, identifier, syntax=Syntax.EXPLICIT_LITTLE):
        command = Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=MODALITY_WORKLIST, priority=0)
        data = identifier if isinstance(identifier, bytes) else pydicom_writes(identifier, syntax)
        replies = list(association.request(command, data, context=context))
        answers = [pydicom_reads(reply.data_set, syntax) for reply in replies if reply.data_set]
        return answers, replies[-1].command


@pytest.fixture
def served(engine):
    clear(engine)
    served = Served(engine, {})
    yield served
    served.server.stop()


def identifier(root=None, step=None):
    data_set = Dataset()
    for attribute in ROOT_ATTRIBUTES:
        if attribute.returned is not Return.OPTIONAL:
            setattr(data_set, attribute.keyword, [] if attribute.vr == "SQ" else None)
    item = Dataset()
    for attribute in STEP_ATTRIBUTES:
        setattr(item, attribute.keyword, [] if attribute.vr == "SQ" else None)
    for keyword, value in (root or {}).items():
        setattr(data_set, keyword, value)
    for keyword, value in (step or {}).items():
        setattr(item, keyword, value)
    data_set.ScheduledProcedureStepSequence = [item]
    return data_set


@pytest.mark.parametrize("syntax", list(Syntax))
def test_a_query_is_answered_in_every_transfer_syntax(served, syntax):
    store(served.engine, an_entry(1), an_entry(2, stations=("MR1",), modality="MR"))
    answers, last = served.find(identifier(step={"ScheduledStationAETitle": "CT1"}), syntax=syntax)
    assert [answer.AccessionNumber for answer in answers] == ["A1"]
    assert answers[0].ScheduledProcedureStepSequence[0].Modality == "CT"
    assert last.status == 0x0000


def test_nothing_scheduled_is_success_and_no_more(served):
    answers, last = served.find(identifier())
    assert answers == []
    assert last.status == 0x0000


def test_an_identifier_that_cannot_be_read_is_refused_with_a900(served):
    answers, last = served.find(b"\x10\x00\x10\x00XX")
    assert answers == []
    assert last.status == 0xA900
    served.devices["CT1"] = DeviceProfile(is_strict=True)
    bad = identifier()
    bad.ScheduledProcedureStepSequence = [Dataset(), Dataset()]
    bad.ScheduledProcedureStepSequence[0].Modality = bad.ScheduledProcedureStepSequence[1].Modality = "CT"
    _, last = served.find(bad)
    assert last.status == 0xA900
    assert last.offending_elements == (0x00400100,)
    assert last.error_comment == "(0040,0100) has more than one item"


def test_a_device_is_answered_in_the_character_set_of_its_profile(served):
    store(served.engine, with_patient(an_entry(1), name="Иванов^Юрий"))
    query = identifier(root={"SpecificCharacterSet": "ISO_IR 192"})
    assert str(served.find(query)[0][0].PatientName) == "Иванов^Юрий"
    served.devices["OLD"] = DeviceProfile(character_set=("iso_ir100",))  # as people write it
    (answer,), _ = served.find(query, calling="OLD")
    assert str(answer.PatientName) == "Ivanov^Iurii"
    assert answer.SpecificCharacterSet == "ISO_IR 100"


def test_a_device_that_takes_few_answers_is_refused_over_its_limit_where_it_wants_that(served):
    store(served.engine, *(an_entry(n) for n in range(1, 5)))
    served.devices["CT1"] = DeviceProfile(max_results=3)
    answers, last = served.find(identifier())
    assert (len(answers), last.status) == (3, 0x0000)
    served.devices["CT1"] = DeviceProfile(max_results=3, refuses_over_limit=True)
    answers, last = served.find(identifier())
    assert (len(answers), last.status) == (0, 0xA700)


def test_a_warning_is_given_for_unsupported_keys_only_where_the_device_wants_it(served):
    store(served.engine, an_entry(1))
    with_unknown = identifier(root={"DerivationDescription": ""})

    def statuses():
        proposal = Proposal(MODALITY_WORKLIST, (Syntax.EXPLICIT_LITTLE.value,))
        with open_association(
            "127.0.0.1", served.port, calling_ae_title="CT1", called_ae_title="BROKER", contexts=[proposal]
        ) as association:
            command = Command(
                field=CommandField.C_FIND_RQ, affected_sop_class_uid=MODALITY_WORKLIST, priority=0
            )
            data = pydicom_writes(with_unknown, Syntax.EXPLICIT_LITTLE)
            context = association.context_for(MODALITY_WORKLIST)
            return [reply.status for reply in association.request(command, data, context=context)]

    assert statuses() == [0xFF00, 0x0000]
    served.devices["CT1"] = DeviceProfile(warns_of_unsupported=True)
    assert statuses() == [0xFF01, 0x0000]


def test_a_database_that_is_away_is_said_with_a700_and_not_with_an_empty_list(served, monkeypatch):
    def away(*_):
        raise DatabaseUnavailable

    monkeypatch.setattr(SqlWorklistReader, "candidates", away)
    answers, last = served.find(identifier())
    assert (answers, last.status) == ([], 0xA700)


def test_a_cancelled_step_is_not_offered_any_more(served):  # read your acknowledgement
    store(served.engine, an_entry(1))
    assert len(served.find(identifier())[0]) == 1
    with served.engine.begin() as connection:
        connection.execute(text("UPDATE scheduled_procedure_step SET status='CANCELED', offered=0"))
    assert served.find(identifier())[0] == []


def test_a_long_list_streams_and_stops_when_the_peer_cancels(served, monkeypatch):
    cancelled, candidates = threading.Event(), SqlWorklistReader.candidates

    def no_further_before_the_cancel(reader, *asked):
        for number, candidate in enumerate(candidates(reader, *asked)):
            if number == 500:
                assert cancelled.wait(60)
            yield candidate

    monkeypatch.setattr(SqlWorklistReader, "candidates", no_further_before_the_cancel)
    store(served.engine, *(an_entry(n) for n in range(1, 2_001)))
    proposal = Proposal(MODALITY_WORKLIST, (Syntax.EXPLICIT_LITTLE.value,))
    with open_association(
        "127.0.0.1", served.port, calling_ae_title="CT1", called_ae_title="BROKER", contexts=[proposal]
    ) as association:
        context = association.context_for(MODALITY_WORKLIST)
        command = Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=MODALITY_WORKLIST, priority=0)
        replies = association.request(
            command, pydicom_writes(identifier(), Syntax.EXPLICIT_LITTLE), context=context
        )
        taken = [next(replies) for _ in range(10)]
        association.cancel(context)
        cancelled.set()
        rest = list(replies)
        assert all(reply.status == 0xFF00 for reply in (*taken, *rest[:-1]))
        assert rest[-1].status == 0xFE00
        assert len(taken) + len(rest) < 2_001
        # The association is as good as before.
        answers, last = served.ask(association, context, identifier(root={"AccessionNumber": "A5"}))
        assert ([answer.AccessionNumber for answer in answers], last.status) == (["A5"], 0x0000)


def test_extended_negotiation_grants_date_and_time_and_nothing_fuzzy(served):
    proposal = Proposal(MODALITY_WORKLIST, (Syntax.EXPLICIT_LITTLE.value,), extended_negotiation=b"\1\1\1\1")
    with open_association(
        "127.0.0.1", served.port, calling_ae_title="CT1", called_ae_title="BROKER", contexts=[proposal]
    ) as association:
        assert association.extended_negotiation[MODALITY_WORKLIST] == b"\1\1\0\0"


def test_sixteen_devices_ask_at_once_and_each_gets_its_own_list(served):
    store(served.engine, *(an_entry(n, stations=(f"CT{n % 16}",)) for n in range(1, 161)))

    def ask(number):
        for _ in range(5):
            answers, last = served.find(
                identifier(step={"ScheduledStationAETitle": f"CT{number}"}), calling=f"CT{number}"
            )
            assert last.status == 0x0000
            assert sorted(int(answer.AccessionNumber[1:]) % 16 for answer in answers) == [number] * 10

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))


def test_queries_are_recorded_without_a_word_about_patients(served):
    store(served.engine, with_patient(an_entry(1), name="ZZCANARY^X"))
    served.find(identifier(root={"PatientName": "ZZCANARY*"}))
    assert served.log.flush() == 1
    with served.engine.connect() as connection:
        (row,) = connection.execute(
            text("SELECT actor, details FROM event WHERE name='worklist queried'")
        ).all()
    details = json.loads(row.details)
    assert row.actor == "CT1"
    assert (details["keys"], details["answers"], details["status"]) == (["PatientName"], 1, "0000")
    assert "ZZCANARY" not in row.details


@pytest.mark.peer
def test_pynetdicom_gets_its_worklist(served):
    store(served.engine, an_entry(1), an_entry(2, status=StepStatus.COMPLETED))
    ae = AE("CT1")
    ae.add_requested_context(ModalityWorklistInformationFind)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", served.port, ae_title="BROKER")
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    found = list(association.send_c_find(identifier(), ModalityWorklistInformationFind))
    association.release()
    assert [status.Status for status, _ in found] == [0xFF00, 0x0000]
    assert found[0][1].PatientName == "HAYDN^JOSEPH"


@pytest.mark.peer
@needs_dcmtk
@pytest.mark.parametrize("number", range(13))
def test_the_example_queries_of_dcmtk_are_answered(served, tmp_path, number):
    store(
        served.engine,
        an_entry(1, stations=("AA32", "AA2"), start=("19951015", "085607"), name="VIVALDI^ANTONIO"),
        an_entry(2, stations=("CT1",)),
    )
    query = tmp_path / "query.wl"
    subprocess.run([DUMP, EXAMPLES / f"wlistqry{number}.dump", query], check=True, capture_output=True)
    done = subprocess.run(
        [
            FIND,
            "-W",
            "-X",
            "-od",
            tmp_path,
            "-aet",
            "CT1",
            "-aec",
            "BROKER",
            "127.0.0.1",
            str(served.port),
            query,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Fail" not in done.stderr
    asked = dcmread(query, force=True)
    for answer_file in sorted(tmp_path.glob("rsp*.dcm")):
        answer = dcmread(answer_file, force=True)
        for element in asked:
            if element.keyword not in ("SpecificCharacterSet", "ScheduledProcedureStepSequence", ""):
                assert element.tag in answer, element.keyword


@pytest.mark.peer
@needs_dcmtk
def test_findscu_gets_what_matches(served, tmp_path):
    store(served.engine, an_entry(1), an_entry(2, stations=("MR1",)))
    subprocess.run(
        [
            FIND, "-W", "-X", "-od", tmp_path, "-aec", "BROKER", "127.0.0.1", str(served.port),
            "-k", "PatientName", "-k", "AccessionNumber",
            "-k", "ScheduledProcedureStepSequence[0].ScheduledStationAETitle=MR1",
            "-k", "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate=20261101-20261130",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (answer,) = [dcmread(path, force=True) for path in tmp_path.glob("rsp*.dcm")]
    assert answer.AccessionNumber == "A2"


def test_the_query_log_writes_by_itself_and_what_waits_when_it_stops(engine):
    clear(engine)
    written = threading.Event()

    class Watched(QueryLog):
        def flush(self):
            count = super().flush()
            if count:
                written.set()
            return count

    log = Watched(units_of_work(engine), interval_s=0.01)
    log.start()
    served = Served(engine, {})
    served.log.record = log.record
    served.find(identifier())
    assert written.wait(30)
    served.find(identifier())
    log.stop()
    served.server.stop()
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM event WHERE name='worklist queried'")).scalar() == 2
        )
