"""A scanner: asks for its worklist, reports what it performs, sends images. It knows only what it was answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dsutils import encode

from broker.demo.pixels import STORAGE_CLASSES, Kind, make_image

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
PERFORMED_STEP = "1.2.840.10008.3.1.2.3.3"
VERIFICATION = "1.2.840.10008.1.1"
_TIMEOUT_S = 20
_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000

_STEP_KEYS = (
    "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "Modality",
    "ScheduledPerformingPhysicianName", "ScheduledProcedureStepDescription", "ScheduledProcedureStepID",
    "ScheduledProtocolCodeSequence", "ScheduledStationName", "ScheduledProcedureStepLocation",
    "ScheduledProcedureStepStatus",
)  # fmt: skip
_KEYS = (
    "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate",
    "PatientSex", "StudyInstanceUID", "RequestedProcedureID", "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence", "RequestingPhysician",
)  # fmt: skip


class PeerError(RuntimeError):
    """The broker did not do what a scanner needs."""


@dataclass(frozen=True, slots=True)
class SentImage:
    """What a scanner knows of an image it has sent."""

    sop_class_uid: str
    sop_instance_uid: str
    sha256: str
    modality: str
    localizer: bool
    status: int


@dataclass(frozen=True, slots=True)
class Exam:
    """One performed procedure step with its images."""

    entry: Dataset
    performed_uid: str
    images: list[SentImage] = field(default_factory=list)

    @property
    def study_instance_uid(self) -> str:
        """The study of the worklist answer."""
        return str(self.entry.StudyInstanceUID)


@dataclass
class Scanner:
    """One scanner and what it did."""

    ae_title: str
    modality: str
    dicom_port: int
    called_ae_title: str
    exams: list[Exam] = field(default_factory=list)

    def echo(self) -> bool:
        """Tell whether the broker answers a C-ECHO."""
        try:
            with _Association(self, (VERIFICATION,)) as association:
                return bool(association.send_c_echo().get("Status", 0xFFFF) == _SUCCESS)
        except PeerError:
            return False

    def worklist(self, day: str, *, own: bool = True, modality: str | None = None) -> list[Dataset]:
        """Ask for the day's worklist: of this scanner, or of every station of a modality ("": of any)."""
        step = Dataset()
        for keyword in _STEP_KEYS:
            setattr(step, keyword, [] if keyword.endswith("Sequence") else "")
        step.Modality = self.modality if modality is None else modality
        step.ScheduledStationAETitle = self.ae_title if own else ""
        step.ScheduledProcedureStepStartDate = day
        query = Dataset()
        query.SpecificCharacterSet = "ISO_IR 192" if self.modality == "MR" else "ISO_IR 100"
        for keyword in _KEYS:
            setattr(query, keyword, [] if keyword.endswith("Sequence") else "")
        query.ScheduledProcedureStepSequence = [step]
        answers: list[Dataset] = []
        with _Association(self, (MODALITY_WORKLIST,)) as association:
            for status, identifier in association.send_c_find(query, MODALITY_WORKLIST):
                code = status.get("Status", 0xFFFF)
                if code in _PENDING and identifier is not None:
                    answers.append(identifier)
                elif code != _SUCCESS:
                    raise PeerError(f"C-FIND ended with {code:04X}")
        return answers

    def begin(self, entry: Dataset, now: datetime) -> Exam:
        """Tell that the exam of a worklist entry has begun (IHE RAD-6)."""
        exam = Exam(entry, generate_uid())
        with _Association(self, (PERFORMED_STEP,)) as association:
            status, _ = association.send_n_create(
                self._performed_step(entry, now), PERFORMED_STEP, exam.performed_uid
            )
        _expect(status, "N-CREATE")
        self.exams.append(exam)
        return exam

    def send(
        self,
        exam: Exam,
        kinds: Sequence[Kind],
        *,
        body_part: str | None,
        now: datetime,
        series: str | None = None,
    ) -> str:
        """Make and send images of one series; answer the series."""
        series_uid = series or generate_uid()
        with _Association(self, STORAGE_CLASSES) as association:
            for number, kind in enumerate(kinds, start=len(exam.images) + 1):
                image = make_image(kind, number=number, series_instance_uid=series_uid, now=now)
                self._identify(image, exam, body_part)
                status = association.send_c_store(image)
                exam.images.append(
                    SentImage(
                        kind.sop_class_uid,
                        str(image.SOPInstanceUID),
                        data_set_sha256(image),
                        kind.modality,
                        "LOCALIZER" in kind.image_type,
                        status.get("Status", 0xFFFF),
                    )
                )
        return series_uid

    def finish(self, exam: Exam, series_uid: str, now: datetime) -> None:
        """Tell that the exam is complete, and list its images (IHE RAD-7)."""
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ProtocolName = "DEMO"
        series.SeriesDescription = series.RetrieveAETitle = ""
        series.PerformingPhysicianName = series.OperatorsName = ""
        series.ReferencedNonImageCompositeSOPInstanceSequence = []
        series.ReferencedImageSequence = []
        for image in exam.images:
            reference = Dataset()
            reference.ReferencedSOPClassUID = image.sop_class_uid
            reference.ReferencedSOPInstanceUID = image.sop_instance_uid
            series.ReferencedImageSequence.append(reference)
        change = Dataset()
        change.PerformedProcedureStepStatus = "COMPLETED"
        change.PerformedProcedureStepEndDate = now.strftime("%Y%m%d")
        change.PerformedProcedureStepEndTime = now.strftime("%H%M%S")
        change.PerformedSeriesSequence = [series]
        with _Association(self, (PERFORMED_STEP,)) as association:
            status, _ = association.send_n_set(change, PERFORMED_STEP, exam.performed_uid)
        _expect(status, "N-SET")

    def _identify(self, image: Dataset, exam: Exam, body_part: str | None) -> None:
        """Copy into an image what a scanner takes from its worklist (IHE RAD TF-2, table RAD-8)."""
        entry, (step,) = exam.entry, exam.entry.ScheduledProcedureStepSequence
        if "SpecificCharacterSet" in entry:
            image.SpecificCharacterSet = entry.SpecificCharacterSet
        for keyword in (
            "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "AccessionNumber",
            "ReferringPhysicianName",
        ):  # fmt: skip
            setattr(image, keyword, entry.get(keyword, ""))
        image.StudyID = entry.get("RequestedProcedureID", "")
        image.StationName = self.ae_title
        if body_part:
            image.BodyPartExamined = body_part
        request = Dataset()
        request.RequestedProcedureID = entry.get("RequestedProcedureID", "")
        request.ScheduledProcedureStepID = step.get("ScheduledProcedureStepID", "")
        request.ScheduledProcedureStepDescription = step.get("ScheduledProcedureStepDescription", "")
        image.RequestAttributesSequence = [request]
        performed = Dataset()
        performed.ReferencedSOPClassUID = PERFORMED_STEP
        performed.ReferencedSOPInstanceUID = exam.performed_uid
        image.ReferencedPerformedProcedureStepSequence = [performed]

    def _performed_step(self, entry: Dataset, now: datetime) -> Dataset:
        """Write the N-CREATE data set of an exam that has begun (PS3.4 table F.7.2-1)."""
        (step,) = entry.ScheduledProcedureStepSequence
        scheduled = Dataset()
        scheduled.StudyInstanceUID = entry.StudyInstanceUID
        scheduled.ReferencedStudySequence = []
        for keyword in ("AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription"):
            setattr(scheduled, keyword, entry.get(keyword, ""))
        for keyword in ("ScheduledProcedureStepID", "ScheduledProcedureStepDescription"):
            setattr(scheduled, keyword, step.get(keyword, ""))
        scheduled.ScheduledProtocolCodeSequence = step.get("ScheduledProtocolCodeSequence", [])
        performed = Dataset()
        if "SpecificCharacterSet" in entry:
            performed.SpecificCharacterSet = entry.SpecificCharacterSet
        performed.ScheduledStepAttributesSequence = [scheduled]
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
            setattr(performed, keyword, entry.get(keyword, ""))
        performed.ReferencedPatientSequence = []
        performed.PerformedProcedureStepID = now.strftime("%H%M%S")
        performed.PerformedStationAETitle = self.ae_title
        performed.PerformedStationName = performed.PerformedLocation = ""
        performed.PerformedProcedureStepStartDate = now.strftime("%Y%m%d")
        performed.PerformedProcedureStepStartTime = now.strftime("%H%M%S")
        performed.PerformedProcedureStepStatus = "IN PROGRESS"
        performed.PerformedProcedureStepDescription = performed.PerformedProcedureTypeDescription = ""
        performed.ProcedureCodeSequence = performed.PerformedProtocolCodeSequence = []
        performed.PerformedProcedureStepEndDate = performed.PerformedProcedureStepEndTime = None
        performed.Modality = self.modality
        performed.StudyID = ""
        performed.PerformedSeriesSequence = []
        return performed


