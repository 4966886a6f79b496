"""The journeys of the day and how each is judged: from what the peers saw, never from what the broker believes.

Every judge answers the problems it finds; none means passed. A judge that finds nothing to look at fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset

from broker.demo.cases import ABDOMEN, CHEST, EXAMINED, HEAD, KNEE, ORDERS, PLATES, Case
from broker.demo.film_reader import reads, shows
from broker.demo.pixels import CR_PLATE, pixels_of
from broker.demo.printer import Printer
from broker.demo.ris import Ris
from broker.demo.scanner import Exam, Scanner, SentImage
from broker.demo.storage_peer import Received, StoragePeer

Rows = list[dict[str, Any]]


@dataclass
class Day:
    """Everything the peers have seen, and what the command line said."""

    ris: Ris
    scanners: Mapping[str, Scanner]
    cad: StoragePeer
    archive: StoragePeer
    printer: Printer
    worklists: dict[str, list[Dataset]] = field(default_factory=dict)
    """Moment -> what a scanner was answered."""
    exams: dict[str, Exam] = field(default_factory=dict)
    """Case -> its exam."""
    archive_retries: Rows = field(default_factory=list)
    """Deliveries to the archive while it was down."""
    orders: Rows = field(default_factory=list)
    studies: Rows = field(default_factory=list)
    deliveries: Rows = field(default_factory=list)
    explanation: Rows = field(default_factory=list)
    """Why the routes took the head study, or did not."""

    def accession_numbers(self, moment: str) -> list[str]:
        """List what a scanner was answered at some moment."""
        return sorted(str(entry.AccessionNumber) for entry in self.worklists.get(moment, ()))

    def images(self, case: Case) -> list[SentImage]:
        """List the images a scanner sent for a case."""
        return self.exams[case.key].images if case.key in self.exams else []


Judge = Callable[[Day], list[str]]


@dataclass(frozen=True, slots=True)
class Journey:
    """One promise and its judge."""

    title: str
    judge: Judge

    @property
    def promise(self) -> str:
        """The promise in one sentence."""
        return (self.judge.__doc__ or "").strip().partition("\n")[0]


def orders_are_acknowledged(day: Day) -> list[str]:
    """Every message got AA for itself; one said twice is one order."""
    problems = [f"{s.message.control_id}: {s.code or 'no answer'}" for s in day.ris.sent if not s.accepted]
    counted = Counter(str(row["accession_number"]) for row in day.orders)
    problems += [
        f"{c.accession_number}: {counted[c.accession_number]} orders"
        for c in ORDERS
        if counted[c.accession_number] != 1
    ]
    repeated = [n for n, times in Counter(s.message.control_id for s in day.ris.sent).items() if times > 1]
    return problems if repeated else [*problems, "no message was said twice"]


def worklists_are_right(day: Day) -> list[str]:
    """Each scanner sees its own orders and no other, with names as people write them."""
    expected = {
        "CT1 morning": (CHEST, HEAD, ABDOMEN),
        "CT2 morning": (HEAD, ABDOMEN),
        "MR1 morning": (KNEE,),
        "CR1 morning": (PLATES,),
    }
    problems: list[str] = []
    for moment, cases in expected.items():
        wanted = sorted(case.accession_number for case in cases)
        if day.accession_numbers(moment) != wanted:
            problems.append(f"{moment}: {day.accession_numbers(moment)} instead of {wanted}")
        for entry in day.worklists.get(moment, ()):
            problems += _entry_problems(entry, cases)
    return problems


def _entry_problems(entry: Dataset, cases: Sequence[Case]) -> list[str]:
    case = next((c for c in cases if c.accession_number == entry.AccessionNumber), None)
    if case is None:
        return []
    (step,) = entry.ScheduledProcedureStepSequence
    seen = {
        "PatientName": (str(entry.PatientName).rstrip("^"), case.name),
        "PatientID": (entry.PatientID, case.patient_id),
        "Modality": (step.Modality, case.modality),
        "RequestedProcedureDescription": (entry.RequestedProcedureDescription, case.procedure),
        "StudyInstanceUID": (entry.StudyInstanceUID, case.study_instance_uid or entry.StudyInstanceUID),
    }
    return [f"{case.key}: {key} {got!r}, not {want!r}" for key, (got, want) in seen.items() if got != want]


CHANGED_NAME = "Brennan-Walsh^Maeve"
"""What an ADT^A08 makes of the name of the thorax patient."""


def a_changed_name_is_on_the_next_answer(day: Day) -> list[str]:
    """ADT^A08 reaches the worklist at once."""
    names = [str(e.PatientName) for e in day.worklists.get("CR1 later", ())]
    return [] if names == [CHANGED_NAME] else [f"CR1 saw {names}"]


def a_cancelled_order_disappears(day: Day) -> list[str]:
    """The cancelled order was there, is gone, and nobody hears of it again."""
    number = ABDOMEN.accession_number
    problems = []
    if number not in day.accession_numbers("CT1 morning"):
        problems.append("it never was on the worklist")
    if not day.worklists.get("CT1 after the cancellation"):
        problems.append("nothing was asked after the cancellation")
    if number in day.accession_numbers("CT1 after the cancellation"):
        problems.append("it is still on the worklist")
    if _status_of(day, ABDOMEN) != "CANCELED":
        problems.append(f"the order is {_status_of(day, ABDOMEN)}")
    if heard := day.ris.heard_of(ABDOMEN.placer_order_number):
        problems.append(f"the RIS heard {heard}")
    return problems


def a_started_exam_is_hidden_from_others(day: Day) -> list[str]:
    """Begun, it is hidden from other kinds of scanner and marked for its own kind; complete, it is gone for all.

    Its own kind still sees it for a while, because a second scanner may have to take over.
    """
    if HEAD.accession_number not in day.accession_numbers("MR1 asks for everything"):
        return ["MR1 never saw it"]
    problems = [] if day.accession_numbers("CT2 during") else ["CT2 could not take over"]
    if HEAD.accession_number in day.accession_numbers("MR1 asks for everything during"):
        problems.append("MR1 still sees it")
    for entry in day.worklists.get("CT2 during", ()):
        (step,) = entry.ScheduledProcedureStepSequence
        if step.get("ScheduledProcedureStepStatus") != "STARTED":
            problems.append(f"CT2 sees it {step.get('ScheduledProcedureStepStatus') or 'without a status'}")
    if "CT2 after" not in day.worklists:
        problems.append("CT2 did not ask after the exam")
    return [
        *problems,
        *(f"CT2 sees {number} when it is complete" for number in day.accession_numbers("CT2 after")),
    ]


def the_ris_hears_of_every_exam(day: Day) -> list[str]:
    """In progress, then complete: once each, in this order; and the orders say so."""
    problems = []
    for case in EXAMINED:
        heard = day.ris.heard_of(case.placer_order_number)
        if heard != ["IP", "CM"]:
            problems.append(f"{case.key}: {heard}")
        if _status_of(day, case) != "COMPLETED":
            problems.append(f"{case.key}: the order is {_status_of(day, case)}")
    wrong = {s.accession_number for s in day.ris.statuses} - {c.accession_number for c in EXAMINED}
    return [*problems, *([f"status for {sorted(wrong)}"] if wrong else [])]


def chest_ct_reaches_cad(day: Day) -> list[str]:
    """CAD gets every chest slice byte for byte, no localizer, and nothing else."""
    wanted = [image for image in day.images(CHEST) if not image.localizer]
    if len(wanted) == len(day.images(CHEST)):
        return ["no localizer was sent"]
    return _compare(wanted, day.cad.received)


def head_ct_is_explained(day: Day) -> list[str]:
    """The head study is not CAD's, and the broker says which clause kept it away."""
    problems = [] if day.images(HEAD) else ["no head exam"]
    for verdict in day.explanation:
        if verdict.get("route") != "chest-ct-to-ai":
            continue
        failing = [c for c in verdict.get("clauses", ()) if not c.get("holds")]
        named = any("BodyPartExamined" in str(c.get("clause")) for c in failing)
        if verdict.get("matched") or not named:
            problems.append("the explanation does not name BodyPartExamined")
        break
    else:
        problems.append("no explanation of chest-ct-to-ai")
    if day.exams and any(
        i.study_instance_uid == day.exams[HEAD.key].study_instance_uid for i in day.cad.received
    ):
        problems.append("CAD got it")
    return problems


