"""What modalities send: images and performed procedure steps, encoded to the byte before they are offered."""

from __future__ import annotations

import random
import struct

from pydicom.dataset import Dataset

from broker.dicom.objects.elements import Syntax
from tests.data_sets import pydicom_writes
from tests.storage_listener import element

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}
MPPS = "1.2.840.10008.3.1.2.3.3"
EXPLICIT = "1.2.840.10008.1.2.1"


def an_image(
    uid: str,
    *,
    study: str,
    series: str,
    modality: str,
    accession: str,
    patient_id: str,
    chance: random.Random,
) -> bytes:
    """Encode an image with pixels of chance, Explicit VR Little Endian; some are many PDUs long."""
    pixels = chance.randbytes(2 * chance.choice((64, 700, 4_000, 40_000)))
    return b"".join(
        (
            element(0x08, 0x16, "UI", SOP_CLASSES[modality]),
            element(0x08, 0x18, "UI", uid),
            element(0x08, 0x50, "SH", accession),
            element(0x08, 0x60, "CS", modality),
            element(0x10, 0x10, "PN", "HAYDN^JOSEPH"),
            element(0x10, 0x20, "LO", patient_id),
            element(0x20, 0x0D, "UI", study),
            element(0x20, 0x0E, "UI", series),
            element(0x28, 0x10, "US", struct.pack("<H", 2)),
            element(0x28, 0x11, "US", struct.pack("<H", len(pixels) // 4)),
            element(0x7FE0, 0x10, "OW", pixels),
        )
    )


def a_creation(*, accession: str, study: str, station: str, patient_id: str) -> bytes:
    """Encode the data set of an N-CREATE for the order of an accession number."""
    ds, step = Dataset(), Dataset()
    step.StudyInstanceUID = study
    step.AccessionNumber = accession
    step.RequestedProcedureID, step.ScheduledProcedureStepID = f"RP{accession}", f"SPS{accession}"
    step.RequestedProcedureDescription = step.ScheduledProcedureStepDescription = ""
    step.ReferencedStudySequence, step.ScheduledProtocolCodeSequence = [], []
    ds.ScheduledStepAttributesSequence = [step]
    ds.PatientID, ds.PatientName = patient_id, "HAYDN^JOSEPH"
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.Modality = "PPS1", station, station[:2]
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20261121", "090000"
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    for keyword in (
        "PatientBirthDate",
        "PatientSex",
        "PerformedStationName",
        "PerformedLocation",
        "StudyID",
        "PerformedProcedureStepDescription",
        "PerformedProcedureTypeDescription",
        "PerformedProcedureStepEndDate",
        "PerformedProcedureStepEndTime",
    ):
        setattr(ds, keyword, "")
    for keyword in (
        "ReferencedPatientSequence",
        "ProcedureCodeSequence",
        "PerformedProtocolCodeSequence",
        "PerformedSeriesSequence",
    ):
        setattr(ds, keyword, [])
    return pydicom_writes(ds, Syntax.EXPLICIT_LITTLE)


def an_end(status: str, *, series: str, images: tuple[str, ...] = ()) -> bytes:
    """Encode the data set of the final N-SET, with the images that were made."""
    ds, done = Dataset(), Dataset()
    done.ProtocolName, done.SeriesInstanceUID = "CHEST", series
    for keyword in ("PerformingPhysicianName", "OperatorsName", "SeriesDescription", "RetrieveAETitle"):
        setattr(done, keyword, "")
    done.ReferencedImageSequence, done.ReferencedNonImageCompositeSOPInstanceSequence = [], []
    for uid in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = SOP_CLASSES["CT"], uid
        done.ReferencedImageSequence.append(reference)
    ds.PerformedSeriesSequence = [done]
    ds.PerformedProcedureStepStatus = status
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20261121", "091500"
    return pydicom_writes(ds, Syntax.EXPLICIT_LITTLE)
