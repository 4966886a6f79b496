"""Performed procedure steps over the network, reported by other implementations."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve
from sqlalchemy import text

from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.server import DicomServer
from broker.dicom.objects.answers import WorklistEncoder
from broker.dicom.objects.elements import Syntax
from broker.dicom.objects.performed_steps import CREATION_TYPE_1
from broker.dicom.services.mpps import (
    PERFORMED_PROCEDURE_STEP,
    PerformedStepService,
    performed_step_offer,
    performed_step_retrieve_offer,
)
from broker.dicom.services.worklist import WorklistService, worklist_offer
from broker.domain.devices import DeviceProfile
from broker.domain.steps import OrderStatus, StepStatus
from broker.errors import DatabaseUnavailable
from broker.workflow.procedure_steps import PerformedPolicy
from broker.workflow.worklist import Worklist
from tests.data_sets import pydicom_reads, pydicom_writes
from tests.worklist_database import StillClock, clear, postgresql_engine, sqlite_engine, store, units_of_work
from tests.worklist_entries import an_entry, with_patient

LITTLE = Syntax.EXPLICIT_LITTLE
STATUS, STUDY_UID = 0x00400252, 0x0020000D


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with sqlite_engine(tmp_path_factory.mktemp("mpps")) as engine:
        yield engine


class Served:
    def __init__(self, engine):
        self.engine = engine
        self.devices = {}
        self.clock = StillClock()
        self.units = units_of_work(engine, self.clock)
        service = PerformedStepService(
            self._units_of_work,
            clock=self.clock,
            encoder=WorklistEncoder(),
            policy=PerformedPolicy(),
            devices=lambda ae: self.devices.get(ae, DeviceProfile()),
        )
        worklist = WorklistService(Worklist(SqlWorklistReader(engine), self.clock))
        offers = [
            performed_step_offer(service),
            performed_step_retrieve_offer(service),
            worklist_offer(worklist),
        ]
        self.server = DicomServer("127.0.0.1", 0, offers=offers, ae_title="BROKER")
        self.server.start()
        self.port = self.server.port
        self.is_away = False

    def _units_of_work(self):
        if self.is_away:
            raise DatabaseUnavailable
        return self.units()

    def associate(self, calling="CT1", syntax=LITTLE):
        proposal = Proposal(PERFORMED_PROCEDURE_STEP, (syntax.value,))
        return open_association(
            "127.0.0.1", self.port, calling_ae_title=calling, called_ae_title="BROKER", contexts=[proposal]
        )

    def send(self, field, uid, data_set, *, calling="CT1", syntax=LITTLE):
        is_create = field is CommandField.N_CREATE_RQ
        command = Command(
            field=field,
            affected_sop_class_uid=PERFORMED_PROCEDURE_STEP if is_create else None,
            affected_sop_instance_uid=uid if is_create else None,
            requested_sop_class_uid=None if is_create else PERFORMED_PROCEDURE_STEP,
            requested_sop_instance_uid=None if is_create else uid,
        )
        data = data_set if isinstance(data_set, bytes | None) else pydicom_writes(data_set, syntax)
        with self.associate(calling, syntax) as association:
            context = association.context_for(PERFORMED_PROCEDURE_STEP)
            (reply,) = association.request(command, data, context=context)
        return reply.command

    def create(self, uid, data_set, **how):
        return self.send(CommandField.N_CREATE_RQ, uid, data_set, **how)

    def set(self, uid, data_set, **how):
        return self.send(CommandField.N_SET_RQ, uid, data_set, **how)

    def stored(self, uid):
        with self.units() as uow:
            step = uow.performed.find(uid)
        return step, (pydicom_reads(step.data_set, LITTLE) if step else None)

    def status_of(self, entry):
        with self.units() as uow:
            return uow.steps.get(entry.step.id).status


@pytest.fixture
def served(engine):
    clear(engine)
    served = Served(engine)
    yield served
    served.server.stop()


def a_creation(entry=None, **changes):
    data_set = Dataset()
    item = Dataset()
    item.StudyInstanceUID = entry.procedure.study_instance_uid if entry else "1.2.3.4"
    item.ReferencedStudySequence = []
    item.AccessionNumber = entry.order.accession_number if entry else ""
    item.RequestedProcedureID = entry.procedure.requested_procedure_id if entry else ""
    item.RequestedProcedureDescription = ""
    item.ScheduledProcedureStepID = entry.step.scheduled_procedure_step_id if entry else ""
    item.ScheduledProcedureStepDescription = ""
    item.ScheduledProtocolCodeSequence = []
    data_set.ScheduledStepAttributesSequence = [item]
    data_set.PatientName = entry.patient.name if entry else ""
    data_set.PatientID = entry.patient.patient_id if entry else ""
    data_set.PatientBirthDate = entry.patient.birth_date if entry else ""
    data_set.PatientSex = ""
    data_set.ReferencedPatientSequence = []
    data_set.PerformedProcedureStepID = "PPS1"
    data_set.PerformedStationAETitle = "CT1"
    data_set.PerformedStationName = data_set.PerformedLocation = ""
    data_set.PerformedProcedureStepStartDate = "20261121"
    data_set.PerformedProcedureStepStartTime = "091500"
    data_set.PerformedProcedureStepStatus = "IN PROGRESS"
    data_set.PerformedProcedureStepDescription = data_set.PerformedProcedureTypeDescription = ""
    data_set.ProcedureCodeSequence = data_set.PerformedProtocolCodeSequence = []
    data_set.PerformedProcedureStepEndDate = data_set.PerformedProcedureStepEndTime = ""
    data_set.Modality = "CT"
    data_set.StudyID = ""
    data_set.PerformedSeriesSequence = []
    for keyword, value in changes.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return data_set


def a_series(images=2):
    series = Dataset()
    series.SeriesInstanceUID = "1.2.9"
    series.ProtocolName = "CHEST"
    series.PerformingPhysicianName = series.OperatorsName = series.SeriesDescription = (
        series.RetrieveAETitle
    ) = ""
    series.ReferencedImageSequence = []
    for number in range(images):
        reference = Dataset()
        reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        reference.ReferencedSOPInstanceUID = f"1.2.9.{number + 1}"
        series.ReferencedImageSequence.append(reference)
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    return series


def an_end(status="COMPLETED", **changes):
    data_set = Dataset()
    data_set.PerformedProcedureStepStatus = status
    data_set.PerformedProcedureStepEndDate = "20261121"
    data_set.PerformedProcedureStepEndTime = "093000"
    data_set.PerformedSeriesSequence = [a_series()]
    for keyword, value in changes.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return data_set


@pytest.mark.parametrize("syntax", list(Syntax))
def test_an_exam_is_reported_from_start_to_end_in_every_transfer_syntax(served, syntax):
    (entry,) = store(served.engine, an_entry(1))
    created = served.create("1.2.3", a_creation(entry), syntax=syntax)
    assert (created.status, created.affected_sop_instance_uid) == (0x0000, "1.2.3")
    assert served.status_of(entry) is StepStatus.STARTED
    assert served.set("1.2.3", an_end(), syntax=syntax).status == 0x0000
    assert served.status_of(entry) is StepStatus.COMPLETED
    step, data_set = served.stored("1.2.3")
    assert step.series == {"1.2.9": ("1.2.9.1", "1.2.9.2")}
    assert (step.started_at, step.ended_at) == ("20261121091500", "20261121093000")
    assert data_set.PerformedProcedureStepStatus == "COMPLETED"
    assert data_set.PerformedSeriesSequence[0].ProtocolName == "CHEST"


def test_what_is_answered_0000_is_in_the_database(served):
    (entry,) = store(served.engine, an_entry(1))
    assert served.create("1.2.3", a_creation(entry)).status == 0x0000
    with served.engine.connect() as connection:
        assert (
            connection.execute(text("SELECT status FROM performed_procedure_step")).scalar() == "IN PROGRESS"
        )


def test_n_create_without_a_uid_is_given_one(served):
    answer = served.create(None, a_creation())
    assert answer.status == 0x0000
    assert answer.affected_sop_instance_uid.startswith("2.25.")
    assert served.stored(answer.affected_sop_instance_uid)[0] is not None


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.03", "x"])
def test_a_uid_that_is_none_is_refused_with_0117(served, uid):
    assert served.create(uid, a_creation()).status == 0x0117
    assert served.set(uid, an_end()).status == 0x0117


def test_a_second_n_create_of_a_uid_is_refused_with_0111(served):
    assert served.create("1.2.3", a_creation()).status == 0x0000
    assert served.create("1.2.3", a_creation()).status == 0x0111


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "DONE"])
def test_n_create_with_another_status_is_refused_with_0106(served, status):
    answer = served.create("1.2.3", a_creation(PerformedProcedureStepStatus=status))
    assert (answer.status, answer.attribute_identifier_list) == (0x0106, (STATUS,))
    assert served.stored("1.2.3")[0] is None


@pytest.mark.parametrize("tag", CREATION_TYPE_1)
def test_n_create_without_a_required_attribute_is_refused_and_names_it(served, tag):
    data_set = a_creation()
    empty = a_creation()
    empty[tag].value = [] if empty[tag].VR == "SQ" else ""
    answer = served.create("1.2.3", empty)
    assert (answer.status, answer.attribute_identifier_list) == (0x0121, (tag,))
    del data_set[tag]
    answer = served.create("1.2.3", data_set)
    assert (answer.status, answer.attribute_identifier_list) == (0x0120, (tag,))
    assert served.stored("1.2.3")[0] is None


def test_n_create_whose_item_has_no_study_is_refused_and_names_it(served):
    data_set = a_creation()
    del data_set.ScheduledStepAttributesSequence[0].StudyInstanceUID
    answer = served.create("1.2.3", data_set)
    assert (answer.status, answer.attribute_identifier_list) == (0x0120, (STUDY_UID,))


def test_absent_type_2_attributes_are_taken_where_lenient_and_refused_where_strict(served):
    sloppy = a_creation(StudyID=None, PatientSex=None)
    assert served.create("1.2.3", sloppy).status == 0x0000
    served.devices["CT1"] = DeviceProfile(is_strict=True)
    answer = served.create("1.2.4", sloppy)
    assert (answer.status, answer.attribute_identifier_list) == (0x0120, (0x00100040, 0x00200010))
    invalid = a_creation(PerformedProcedureStepStartDate="20261399")
    assert served.create("1.2.4", invalid).status == 0x0106


def test_n_set_of_an_unknown_step_is_refused_with_0112(served):
    assert served.set("1.2.3", an_end()).status == 0x0112


@pytest.mark.parametrize("final", ["COMPLETED", "DISCONTINUED"])
def test_n_set_after_a_final_state_is_refused_with_0110_and_a710(served, final):
    (entry,) = store(served.engine, an_entry(1))
    served.create("1.2.3", a_creation(entry))
    assert served.set("1.2.3", an_end(final)).status == 0x0000
    before = served.stored("1.2.3")[0], served.status_of(entry)
    answer = served.set("1.2.3", an_end("COMPLETED", PerformedProcedureStepDescription="LATER"))
    assert (answer.status, answer.error_id) == (0x0110, 0xA710)
    assert answer.error_comment == "Performed Procedure Step Object may no longer be updated"
    assert (served.stored("1.2.3")[0], served.status_of(entry)) == before


def test_n_set_with_an_unknown_status_is_refused_with_0106(served):
    served.create("1.2.3", a_creation())
    answer = served.set("1.2.3", an_end("FINISHED"))
    assert (answer.status, answer.attribute_identifier_list) == (0x0106, (STATUS,))
    assert served.stored("1.2.3")[0].status.value == "IN PROGRESS"


def test_n_set_replaces_what_it_names_and_keeps_the_rest(served):
    served.create("1.2.3", a_creation(PerformedProcedureStepDescription="FIRST"))
    update = Dataset()
    update.PerformedSeriesSequence = [a_series(), a_series()]
    update.CommentsOnThePerformedProcedureStep = "NEW"
    assert served.set("1.2.3", update).status == 0x0000
    update = Dataset()
    update.PerformedSeriesSequence = [a_series(images=1)]
    assert served.set("1.2.3", update).status == 0x0000
    step, data_set = served.stored("1.2.3")
    assert data_set.PerformedProcedureStepDescription == "FIRST"
    assert data_set.CommentsOnThePerformedProcedureStep == "NEW"
    assert step.series == {"1.2.9": ("1.2.9.1",)}
    assert step.status.value == "IN PROGRESS"


def test_n_set_never_changes_the_patient(served):
    (entry,) = store(served.engine, an_entry(1))
    served.create("1.2.3", a_creation(entry))
    assert served.set("1.2.3", an_end(PatientID="SOMEBODY", Modality="MR")).status == 0x0000
    _, data_set = served.stored("1.2.3")
    assert (data_set.PatientID, data_set.Modality) == (entry.patient.patient_id, "CT")
    served.devices["CT1"] = DeviceProfile(is_strict=True)
    served.create("1.2.4", a_creation(entry))
    assert served.set("1.2.4", an_end(PatientID="SOMEBODY")).status == 0x0106
    unknown = an_end(CommentsOnThePerformedProcedureStep="NOT CREATED")
    assert served.set("1.2.4", unknown).status == 0x0105


def test_an_end_without_its_time_is_filled_where_lenient_and_refused_where_strict(served):
    for uid in ("1.2.3", "1.2.4"):
        served.create(uid, a_creation())
    bare = Dataset()
    bare.PerformedProcedureStepStatus = "COMPLETED"
    assert served.set("1.2.3", bare).status == 0x0000
    assert served.stored("1.2.3")[0].ended_at == "20261121090000"
    served.devices["CT1"] = DeviceProfile(is_strict=True)
    assert served.set("1.2.4", bare).status == 0x0121
    assert served.set("1.2.4", an_end(PerformedSeriesSequence=[])).status == 0x0121
    assert served.set("1.2.4", an_end()).status == 0x0000


def test_text_in_several_character_sets_becomes_one(served):
    (entry,) = store(served.engine, with_patient(an_entry(1), name="Müller^Eva"))
    created = a_creation(entry)
    created.SpecificCharacterSet = "ISO_IR 100"
    served.create("1.2.3", created)
    end = an_end(PerformedProcedureStepDescription="Грудь")
    end.SpecificCharacterSet = "ISO_IR 144"
    assert served.set("1.2.3", end).status == 0x0000
    _, data_set = served.stored("1.2.3")
    assert data_set.SpecificCharacterSet == "ISO_IR 192"
    assert (str(data_set.PatientName), data_set.PerformedProcedureStepDescription) == ("Müller^Eva", "Грудь")
    assert served.status_of(entry) is StepStatus.COMPLETED


def test_a_database_that_is_away_is_said_with_0213(served):
    served.is_away = True
    assert served.create("1.2.3", a_creation()).status == 0x0213
    served.is_away = False
    assert served.create("1.2.3", a_creation()).status == 0x0000


def test_what_cannot_be_read_is_refused_and_stored_nowhere(served):
    assert served.create("1.2.3", b"\x10\x00\x10\x00XX\x00\x00").status == 0x0110
    assert served.create("1.2.3", None).status == 0x0120
    assert served.stored("1.2.3")[0] is None


def test_other_operations_are_refused_with_0211(served):
    for field in (CommandField.N_DELETE_RQ, CommandField.N_GET_RQ, CommandField.N_ACTION_RQ):
        assert served.set("1.2.3", None).status == 0x0112
        assert served.send(field, "1.2.3", None).status == 0x0211


def test_what_is_known_of_a_step_can_be_read_back(served):  # PS3.4 F.8
    (entry,) = store(served.engine, an_entry(1))
    served.create("1.2.3", a_creation(entry))
    ae = AE("CT1")
    ae.add_requested_context(ModalityPerformedProcedureStepRetrieve)
    association = ae.associate("127.0.0.1", served.port, ae_title="BROKER")
    sop_class = ModalityPerformedProcedureStepRetrieve
    status, known = association.send_n_get([], sop_class, "1.2.3")
    assert (status.Status, known.PerformedProcedureStepStatus) == (0x0000, "IN PROGRESS")
    assert known.ScheduledStepAttributesSequence[0].AccessionNumber == "A1"
    status, known = association.send_n_get([STATUS, 0x00400281], sop_class, "1.2.3")
    assert (status.Status, [e.tag for e in known]) == (0x0001, [STATUS])
    status, known = association.send_n_get([STATUS], sop_class, "1.2.4")
    assert status.Status == 0x0112
    association.release()


def test_of_many_ends_at_once_exactly_one_is_taken(served):
    (entry,) = store(served.engine, an_entry(1))
    served.create("1.2.3", a_creation(entry))
    barrier = threading.Barrier(8)

    def end(number):
        barrier.wait(10)
        return served.set("1.2.3", an_end("COMPLETED" if number % 2 else "DISCONTINUED")).status

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(end, range(8)))
    assert statuses == [0x0000] + [0x0110] * 7
    final = served.stored("1.2.3")[0].status.value
    assert served.status_of(entry).value == final


def test_steps_of_one_order_reported_at_once_all_count(served):
    first = an_entry(1)
    entries = store(
        served.engine,
        *(
            replace(first, step=replace(first.step, id=n, scheduled_procedure_step_id=f"S{n}"))
            for n in range(1, 7)
        ),
    )
    barrier = threading.Barrier(6)

    def report(number):
        barrier.wait(10)
        uid = f"1.2.{number}"
        return (
            served.create(uid, a_creation(entries[number])).status,
            served.set(uid, an_end()).status,
        )

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(report, range(6))) == [(0x0000, 0x0000)] * 6
    assert {served.status_of(entry) for entry in entries} == {StepStatus.COMPLETED}
    with served.units() as uow:
        assert uow.orders.get(entries[0].order.id).status is OrderStatus.COMPLETED


def test_of_many_creations_at_once_exactly_one_is_taken(served):
    (entry,) = store(served.engine, an_entry(1))
    barrier = threading.Barrier(6)

    def create(_):
        barrier.wait(10)
        return served.create("1.2.3", a_creation(entry)).status

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(create, range(6))) == [0x0000] + [0x0111] * 5


@pytest.mark.postgres
def test_on_postgresql_too_exactly_one_of_many_creations_and_ends_is_taken():
    with postgresql_engine() as engine:
        if engine is None:
            pytest.skip("no PostgreSQL server to start here")
        served = Served(engine)
        try:
            test_of_many_creations_at_once_exactly_one_is_taken(served)
            clear(engine)
            test_of_many_ends_at_once_exactly_one_is_taken(served)
            clear(engine)
            test_steps_of_one_order_reported_at_once_all_count(served)
        finally:
            served.server.stop()


@pytest.mark.peer
def test_pynetdicom_reports_an_exam(served):
    (entry,) = store(served.engine, an_entry(1))
    ae = AE("CT1")
    ae.add_requested_context(ModalityPerformedProcedureStep)
    association = ae.associate("127.0.0.1", served.port, ae_title="BROKER")
    assert association.is_established
    uid = generate_uid()
    status, _ = association.send_n_create(a_creation(entry), ModalityPerformedProcedureStep, uid)
    assert status.Status == 0x0000
    status, _ = association.send_n_set(an_end(), ModalityPerformedProcedureStep, uid)
    assert status.Status == 0x0000
    status, _ = association.send_n_set(an_end(), ModalityPerformedProcedureStep, uid)
    assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
    association.release()
    assert served.status_of(entry) is StepStatus.COMPLETED