def mr_goes_to_the_archive_only(day: Day) -> list[str]:
    """MR images are in the archive, and neither at CAD nor on film."""
    sent = day.images(KNEE)
    problems = _compare(sent, _archived(day, KNEE))
    if any(image.modality == "MR" for image in day.cad.received):
        problems.append("CAD got MR")
    return problems


def plates_go_to_film(day: Day) -> list[str]:
    """One film: every plate in its box, undistorted, with the patient's name and id in the picture."""
    films = day.printer.films
    if len(films) != 1:
        return [f"{len(films)} films", *day.printer.problems]
    problems = list(day.printer.problems)
    pictures, original = films[0].pictures, pixels_of(CR_PLATE)
    if len(pictures) != len(day.images(PLATES)):
        problems.append(f"{len(pictures)} pictures")
    for number, picture in enumerate(pictures, start=1):
        if int(picture.max()) - int(picture.min()) < 128:
            problems.append(f"picture {number} is nearly blank")
        wanted = (CHANGED_NAME.replace("^", ", "), PLATES.patient_id)
        problems += [
            f"picture {number} does not show {text!r}" for text in wanted if not reads(picture, text)
        ]
        if not shows(picture, original):
            problems.append(f"picture {number} is not the plate, or distorted")
    return problems


def the_archive_gets_everything_after_it_was_down(day: Day) -> list[str]:
    """Nothing is lost while the archive is off: tried, retried, delivered byte for byte, once."""
    problems = []
    if not any(int(row.get("failures") or 0) > 0 for row in day.archive_retries):
        problems.append("no failed try was seen while it was down")
    for case in EXAMINED:
        problems += [f"{case.key}: {p}" for p in _compare(_archivable(day, case), _archived(day, case))]
    left = [row for row in day.deliveries if row["destination"] == "archive" and row["state"] != "DELIVERED"]
    if left:
        problems.append(f"{len(left)} deliveries are not DELIVERED")
    return problems


