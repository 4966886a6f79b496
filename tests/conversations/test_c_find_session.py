"""What a scanner says and hears about its worklist, byte by byte, without a network."""

import pytest
from structlog.testing import capture_logs

from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.service import Matches, Peer, PresentationContext, Request, Response
from broker.dicom.objects.elements import Syntax
from broker.dicom.services.worklist import MODALITY_WORKLIST, WorklistService, granted
from broker.workflow.worklist import Worklist
from tests.worklist_database import StillClock, sqlite_engine, store
from tests.worklist_entries import an_entry


@pytest.fixture
def service(tmp_path):
    with sqlite_engine(tmp_path) as engine:
        store(engine, an_entry(1), an_entry(2, start=("20261122", "070000")))
        yield WorklistService(Worklist(SqlWorklistReader(engine), StillClock()))


def request(syntax=Syntax.IMPLICIT_LITTLE):
    return Request(
        Peer("a1", "CT1", "BROKER", "127.0.0.1", None, "1.2", "TEST", 16384),
        PresentationContext(1, MODALITY_WORKLIST, syntax.value),
        Command(field=CommandField.C_FIND_RQ, message_id=1, affected_sop_class_uid=MODALITY_WORKLIST),
        0.0,
    )


def ask(service, identifier, *, piece=1 << 20, syntax=Syntax.IMPLICIT_LITTLE):
    receiver = service.begin(request(syntax))
    for at in range(0, len(identifier), piece):
        receiver.write(memoryview(identifier)[at : at + piece])
    return list(each(receiver.finish(lambda: False)))


def each(answers):
    for answer in answers:
        if isinstance(answer, Matches):
            yield from (Response(answer.status, data_set) for data_set in answer.data_sets)
        else:
            yield answer


ACCESSION_OF_TODAY = bytes.fromhex(
    "08005000 00000000"  # (0008,0050) Accession Number, universal
    "40000001 18000000"  # (0040,0100) Scheduled Procedure Step Sequence
    "feff00e0 10000000"  # its item
    "40000200 08000000 3230323631313231"  # (0040,0002) 20261121
)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_the_answer_is_the_same_however_the_identifier_is_cut(service, piece):
    (answer,) = ask(service, ACCESSION_OF_TODAY, piece=piece)
    assert answer.status == 0xFF00
    assert answer.data_set == bytes.fromhex(
        "08000500 0a000000 49534f5f495220313030"  # (0008,0005) ISO_IR 100
        "08005000 02000000 4131"  # (0008,0050) A1
        "40000001 18000000"
        "feff00e0 10000000"
        "40000200 08000000 3230323631313231"
    )


def test_a_date_that_is_none_is_told_without_its_value(service):
    with capture_logs() as lines:
        answers = ask(service, ACCESSION_OF_TODAY[:32] + b"DOE^JANE")
    assert [answer.status for answer in answers] == [0xFF00, 0xFF00]
    (line,) = [line for line in lines if line["event"] == "query keys ignored"]
    assert line["keys"] == ["ScheduledProcedureStepStartDate: not a date or a range of dates"]
    assert "DOE" not in str(lines)


def test_an_empty_identifier_is_answered_with_empty_answers(service):
    answers = ask(service, b"")
    assert [answer.status for answer in answers] == [0xFF00, 0xFF00]


@pytest.mark.parametrize("cut", range(1, len(ACCESSION_OF_TODAY)))
def test_an_identifier_cut_short_is_refused_and_never_understood_by_halves(service, cut):
    answers = ask(service, ACCESSION_OF_TODAY[:cut])
    if cut == 8:  # a whole element: another, shorter query
        assert [answer.status for answer in answers] == [0xFF00, 0xFF00]
    else:
        assert [answer.status for answer in answers] == [0xA900]


def test_answers_are_made_as_they_are_taken(service):
    receiver = service.begin(request())
    answers = iter(receiver.finish(lambda: False))
    assert next(answers).status == 0xFF00
    answers.close()  # the peer is gone


def test_extended_negotiation_is_answered_as_long_as_it_was_asked():  # PS3.4 K.5.1
    assert granted(b"\1\1\1") == b"\1\1\0"
    assert granted(b"\1\1\1\1") == b"\1\1\0\0"
    assert granted(b"\1") == b"\1\1\0"
