"""Says what to read of a header: what is always kept, and what rules ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

PIXEL_DATA: Final = 0x7FE00000
"""From here on there is nothing to read."""

KEPT_KEYWORDS: Final = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "StudyTime",
    "SeriesDate",
    "AcquisitionDate",
    "AcquisitionDateTime",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "InstitutionName",
    "ReferringPhysicianName",
    "StationName",
    "StudyDescription",
    "SeriesDescription",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "SliceThickness",
    "ProtocolName",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "ViewPosition",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyID",
    "SeriesNumber",
    "InstanceNumber",
    "Laterality",
    "ImageLaterality",
    "PatientIdentityRemoved",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BurnedInAnnotation",
    "RequestedProcedureID",
    "AnatomicRegionSequence.CodeValue",
    "ReferencedPerformedProcedureStepSequence.ReferencedSOPInstanceUID",
    "RequestAttributesSequence.ScheduledProcedureStepID",
    "RequestAttributesSequence.RequestedProcedureID",
    "RequestAttributesSequence.AccessionNumber",
)
"""What is kept of every object, whatever the rules ask."""


def known_keyword(keyword: str) -> str | None:
    """Answer the value representation of a DICOM keyword (PS3.6), or None when there is no such attribute."""
    tag = tag_for_keyword(keyword)
    if tag is None or not keyword:
        return None
    return dictionary_VR(tag).partition(" or ")[0]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One attribute to read, or a sequence with the attributes of its items."""

    key: str
    vr: str
    items: Mapping[int, Wanted] | None = None


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """What to read, by tag."""

    wanted: Mapping[int, Wanted]
    last_tag: int

    @classmethod
    def of(cls, keys: Iterable[str] = ()) -> ScanPlan:
        """Plan for what is always kept, and for the further keywords and one-level paths rules name."""
        wanted: dict[int, Wanted] = {}
        items: dict[int, dict[int, Wanted]] = {}
        for key in (*KEPT_KEYWORDS, *keys):
            head, _, rest = key.partition(".")
            tag, leaf = tag_for_keyword(head), tag_for_keyword(rest) if rest else None
            if tag is None or (rest and leaf is None):
                continue
            if leaf is None:
                wanted[tag] = Wanted(key, known_keyword(head) or "UN")
            else:
                items.setdefault(tag, {})[leaf] = Wanted(key, known_keyword(rest) or "UN")
                wanted[tag] = Wanted(head, "SQ", items[tag])
        return cls(wanted, min(max(wanted), PIXEL_DATA - 1))