def what_no_route_wants_is_kept(day: Day) -> list[str]:
    """A screen shot no route asks for is kept and shown as UNROUTED, not dropped and not sent."""
    shots = [image for image in day.images(HEAD) if image.modality == "OT"]
    if not shots:
        return ["no screen shot was sent"]
    uid = day.exams[HEAD.key].study_instance_uid
    states = [row["state"] for row in day.studies if row["study_instance_uid"] == uid]
    problems = [] if states == ["UNROUTED"] else [f"the study is {states}"]
    sent_on = {image.sop_instance_uid for image in (*day.archive.received, *day.cad.received)}
    return [*problems, *(["it was sent on"] if sent_on & {i.sop_instance_uid for i in shots} else [])]


def _archivable(day: Day, case: Case) -> list[SentImage]:
    return [image for image in day.images(case) if image.modality != "OT"]


def _archived(day: Day, case: Case) -> list[Received]:
    return day.archive.of_study(day.exams[case.key].study_instance_uid) if case.key in day.exams else []


def _compare(sent: Sequence[SentImage], received: Sequence[Received]) -> list[str]:
    """Compare what was sent with what came: nothing missing, nothing more, nothing twice, every byte the same."""
    if not sent:
        return ["nothing was sent"]
    problems = [f"the broker answered {i.status:04X}" for i in sent if i.status != 0]
    wanted = {image.sop_instance_uid: image.sha256 for image in sent}
    came = Counter(image.sop_instance_uid for image in received)
    if missing := wanted.keys() - came.keys():
        problems.append(f"{len(missing)} of {len(wanted)} missing")
    if foreign := came.keys() - wanted.keys():
        problems.append(f"{len(foreign)} that should not be there")
    if twice := [uid for uid, times in came.items() if times > 1]:
        problems.append(f"{len(twice)} came twice")
    changed = [i for i in received if wanted.get(i.sop_instance_uid, i.sha256) != i.sha256]
    return [*problems, *([f"{len(changed)} differ in their bytes"] if changed else [])]


def _status_of(day: Day, case: Case) -> str | None:
    found = [row["status"] for row in day.orders if row["accession_number"] == case.accession_number]
    return str(found[0]) if len(found) == 1 else None


JOURNEYS = (
    Journey("Orders in three dialects → acknowledged, once each", orders_are_acknowledged),
    Journey("Order → worklist of the right scanner only", worklists_are_right),
    Journey("Name changed by ADT^A08 → next worklist answer", a_changed_name_is_on_the_next_answer),
    Journey("Cancelled order → off the worklist, silent", a_cancelled_order_disappears),
    Journey("Exam begun (MPPS) → hidden from others, complete → gone", a_started_exam_is_hidden_from_others),
    Journey("MPPS → RIS hears IP and CM of each exam", the_ris_hears_of_every_exam),
    Journey("CT chest → CAD, byte for byte, no localizer", chest_ct_reaches_cad),
    Journey("CT head → not CAD, and the reason is told", head_ct_is_explained),
    Journey("MR → archive only", mr_goes_to_the_archive_only),
    Journey("X-ray → one film with name and id on every picture", plates_go_to_film),
    Journey(
        "Archive down → retried → everything delivered once", the_archive_gets_everything_after_it_was_down
    ),
    Journey("Screen shot no route wants → kept as UNROUTED", what_no_route_wants_is_kept),
)