class _Association:
    """An association of a scanner for as long as its block lasts."""

    def __init__(self, scanner: Scanner, classes: Sequence[str]) -> None:
        self._scanner, self._classes = scanner, classes

    def __enter__(self) -> Any:
        entity = AE(ae_title=self._scanner.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
        for uid in self._classes:
            # Images in Explicit VR alone: both ends then speak of the same bytes.
            syntaxes = [ExplicitVRLittleEndian]
            entity.add_requested_context(
                uid, syntaxes if uid in STORAGE_CLASSES else [*syntaxes, ImplicitVRLittleEndian]
            )
        self._association = entity.associate(
            "127.0.0.1", self._scanner.dicom_port, ae_title=self._scanner.called_ae_title
        )
        if not self._association.is_established:
            raise PeerError(f"{self._scanner.ae_title} gets no association")
        return self._association

    def __exit__(self, *_: object) -> None:
        if self._association.is_established:
            self._association.release()


def data_set_sha256(image: Dataset) -> str:
    """Hash the data set as it goes over the wire in Explicit VR Little Endian."""
    data = encode(image, is_implicit_vr=False, is_little_endian=True)
    return hashlib.sha256(data or b"").hexdigest()


def _expect(status: Dataset, what: str) -> None:
    code = status.get("Status", 0xFFFF)
    if code != _SUCCESS:
        raise PeerError(f"{what} answered {code:04X} {status.get('ErrorComment', '')}")
