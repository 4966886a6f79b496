"""Real pixels: images that come inside the pydicom package, as a scanner of today would store them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
CR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
SECONDARY_CAPTURE_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.7"

STORAGE_CLASSES = (CT_IMAGE_STORAGE, MR_IMAGE_STORAGE, CR_IMAGE_STORAGE, SECONDARY_CAPTURE_IMAGE_STORAGE)

_PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "WindowCenter", "WindowWidth", "PixelData",
    "SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """What a scanner makes: the object, where its pixels are from, how it is labelled."""

    sop_class_uid: str
    file: str
    modality: str
    image_type: tuple[str, ...]


CT_SLICE = Kind(CT_IMAGE_STORAGE, "CT_small.dcm", "CT", ("ORIGINAL", "PRIMARY", "AXIAL"))
CT_LOCALIZER = Kind(CT_IMAGE_STORAGE, "CT_small.dcm", "CT", ("ORIGINAL", "PRIMARY", "LOCALIZER"))
MR_SLICE = Kind(MR_IMAGE_STORAGE, "MR_small.dcm", "MR", ("ORIGINAL", "PRIMARY", "OTHER"))
# The package has no plate larger than 16 x 16: a big grayscale picture stands in for one.
CR_PLATE = Kind(CR_IMAGE_STORAGE, "examples_overlay.dcm", "CR", ("ORIGINAL", "PRIMARY"))
SCREEN_SHOT = Kind(SECONDARY_CAPTURE_IMAGE_STORAGE, "MR_small.dcm", "OT", ("DERIVED", "SECONDARY"))


def make_image(kind: Kind, *, number: int, series_instance_uid: str, now: datetime) -> Dataset:
    """Make an object with real pixels and no patient yet: who it is of comes from the worklist."""
    original = _read(kind)
    image = Dataset()
    for keyword in _PIXELS:
        if keyword in original:
            image[keyword] = original[keyword]
    image.SOPClassUID = UID(kind.sop_class_uid)
    image.SOPInstanceUID = generate_uid()
    image.SeriesInstanceUID = series_instance_uid
    image.Modality = kind.modality
    image.ImageType = list(kind.image_type)
    image.InstanceNumber = number
    image.SeriesNumber = 1
    image.Manufacturer = "Demo"
    image.StudyDate = image.SeriesDate = image.ContentDate = now.strftime("%Y%m%d")
    image.StudyTime = image.SeriesTime = image.ContentTime = now.strftime("%H%M%S")
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def pixels_of(kind: Kind) -> npt.NDArray[np.generic]:
    """Answer the picture a scanner sends, decoded."""
    pixels: npt.NDArray[np.generic] = _read(kind).pixel_array
    return pixels


def _read(kind: Kind) -> Dataset:
    path = get_testdata_file(kind.file, download=False)
    if not isinstance(path, str):
        raise FileNotFoundError(f"pydicom does not carry {kind.file}")
    return dcmread(path)
