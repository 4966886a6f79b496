"""What a scanner says and hears about its exams, and that nothing it says breaks the service."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.service import Peer, PresentationContext, Request, ServiceError
from broker.dicom.objects.answers import WorklistEncoder
from broker.dicom.objects.elements import Element, Syntax, write_elements
from broker.dicom.services.mpps import PERFORMED_PROCEDURE_STEP, PerformedStepService
from tests.worklist_database import StillClock, sqlite_engine, units_of_work

IMPLICIT = Syntax.IMPLICIT_LITTLE
CREATION = write_elements(
    {
        0x00080060: Element("CS", b"CT"),
        0x00400241: Element("AE", b"CT1"),
        0x00400244: Element("DA", b"20261121"),
        0x00400245: Element("TM", b"0915"),
        0x00400252: Element("CS", b"IN PROGRESS"),
        0x00400253: Element("SH", b"P1"),
        0x00400270: Element("SQ", b"", ({0x0020000D: Element("UI", b"1.2.3")},)),
    },
    IMPLICIT,
)
COMPLETION = write_elements({0x00400252: Element("CS", b"COMPLETED")}, IMPLICIT)


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    with sqlite_engine(tmp_path_factory.mktemp("mpps")) as engine:
        yield units_of_work(engine)


@pytest.fixture(scope="module")
def service(units):
    return PerformedStepService(units, clock=StillClock(), encoder=WorklistEncoder())


def say(service, field, uid, data):
    is_create = field is CommandField.N_CREATE_RQ
    command = Command(
        field=field,
        message_id=1,
        affected_sop_class_uid=PERFORMED_PROCEDURE_STEP if is_create else None,
        requested_sop_class_uid=None if is_create else PERFORMED_PROCEDURE_STEP,
        affected_sop_instance_uid=uid if is_create else None,
        requested_sop_instance_uid=None if is_create else uid,
        has_data_set=True,
    )
    peer = Peer("a1", "CT1", "BROKER", "127.0.0.1", None, "1.2", "TEST", 16384)
    context = PresentationContext(1, PERFORMED_PROCEDURE_STEP, IMPLICIT.value)
    try:
        receiver = service.begin(Request(peer, context, command, 0.0))
    except ServiceError as error:
        return error.response
    receiver.write(memoryview(data))
    (response,) = receiver.finish(lambda: False)
    return response


def create(service, uid, data=CREATION):
    return say(service, CommandField.N_CREATE_RQ, uid, data)


def end(service, uid, data=COMPLETION):
    return say(service, CommandField.N_SET_RQ, uid, data)


def test_a_whole_exam(service):
    assert end(service, "1.1").status == 0x0112
    assert create(service, "1.1").status == 0x0000
    assert create(service, "1.1").status == 0x0111
    assert end(service, "1.1", b"").status == 0x0000
    assert end(service, "1.1").status == 0x0000
    answer = end(service, "1.1")
    assert (answer.status, answer.error_id) == (0x0110, 0xA710)


@pytest.mark.parametrize("cut", range(len(CREATION)))
def test_a_creation_cut_short_creates_nothing(service, units, cut):
    answer = create(service, "1.9.1", CREATION[:cut])
    assert answer.status in (0x0106, 0x0110, 0x0120, 0x0121)
    with units() as uow:
        assert uow.performed.find("1.9.1") is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_report_breaks_the_service(service, units, data):
    original = data.draw(st.sampled_from([CREATION, COMPLETION]))
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    uid = f"1.5.{data.draw(st.integers(0, 10_000))}"
    answer = (
        create(service, uid, bytes(damaged)) if original is CREATION else end(service, uid, bytes(damaged))
    )
    assert answer.status in (0x0000, 0x0106, 0x0110, 0x0111, 0x0112, 0x0120, 0x0121)
    assert answer.error_comment != "internal error"
    with units() as uow:
        stored = uow.performed.find(uid)
    if answer.status == 0x0000:
        assert stored is not None
