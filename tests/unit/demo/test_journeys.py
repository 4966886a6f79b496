"""The verdict can fail: a perfect day passes, and every kind of harm is seen by the journey that promises it away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from rich.console import Console

from broker.demo.board import Board
from broker.demo.cases import ABDOMEN, CHEST, EXAMINED, HEAD, KNEE, ORDERS, PLATES
from broker.demo.hl7_messages import Message, StatusMessage
from broker.demo.journeys import CHANGED_NAME, JOURNEYS, Day
from broker.demo.pixels import CR_PLATE, pixels_of
from broker.demo.printer import Film, Printer
from broker.demo.ris import Ris, Sent
from broker.demo.scanner import Exam, Scanner, SentImage
from broker.demo.site import Ports
from broker.demo.storage_peer import Received, StoragePeer
from broker.dicom.objects.annotation import BUILT_IN_FONT

MODALITIES = {CHEST.key: "CT", HEAD.key: "CT", KNEE.key: "MR", PLATES.key: "CR"}


def an_answer(case, name=None, status=None):
    entry, step = Dataset(), Dataset()
    entry.PatientName, entry.PatientID = name or case.name, case.patient_id
    entry.AccessionNumber, entry.RequestedProcedureDescription = case.accession_number, case.procedure
    entry.StudyInstanceUID = case.study_instance_uid or f"1.2.3.{len(case.key)}"
    step.Modality, step.ScheduledProcedureStepStatus = case.modality, status
    entry.ScheduledProcedureStepSequence = [step]
    return entry


def an_exam(case):
    exam = Exam(an_answer(case), generate_uid())
    for number in range(3):
        localizer = case is CHEST and number == 0
        exam.images.append(
            SentImage("1.2", generate_uid(), f"sha-{case.key}-{number}", MODALITIES[case.key], localizer, 0)
        )
    if case is HEAD:
        exam.images.append(SentImage("1.2", generate_uid(), "sha-shot", "OT", localizer=False, status=0))
    return exam


def arrived(image, exam):
    return Received(
        image.sop_instance_uid,
        exam.study_instance_uid,
        image.sha256,
        image.modality,
        "",
        image.localizer,
        "",
        (1, 1),
    )


def a_picture(*lines, stretch=1.0):
    image = Image.new("L", (1600, 1000))
    font = ImageFont.truetype(str(BUILT_IN_FONT), 37)
    ImageDraw.Draw(image).text((18, 0), "    ".join(lines), fill=255, font=font)
    pixels = pixels_of(CR_PLATE)
    plate = Image.fromarray((pixels / pixels.max() * 255).astype(np.uint8))
    image.paste(plate.resize((int(plate.width * 2.8 * stretch), int(plate.height * 2.8))), (60, 60))
    return np.asarray(image)


@pytest.fixture
def day(tmp_path):
    """A day on which everything went well."""
    ports = Ports.free()
    ris = Ris(ports.hl7, ports.ris)
    day = Day(
        ris=ris,
        scanners={"CT1": Scanner("CT1", "CT", ports.dicom, "BROKER")},
        cad=StoragePeer("CADX", ports.cad),
        archive=StoragePeer("PACS", ports.archive),
        printer=Printer("FILM", ports.printer, tmp_path),
    )
    messages = [Message(f"M{number}", "", "latin-1") for number in range(6)]
    ris.sent = [Sent(message, "AA", message.control_id) for message in (*messages, messages[0])]
    day.worklists = {
        "CT1 morning": [an_answer(case) for case in (CHEST, HEAD, ABDOMEN)],
        "CT2 morning": [an_answer(case) for case in (HEAD, ABDOMEN)],
        "MR1 morning": [an_answer(KNEE)],
        "CR1 morning": [an_answer(PLATES)],
        "CR1 later": [an_answer(PLATES, CHANGED_NAME)],
        "CT1 after the cancellation": [an_answer(case) for case in (CHEST, HEAD)],
        "MR1 asks for everything": [an_answer(case) for case in ORDERS],
        "MR1 asks for everything during": [],
        "CT2 during": [an_answer(case, status="STARTED") for case in (CHEST, HEAD)],
        "CT2 after": [],
    }
    day.exams = {case.key: an_exam(case) for case in EXAMINED}
    for case in EXAMINED:
        exam = day.exams[case.key]
        day.archive.received += [arrived(image, exam) for image in exam.images if image.modality != "OT"]
        ris.statuses += [
            StatusMessage("1", "SC", status, case.placer_order_number, case.accession_number)
            for status in ("IP", "CM")
        ]
    chest = day.exams[CHEST.key]
    day.cad.received = [arrived(image, chest) for image in chest.images if not image.localizer]
    pictures = (a_picture("Brennan-Walsh, Maeve", "ID DEMO-1005"),) * 3
    day.printer.films = [Film(tmp_path / "film.png", pictures, pictures[0], 1)]
    day.archive_retries = [{"failures": 1}]
    day.orders = [
        {"accession_number": case.accession_number, "status": "CANCELED" if case is ABDOMEN else "COMPLETED"}
        for case in ORDERS
    ]
    day.studies = [{"study_instance_uid": day.exams[HEAD.key].study_instance_uid, "state": "UNROUTED"}]
    day.deliveries = [{"destination": "archive", "state": "DELIVERED"}]
    clause = {"clause": "BodyPartExamined in [CHEST, PLATES]", "holds": False, "seen": "HEAD"}
    day.explanation = [{"route": "chest-ct-to-ai", "matched": False, "clauses": [clause]}]
    yield day
    ris._server.server_close()


def failing(day):
    return {journey.judge.__name__ for journey in JOURNEYS if journey.judge(day)}


def drop(images, number=0):
    del images[number]


def change(images, number=0, **values):
    images[number] = replace(images[number], **values)


def test_a_perfect_day_passes(day):
    assert {journey.title: journey.judge(day) for journey in JOURNEYS} == {j.title: [] for j in JOURNEYS}


HARM = {
    "a message refused": (lambda d: change(d.ris.sent, code="AE"), "orders_are_acknowledged"),
    "an answer for another message": (lambda d: change(d.ris.sent, answers="M9"), "orders_are_acknowledged"),
    "an order twice": (lambda d: d.orders.append(d.orders[0]), "orders_are_acknowledged"),
    "nothing said twice": (lambda d: d.ris.sent.pop(), "orders_are_acknowledged"),
    "an order on a foreign scanner": (
        lambda d: d.worklists["MR1 morning"].append(an_answer(HEAD)),
        "worklists_are_right",
    ),
    "an order missing": (lambda d: d.worklists["CT1 morning"].pop(0), "worklists_are_right"),
    "a name mangled": (
        lambda d: setattr(d.worklists["MR1 morning"][0], "PatientName", "????"),
        "worklists_are_right",
    ),
    "the old name": (
        lambda d: d.worklists.update({"CR1 later": [an_answer(PLATES)]}),
        "a_changed_name_is_on_the_next_answer",
    ),
    "still listed after the cancellation": (
        lambda d: d.worklists["CT1 after the cancellation"].append(an_answer(ABDOMEN)),
        "a_cancelled_order_disappears",
    ),
    "status of a cancelled order": (
        lambda d: change(d.ris.statuses, placer_order_number=ABDOMEN.placer_order_number),
        "a_cancelled_order_disappears",
    ),
    "still offered to others": (
        lambda d: d.worklists["MR1 asks for everything during"].append(an_answer(HEAD)),
        "a_started_exam_is_hidden_from_others",
    ),
    "offered as if nobody had begun": (
        lambda d: d.worklists["CT2 during"].append(an_answer(HEAD, status="SCHEDULED")),
        "a_started_exam_is_hidden_from_others",
    ),
    "offered when it is complete": (
        lambda d: d.worklists["CT2 after"].append(an_answer(HEAD)),
        "a_started_exam_is_hidden_from_others",
    ),
    "the other scanner never asked": (
        lambda d: d.worklists.pop("CT2 after"),
        "a_started_exam_is_hidden_from_others",
    ),
    "a completion not told": (lambda d: drop(d.ris.statuses, -1), "the_ris_hears_of_every_exam"),
    "a completion told twice": (
        lambda d: d.ris.statuses.append(d.ris.statuses[-1]),
        "the_ris_hears_of_every_exam",
    ),
    "completion before the start": (lambda d: d.ris.statuses.reverse(), "the_ris_hears_of_every_exam"),
    "a slice missing at CAD": (lambda d: drop(d.cad.received), "chest_ct_reaches_cad"),
    "a bit changed at CAD": (lambda d: change(d.cad.received, sha256="x"), "chest_ct_reaches_cad"),
    "a localizer at CAD": (
        lambda d: d.cad.received.append(arrived(d.images(CHEST)[0], d.exams[CHEST.key])),
        "chest_ct_reaches_cad",
    ),
    "no reason given": (lambda d: d.explanation.clear(), "head_ct_is_explained"),
    "another reason given": (
        lambda d: d.explanation[0]["clauses"][0].update(clause="Modality is CT"),
        "head_ct_is_explained",
    ),
    "the head at CAD": (
        lambda d: d.cad.received.append(arrived(d.images(HEAD)[0], d.exams[HEAD.key])),
        "head_ct_is_explained",
    ),
    "MR at CAD": (
        lambda d: d.cad.received.append(arrived(d.images(KNEE)[0], d.exams[KNEE.key])),
        "mr_goes_to_the_archive_only",
    ),
    "no film": (lambda d: d.printer.films.clear(), "plates_go_to_film"),
    "two films": (lambda d: d.printer.films.append(d.printer.films[0]), "plates_go_to_film"),
    "an anonymous film": (
        lambda d: change(d.printer.films, pictures=(a_picture("ID DEMO-1005"),) * 3),
        "plates_go_to_film",
    ),
    "another patient's film": (
        lambda d: change(d.printer.films, pictures=(a_picture("Brennan-Walsh, Maeve", "ID DEMO-1006"),) * 3),
        "plates_go_to_film",
    ),
    "a distorted film": (
        lambda d: change(
            d.printer.films,
            pictures=(a_picture("Brennan-Walsh, Maeve", "ID DEMO-1005", stretch=1.1),) * 3,
        ),
        "plates_go_to_film",
    ),
    "a plate missing": (
        lambda d: change(d.printer.films, pictures=d.printer.films[0].pictures[:2]),
        "plates_go_to_film",
    ),
    "an image lost while the archive was down": (
        lambda d: drop(d.archive.received),
        "the_archive_gets_everything_after_it_was_down",
    ),
    "an image sent twice": (
        lambda d: d.archive.received.append(d.archive.received[0]),
        "the_archive_gets_everything_after_it_was_down",
    ),
    "the archive was never down": (
        lambda d: d.archive_retries.clear(),
        "the_archive_gets_everything_after_it_was_down",
    ),
    "a dead delivery": (
        lambda d: d.deliveries.append({"destination": "archive", "state": "DEAD"}),
        "the_archive_gets_everything_after_it_was_down",
    ),
    "the screen shot dropped": (
        lambda d: d.studies[0].update(state="ROUTED"),
        "what_no_route_wants_is_kept",
    ),
    "the screen shot sent on": (
        lambda d: d.archive.received.append(arrived(d.images(HEAD)[-1], d.exams[HEAD.key])),
        "what_no_route_wants_is_kept",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_seen(day, harm):
    do, judge = HARM[harm]
    do(day)
    assert judge in failing(day)


def test_a_day_that_did_not_happen_fails_every_journey(day):
    empty = Day(day.ris, day.scanners, day.cad, day.archive, day.printer)
    day.ris.sent, day.ris.statuses = [], []
    day.cad.received, day.archive.received, day.printer.films = [], [], []
    assert failing(empty) == {journey.judge.__name__ for journey in JOURNEYS}


def test_the_board_shows_every_journey_and_fails_without_a_day(day):
    console = Console(width=160, record=True, quiet=True)
    board = Board(console)
    assert not board.judge()
    assert set(board.problems) == {journey.title for journey in JOURNEYS}
    board.day = day
    assert board.judge()
    console.quiet = False
    with console.capture() as shown:
        console.print(board.render())
    assert shown.get().count("PASS") == len(JOURNEYS)
