"""The data sets of a synthetic exam, as a scanner would write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from uuid import uuid4

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from broker.workflow.probe_port import PROBE

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
PERFORMED_STEP = "1.2.840.10008.3.1.2.3.3"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NAME = "PROBE^SYNTHETIC"
MODALITY = "OT"
_SIDE = 64


def _uid() -> str:
    return f"2.25.{uuid4().int}"


@dataclass(frozen=True, slots=True)
class Exam:
    """Who and what a synthetic exam is."""

    study_instance_uid: str
    patient_id: str
    now: datetime
    """In the site's zone."""
    performed_uid: str = field(default_factory=_uid)
    series_uid: str = field(default_factory=_uid)
    image_uid: str = field(default_factory=_uid)

    @property
    def accession(self) -> str:
        """Answer its accession number, at most 16 characters (PS3.5 6.2, SH)."""
        return self.patient_id[-16:]

    @property
    def date(self) -> str:
        """Answer its day."""
        return self.now.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """Answer its time."""
        return self.now.strftime("%H%M%S")


def worklist_query(exam: Exam) -> bytes:
    """Ask for the worklist of the probe's own station, today."""
    step = Dataset()
    step.ScheduledStationAETitle = PROBE
    step.ScheduledProcedureStepStartDate = exam.date
    step.ScheduledProcedureStepID = step.Modality = ""
    query = Dataset()
    query.PatientName = query.PatientID = query.AccessionNumber = query.StudyInstanceUID = ""
    query.RequestedProcedureID = ""
    query.ScheduledProcedureStepSequence = [step]
    return _encoded(query)


def read_study(answer: bytes) -> str:
    """Answer the Study Instance UID of a worklist entry."""
    found = read_dataset(BytesIO(answer), is_implicit_VR=False, is_little_endian=True)
    return str(found.get("StudyInstanceUID", ""))


def performed_begin(exam: Exam) -> bytes:
    """Write the N-CREATE data set (PS3.4 table F.7.2-1)."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = exam.study_instance_uid
    scheduled.ReferencedStudySequence = []
    scheduled.AccessionNumber = exam.accession
    scheduled.RequestedProcedureID = scheduled.ScheduledProcedureStepID = exam.accession
    scheduled.RequestedProcedureDescription = scheduled.ScheduledProcedureStepDescription = ""
    scheduled.ScheduledProtocolCodeSequence = []
    performed = Dataset()
    performed.ScheduledStepAttributesSequence = [scheduled]
    performed.PatientName, performed.PatientID = NAME, exam.patient_id
    performed.PatientBirthDate = performed.PatientSex = ""
    performed.ReferencedPatientSequence = []
    performed.PerformedProcedureStepID = exam.time
    performed.PerformedStationAETitle = PROBE
    performed.PerformedStationName = performed.PerformedLocation = ""
    performed.PerformedProcedureStepStartDate = exam.date
    performed.PerformedProcedureStepStartTime = exam.time
    performed.PerformedProcedureStepStatus = "IN PROGRESS"
    performed.PerformedProcedureStepDescription = performed.PerformedProcedureTypeDescription = ""
    performed.ProcedureCodeSequence = performed.PerformedProtocolCodeSequence = []
    performed.PerformedProcedureStepEndDate = performed.PerformedProcedureStepEndTime = None
    performed.Modality = MODALITY
    performed.StudyID = ""
    performed.PerformedSeriesSequence = []
    return _encoded(performed)


def performed_end(exam: Exam) -> bytes:
    """Write the N-SET data set that completes it."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = SECONDARY_CAPTURE
    reference.ReferencedSOPInstanceUID = exam.image_uid
    series = Dataset()
    series.SeriesInstanceUID = exam.series_uid
    series.ProtocolName = "PROBE"
    series.SeriesDescription = series.RetrieveAETitle = ""
    series.PerformingPhysicianName = series.OperatorsName = ""
    series.ReferencedImageSequence = [reference]
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    change = Dataset()
    change.PerformedProcedureStepStatus = "COMPLETED"
    change.PerformedProcedureStepEndDate, change.PerformedProcedureStepEndTime = exam.date, exam.time
    change.PerformedSeriesSequence = [series]
    return _encoded(change)


def picture(exam: Exam) -> bytes:
    """Write a grey ramp as a Secondary Capture image."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = SECONDARY_CAPTURE, exam.image_uid
    image.StudyInstanceUID, image.SeriesInstanceUID = exam.study_instance_uid, exam.series_uid
    image.PatientName, image.PatientID = NAME, exam.patient_id
    image.PatientBirthDate = image.PatientSex = image.StudyID = image.ReferringPhysicianName = ""
    image.AccessionNumber = exam.accession
    image.Modality, image.ConversionType = MODALITY, "WSD"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.StudyDate = image.SeriesDate = image.ContentDate = exam.date
    image.StudyTime = image.SeriesTime = image.ContentTime = exam.time
    image.SeriesNumber = image.InstanceNumber = 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = _SIDE
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes((row * 4 + column) % 256 for row in range(_SIDE) for column in range(_SIDE))
    image["PixelData"].VR = "OB"
    return _encoded(image)


def _encoded(data_set: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())
